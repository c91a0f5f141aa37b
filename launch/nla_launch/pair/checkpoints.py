"""From what a user writes to a local folder: local paths, folders inside packages, hub repositories."""

import logging
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from nla_launch.errors import LaunchError

logger = logging.getLogger(__name__)

PACKAGE: Final = "package:"
REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
Need = Literal["plan", "all but weights", "all"]
WITHOUT_WEIGHTS: Final = ["*.json", "*.yaml", "*.model", "*.txt", "*.jinja"]
PATTERNS: Final[dict[Need, list[str]]] = {
    "plan": ["config.json", "nla_meta.yaml"],
    "all but weights": WITHOUT_WEIGHTS,
    "all": ["*.safetensors", *WITHOUT_WEIGHTS],
}
CODE: Final = ["*.py"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: the name that answers carry, and its folder where that is known."""

    name: str
    source: str
    folder: Path | None


def locate(source: str, need: Need, *, code: bool = False) -> Checkpoint:
    """Find a checkpoint's folder, downloading it from the hub where it is a repository.

    Args:
        source: what the user or the preset wrote.
        need: for a plan, a few small files, of which none may be there; else all must be, with weights or without.
        code: fetch the checkpoint's own Python code too.

    Raises:
        LaunchError: no such folder or repository, or no access to it.
    """
    if source.startswith(PACKAGE):
        folder = _in_package(source)
        return Checkpoint("-".join(folder.parts[-2:]), source, folder)
    if Path(source).is_dir():
        return Checkpoint(Path(source).resolve().name, source, Path(source).resolve())
    if source.startswith(".") or not REPOSITORY.fullmatch(source):
        raise LaunchError(f"{source} is neither a folder nor a hub repository (owner/name)")
    patterns = [*PATTERNS[need], *(CODE if code else [])]
    return Checkpoint(source, source, _from_hub(source, patterns, must=need != "plan"))


def _in_package(source: str) -> Path:
    package, _, rest = source.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(files(package))) / rest
    except ModuleNotFoundError:
        raise LaunchError(f"{source}: there is no installed package {package}") from None


def _from_hub(repository: str, patterns: list[str], *, must: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        if must:
            logger.info("fetching %s from the hub (what is there already is kept)", repository)
        folder = Path(snapshot_download(repository, allow_patterns=patterns))
        return folder if (folder / "config.json").is_file() else None
    except GatedRepoError:
        problem = "is gated: ask for access on its hub page, then log in with `hf auth login` or set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = "was not found on the hub: check the name, or log in if it is private (`hf auth login`)"
    except LocalEntryNotFoundError:
        problem = "is not in the local cache and the hub cannot be reached: check the network or give a local folder"
    except Exception as error:  # the hub's client, its transports and the disk raise errors of many families
        problem = f"could not be fetched from the hub: {' '.join(str(error).split())[:300]}"
    if not must:
        return None
    raise LaunchError(f"{repository} {problem}")
