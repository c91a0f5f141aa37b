"""From what a user writes to a local folder: local paths, folders inside packages, what is made, hub repositories."""

import logging
import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Self

from nla_launch.errors import LaunchError
from nla_launch.pair.made import MADE, MODEL, made
from nla_launch.pair.shards import wanted_files
from nla_launch.pair.sources import AdapterSource, Source

logger = logging.getLogger(__name__)

PACKAGE: Final = "package:"
SIDECAR: Final = "nla_meta.yaml"
VALUE_HEAD: Final = "value_head.safetensors"
SINGLE: Final = "ar_lora_value_head.safetensors"
"""A reconstructor's adapter and its value head in one file."""
SINGLE_CONFIG: Final = "ar_meta.json"
REPOSITORY: Final = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<folder>[\w.-]+(?:/[\w.-]+)*)/?)?"
)
Need = Literal["plan", "all but weights", "all"]
ALL_WEIGHTS: Final = "*.safetensors"
WITHOUT_WEIGHTS: Final = ["*.json", "*.yaml", "*.model", "*.txt", "*.jinja"]
PATTERNS: Final[dict[Need, list[str]]] = {
    "plan": ["config.json", SIDECAR, f"*.{SIDECAR}", "nla_config.json", "adapter_config.json", SINGLE_CONFIG],
    "all but weights": WITHOUT_WEIGHTS,
    "all": [ALL_WEIGHTS, *WITHOUT_WEIGHTS],
}
CODE: Final = ["*.py"]

TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
MARKS: Final = ("config.json", "adapter_config.json", SINGLE_CONFIG, VALUE_HEAD)
"""Files of which a folder has one, if anything was fetched into it."""


