"""The clients for threads, made from the asynchronous ones by `make unasync`."""
