"""What is particular to the plan of a source. Imports nothing: the flags know it."""

from typing import Final

SOURCE_CONTEXT: Final = 8192
"""Tokens of the longest text that a source takes, where the user does not say and the model takes as many."""
