"""What the clients return."""
