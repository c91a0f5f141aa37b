"""What is asked of a server for a piece of rows, and what comes of it."""
