"""The host's `modules` package, in small. Import it as `modules` (never as `demo.modules`): see demo/__init__.py."""
