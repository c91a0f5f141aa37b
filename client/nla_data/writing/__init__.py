"""Outputs in whole parts, and where a run goes on."""
