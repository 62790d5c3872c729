"""Commands about modules as files: models, inspect, convert, download."""
