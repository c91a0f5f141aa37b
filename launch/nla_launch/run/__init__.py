"""Processes started, watched, started again, stopped."""
