"""What knows the WebUI: nothing outside this package imports the host's `modules`."""
