"""What the gateway tells of itself: metrics, traces, log lines."""
