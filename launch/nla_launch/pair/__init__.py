"""What is to be served, and whether it can be."""