@dataclass(frozen=True)
class Adapter:
    """What is merged into a base: its folder, where that is known."""

    source: str
    folder: Path | None
    root: Path | None = None
    """Of the repository that the folder is in."""
    use_rslora: bool | None = None
    """As the user states it, where its own files do not."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: the name that answers carry, and its folder where that is known."""

    name: str
    source: str
    folder: Path | None
    """Of its weights and config.json; the base's, where it is put together."""
    root: Path | None = None
    """Of the repository that the folder is in; a sidecar may stand anywhere between."""
    base: str | None = None
    """The base's source; None: it is whole."""
    adapters: tuple[Adapter, ...] = ()
    """Merged into the base, each on top of those before it."""

    @property
    def model_path(self) -> Path:
        """What an engine loads."""
        return self.folder or Path(self.base or self.source)

    @property
    def adapter_folders(self) -> tuple[Path, ...]:
        """Those of its adapters that are known."""
        return tuple(one.folder for one in self.adapters if one.folder is not None)

    @property
    def places(self) -> list[tuple[Path, Path | None]]:
        """Where its files are, those that come first first: adapters, the last one at the top, then the base.

        Each folder with its repository's.
        """
        all_of_them = [*((one.folder, one.root) for one in reversed(self.adapters)), (self.folder, self.root)]
        return [(folder, root) for folder, root in all_of_them if folder is not None]

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer is."""
        found = (folder for folder, _ in self.places if any((folder / name).is_file() for name in TOKENIZERS))
        return next(found, self.model_path)


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is on the hub: `owner/name[@revision][:folder]`."""

    repository: str
    revision: str | None
    folder: str | None

    @classmethod
    def read(cls, source: str) -> Self | None:
        """Read it; None for what is none."""
        match = None if source.startswith(".") else REPOSITORY.fullmatch(source)
        if match is None or {".", ".."} & set((match["folder"] or "").split("/")):
            return None
        return cls(match["name"], match["revision"], match["folder"])

    @property
    def name(self) -> str:
        """What answers carry. Without a colon, which SGLang takes for an adapter's."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repository}{revision}" + ("" if self.folder is None else f"/{self.folder}")

    def allowed(self, patterns: list[str]) -> list[str]:
        """Form the patterns of its files, and of the sidecars above it: some runs have one for all their steps."""
        if self.folder is None:
            return patterns
        above = [SIDECAR if str(part) == "." else f"{part}/{SIDECAR}" for part in PurePosixPath(self.folder).parents]
        return [*(f"{self.folder}/{pattern}" for pattern in patterns), *above]

    @property
    def ignored(self) -> list[str]:
        """Form the pattern of what is in folders below it: other checkpoints, as of other steps."""
        return ["*/*" if self.folder is None else f"{self.folder}/*/*"]


def find(source: Source, need: Need, *, code: bool = False, blocks: int | None = None) -> Checkpoint:
    """Find a checkpoint, or a base and its adapters; see `locate`.

    Raises:
        LaunchError: as `locate` does.
    """
    if isinstance(source, str):
        return locate(source, need, code=code, blocks=blocks)
    base = locate(source.base, need, code=code)
    found = [(given, locate(_folder_of(given), need)) for given in source.stated]
    adapters = tuple(Adapter(given.source, one.folder, one.root, given.use_rslora) for given, one in found)
    name = found[-1][1].name if found else base.name
    return replace(base, name=name, source=str(source), base=source.base, adapters=adapters)


def _folder_of(adapter: AdapterSource) -> str:
    """A single file stands for its folder."""
    return re.sub(f"[/:]{re.escape(SINGLE)}$", "", adapter.source)


def locate(source: str, need: Need, *, code: bool = False, blocks: int | None = None) -> Checkpoint:
    """Find a checkpoint's folder, downloading it from the hub where it is a repository.

    Args:
        source: what the user or the preset wrote.
        need: for a plan, a few small files, of which none may be there; else all must be, with weights or without.
        code: fetch the checkpoint's own Python code too.
        blocks: of the model's blocks, so many are needed, from the first, with the embedding table and no head: a file
            that by the index holds only others is not fetched. None: all there is.

    Raises:
        LaunchError: no such folder, repository, revision or folder in it, or no access to it.
    """
    if source.startswith(PACKAGE):
        inside = _in_package(source)
        return Checkpoint("-".join(inside.parts[-2:]), source, inside)
    if source.startswith(MADE):
        ready = made(source.removeprefix(MADE), planned=need == "plan")
        return Checkpoint(f"{MODEL}-{ready.name}", source, ready)
    if Path(source).is_dir():
        return Checkpoint(Path(source).resolve().name, source, Path(source).resolve())
    place = Place.read(source)
    if place is None:
        raise LaunchError(f"{source} is neither a folder nor a hub repository (owner/name[@revision][:folder])")
    if need != "plan":
        logger.info("fetching %s from the hub (what is there already is kept)", place.name)
    patterns = [*PATTERNS[need], *(CODE if code else [])]
    if need == "all" and blocks is not None:
        patterns = _without_others(place, patterns, blocks)
    root = _from_hub(place, patterns, must=need != "plan")
    folder = root if root is None or place.folder is None else root / place.folder
    return Checkpoint(place.name, source, folder, root)


def _in_package(source: str) -> Path:
    package, _, rest = source.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(files(package))) / rest
    except ModuleNotFoundError:
        raise LaunchError(f"{source}: there is no installed package {package}") from None


def _without_others(place: Place, patterns: list[str], blocks: int) -> list[str]:
    """Fetch all but weights, and put the names of those files of weights that are needed in the place of all."""
    small = [pattern for pattern in patterns if pattern != ALL_WEIGHTS]
    root = _from_hub(place, small, must=True)
    wanted = None if root is None else wanted_files(root / (place.folder or ""), blocks)
    return patterns if wanted is None else [*wanted, *small]


def _from_hub(place: Place, patterns: list[str], *, must: bool) -> Path | None:
    """Fetch a checkpoint's files; returns the folder of its repository, None where they are not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        allowed, ignored = place.allowed(patterns), place.ignored
        root = Path(
            snapshot_download(
                place.repository, revision=place.revision, allow_patterns=allowed, ignore_patterns=ignored
            )
        )
        if any((root / (place.folder or "") / mark).is_file() for mark in MARKS):
            return root
        problem = f"has no config.json{'' if place.folder is None else f' in its folder {place.folder}'}"
    except GatedRepoError:
        problem = "is gated: ask for access on its hub page, then log in with `hf auth login` or set HF_TOKEN"
    except RevisionNotFoundError:
        problem = f"has no revision {place.revision}: check its branches and tags on its hub page"
    except RepositoryNotFoundError:
        problem = "was not found on the hub: check the name, or log in if it is private (`hf auth login`)"
    except LocalEntryNotFoundError:
        problem = "is not in the local cache and the hub cannot be reached: check the network or give a local folder"
    except Exception as error:  # the hub's client, its transports and the disk raise errors of many families
        problem = f"could not be fetched from the hub: {' '.join(str(error).split())[:300]}"
    if not must:
        return None
    raise LaunchError(f"{place.repository} {problem}")
