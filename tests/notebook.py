"""Runs the example notebook. As a command, writes it anew with what came: `python -m tests.notebook URL`.

The server is one of the demo pair, as the notebook says.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

import nbformat
from nbclient import NotebookClient

PATH: Final = Path(__file__).parents[1] / "client" / "examples" / "explain.ipynb"
METADATA: Final = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""What does not differ from machine to machine."""


def read() -> Any:
    """The notebook as it is stored."""
    return nbformat.read(PATH, as_version=4)


def run(url: str) -> Any:
    """Run it against a server, and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = read()
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False)
    client.execute(env={**os.environ, "NLA_URL": url, "NLA_API_KEY": ""}, cwd=str(PATH.parent))
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


if __name__ == "__main__":
    nbformat.write(run(sys.argv[1]), PATH)
