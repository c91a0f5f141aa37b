"""Which engine runs where, with how much memory, by which command."""
