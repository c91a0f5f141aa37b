"""The README pages: their snippets, links and headings, and of which kind each snippet is. One test runs each kind.

A new snippet that is of no kind, or a kind that no test asks for, fails in `test_pages.py`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("client", "configs", "docker", "launch", "server", "tests")
PAGES: Final = [ROOT / "README.md", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md")))]
ADDRESS: Final = "http://127.0.0.1:8000"
COMMENT: Final = re.compile(r"\s{2,}# .*$")
VARIABLES: Final = re.compile(r"^(?:\w+=\S* )*")
MARKDOWN: Final = MarkdownIt("commonmark").enable("table")


class Snippet(NamedTuple):
    """One command of a `bash` block, or the whole of any other block that is not an output."""

    page: str
    language: str
    text: str
    shown: str | None
    """The block right below, which is this one's output."""

    @property
    def program(self) -> str:
        """What a command runs; empty for anything else."""
        return VARIABLES.sub("", self.text).split()[0] if self.language == "bash" else ""

    def runs(self, *programs: str) -> bool:
        return self.program in programs

    def has(self, language: str, text: str = "") -> bool:
        return self.language == language and text in self.text

    @property
    def needs_a_source(self) -> bool:
        """Whether it calls what begins with a text."""
        return re.search(r"(?:/|\bnla\.)(?:tokenize|extract|explain)\b", self.text) is not None


CLUSTER: Final = "docker/kubernetes/"

KINDS: Final[dict[str, Callable[[Snippet], bool]]] = {
    "curl": lambda it: it.runs("curl") and not it.needs_a_source,
    "curl with texts": lambda it: it.runs("curl") and it.needs_a_source,
    "nla": lambda it: it.runs("nla"),
    "nla-serve": lambda it: it.runs("nla-serve"),
    "refusal": lambda it: it.has("console", "$ nla-serve"),
    "adapters": lambda it: it.has("yaml", "adapters:") and "name:" not in it.text,
    "inventory": lambda it: it.has("yaml", "gpus:"),
    "keys": lambda it: it.has("yaml", "  key:"),
    "pairs": lambda it: it.has("yaml", "av_url:"),
    "preset": lambda it: it.has("yaml") and it.text.startswith("name:"),
    "nla-convert": lambda it: it.runs("nla-convert"),
    "make demo": lambda it: it.text == "make demo",
    "make": lambda it: it.runs("make") and it.text != "make demo",
    "pytest": lambda it: it.has("bash", "python -m pytest"),
    "training": lambda it: it.has("bash", "python -m nla_launch."),
    "python": lambda it: it.has("python", ADDRESS) and not it.needs_a_source,
    "python with texts": lambda it: it.has("python", ADDRESS) and it.needs_a_source,
    "activations": lambda it: it.has("python", "def activations("),
    "tree": lambda it: it.has("text", "nla_client/wire/"),
    "secrets": lambda it: it.runs("mkdir", "openssl", "printf", "chmod") and CLUSTER not in it.text,
    "cluster's secrets": lambda it: it.runs("mkdir", "openssl", "printf") and CLUSTER in it.text,
    "cluster": lambda it: it.runs("kubectl"),
    "compose": lambda it: it.has("bash", "docker compose"),
    "slurm": lambda it: it.has("bash", "sbatch "),
    "image": lambda it: it.runs("docker") and "docker compose" not in it.text,
}
COMPARED: Final = ("curl", "curl with texts", "python", "python with texts", "make demo")
"""Kinds whose outputs are compared with what is shown below them."""


def kinds_of(snippet: Snippet) -> list[str]:
    return [kind for kind, fits in KINDS.items() if fits(snippet)]


def of_kind(kind: str) -> list[Snippet]:
    """All snippets of a kind, page by page, in their order."""
    return [snippet for page in PAGES for snippet in snippets(page.read_text(), name(page)) if KINDS[kind](snippet)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def snippets(page: str, name: str) -> Iterator[Snippet]:
    """Cut a page's text into its snippets, each with its output."""
    tokens = MARKDOWN.parse(page)
    outputs = {index for index in range(1, len(tokens)) if _is_output(tokens[index].info, tokens[index - 1].info)}
    for index, token in enumerate(tokens):
        if token.type not in ("fence", "code_block") or index in outputs:
            continue
        shown = tokens[index + 1].content if index + 1 in outputs else None
        texts = commands(token.content) if token.info == "bash" else [token.content]
        for text in texts:
            yield Snippet(name, token.info, text, shown if text is texts[-1] else None)


def _is_output(language: str, above: str) -> bool:
    return language in ("json", "text") and above in ("bash", "python")


def commands(block: str) -> list[str]:
    lines = block.replace("\\\n", " ").splitlines()
    return [COMMENT.sub("", line).strip() for line in lines if line.strip()]


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures."""
    inline = [child for token in MARKDOWN.parse(page.read_text()) for child in token.children or []]
    return [str(target) for token in inline if (target := token.attrGet("href") or token.attrGet("src"))]


def anchors(page: Path) -> list[str]:
    """Of a page's headings, formed as forges do."""
    tokens = MARKDOWN.parse(page.read_text())
    titles = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def run(command: str, folder: Path = ROOT, **environment: str) -> str:
    """Run a command as a reader would, from the repository's root, with this environment's programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False, timeout=400,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
