"""What an NLA pair is: its sidecar, its prompts, its two directions, and the proof that they work."""
