"""From HTTP to a job and back."""
