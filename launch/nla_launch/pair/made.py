"""The demo's checkpoints: made once, in a cache folder, of its base model's package and of what was trained here."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from nla_launch.errors import LaunchError

logger = logging.getLogger(__name__)

MADE: Final = "demo:"
"""Before the name of one of them."""
NAMES: Final = ("base", "verbalizer", "reconstructor")
MODEL: Final = "smollm2-135m-l20"
JOINING: Final = "nla_launch.demo.joining"
"""Run in a process of its own: it imports torch and transformers."""
PARTS: Final = Path(str(files("nla_launch"))) / "demo"
RECIPE: Final = ("base.py", "joining.py", "prompts.py", "sidecar.py")
"""What decides how they come out, beside the adapters."""
KINDS: Final = frozenset({".json", ".jinja", ".safetensors"})
"""Files in the folders beside it that are put in."""
DIGESTS: Final = "sha256.json"


def made(name: str, *, planned: bool = False) -> Path:
    """Find one of the checkpoints; all are made first where they are not there, or not as they were made.

    Args:
        name: its.
        planned: it is only planned with: that they are there is enough.

    Raises:
        LaunchError: there is no such one, or they cannot be made.
    """
    if name not in NAMES:
        raise LaunchError(f"{MADE}{name}: the demo has {', '.join(MADE + known for known in NAMES)}")
    folder = cache_folder() / f"{MODEL}-{_ingredients()[:16]}"
    if not (planned and (folder / DIGESTS).is_file()):
        ensure(folder)
    return folder / name


def recipe(name: str) -> str:
    """What tells one of them from those that are made of something else: the same on every machine (sha256)."""
    return hashlib.sha256(f"{name}\0{_ingredients()}".encode()).hexdigest()


@cache
def ensure(folder: Path) -> None:
    """Make them where they are not there, or not as they were made: 720 MB are read, once a start.

    Raises:
        LaunchError: they cannot be made.
    """
    if not _is_whole(folder):
        logger.info("making the demo's checkpoints in %s (once, up to a minute)", folder)
        _make(folder)


@cache
def _ingredients() -> str:
    """The digest of all that they are made of, but for the base model."""
    put_in = sorted(path for path in PARTS.glob("*/*") if path.suffix in KINDS)
    return _digest_of([*(PARTS / name for name in RECIPE), *put_in])


def cache_folder() -> Path:
    """Find where they are kept, as the XDG base directory specification says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nla-serve"


def _make(folder: Path) -> None:
    """Make them beside their place, then put them there whole; who comes second leaves what is there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as half:
            _join(Path(half))
            if not _is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
                Path(half).rename(folder)
    except OSError as error:
        if not _is_whole(folder):
            raise LaunchError(f"the demo's checkpoints could not be written: {error}") from None


def _join(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", JOINING, str(PARTS), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        raise LaunchError(f"the demo's checkpoints could not be made: {last.rpartition('Error: ')[2]}")
    digests = {str(path.relative_to(folder)): _digest_of([path]) for path in _files(folder)}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def _is_whole(folder: Path) -> bool:
    """Whether each file is as it was made."""
    try:
        digests: dict[str, str] = json.loads((folder / DIGESTS).read_text())
        return {str(path.relative_to(folder)): _digest_of([path]) for path in _files(folder)} == digests
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def _digest_of(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
