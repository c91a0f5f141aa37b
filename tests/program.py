"""`python -m tests.program PROGRAM ARGUMENTS`: `python -c`, for what is forked with SGLang imported (see warm.py)."""

import sys

_, program, *sys.argv[1:] = sys.argv
exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102 - of a test
