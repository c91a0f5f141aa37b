"""The clients for tasks of an event loop. `make unasync` makes the synchronous ones from these files."""
