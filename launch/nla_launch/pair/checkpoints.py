"""From what a user writes to a local folder: local paths, folders inside packages, what is made, hub repositories."""

import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from nla_launch.errors import LaunchError
from nla_launch.pair.hub import SIDECAR, Place, Wanted, refusal
from nla_launch.pair.made import MADE, MODEL, made
from nla_launch.pair.shards import Part, wanted_files
from nla_launch.pair.sources import AdapterSource, Source

PACKAGE: Final = "package:"
VALUE_HEAD: Final = "value_head.safetensors"
SINGLE: Final = "ar_lora_value_head.safetensors"
"""A reconstructor's adapter and its value head in one file."""
SINGLE_CONFIG: Final = "ar_meta.json"
Need = Literal["plan", "all but weights", "all"]
ALL_WEIGHTS: Final = "*.safetensors"
WITHOUT_WEIGHTS: Final = ("*.json", "*.yaml", "*.model", "*.txt", "*.jinja")
PATTERNS: Final[dict[Need, tuple[str, ...]]] = {
    "plan": ("config.json", SIDECAR, f"*.{SIDECAR}", "nla_config.json", "adapter_config.json", SINGLE_CONFIG),
    "all but weights": WITHOUT_WEIGHTS,
    "all": (ALL_WEIGHTS, *WITHOUT_WEIGHTS),
}
CODE: Final = "*.py"

TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
MARKS: Final = ("config.json", "adapter_config.json", SINGLE_CONFIG, VALUE_HEAD)
"""Files of which a checkpoint has one."""


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
    revision: str | None = None
    """The commit that it is of, in a repository of the hub."""
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


def find(source: Source, need: Need, *, code: bool = False, part: Part | None = None) -> Checkpoint:
    """Find a checkpoint, or a base and its adapters; see `locate`.

    Raises:
        LaunchError: as `locate` does.
    """
    if isinstance(source, str):
        return locate(source, need, code=code, part=part)
    base = locate(source.base, need, code=code, part=part)
    found = [(given, locate(_folder_of(given), need)) for given in source.stated]
    adapters = tuple(Adapter(given.source, one.folder, one.root, given.use_rslora) for given, one in found)
    top = found[-1][1] if found else base
    return replace(base, name=top.name, source=str(source), revision=top.revision, base=source.base, adapters=adapters)


def _folder_of(adapter: AdapterSource) -> str:
    """A single file stands for its folder."""
    return re.sub(f"[/:]{re.escape(SINGLE)}$", "", adapter.source)


def locate(source: str, need: Need, *, code: bool = False, part: Part | None = None) -> Checkpoint:
    """Find a checkpoint's folder, downloading it from the hub where it is a repository.

    Args:
        source: what the user or the preset wrote.
        need: for a plan, a few small files, of which none may be there; else all must be, with weights or without.
        code: fetch the checkpoint's own Python code too.
        part: what of the model is needed, of a base where the source is one with adapters: a file that by the index
            holds nothing of it is not fetched. None: all there is.

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
    place = _on_hub(source)
    if place is None:
        raise LaunchError(f"{source} is neither a folder nor a hub repository (owner/name[@revision][:folder])")
    root = _from_hub(_wanted(place, need, code=code, part=part), must=need != "plan")
    if root is None:
        return Checkpoint(place.name, source, None)
    return Checkpoint(place.name, source, root / (place.folder or ""), root, root.name)


def wanted_of(source: Source, *, code: bool = False, part: Part | None = None) -> list[Wanted]:
    """Tell which files of the hub a checkpoint takes, weights and all; its small ones are there.

    Args:
        source: what the user or the preset wrote.
        code: see `locate`.
        part: see `locate`.
    """
    if isinstance(source, str):
        place = _on_hub(source)
        return [] if place is None else [_wanted(place, "all", code=code, part=part)]
    adapters = [one for given in source.stated for one in wanted_of(_folder_of(given))]
    return [*wanted_of(source.base, code=code, part=part), *adapters]


def _on_hub(source: str) -> Place | None:
    return None if source.startswith((PACKAGE, MADE)) or Path(source).is_dir() else Place.read(source)


def _in_package(source: str) -> Path:
    package, _, rest = source.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(files(package))) / rest
    except ModuleNotFoundError:
        raise LaunchError(f"{source}: there is no installed package {package}") from None


def _wanted(place: Place, need: Need, *, code: bool, part: Part | None) -> Wanted:
    """Tell which files are needed; where only a part of a model is, those that the index names for it."""
    patterns = (*PATTERNS[need], CODE) if code else PATTERNS[need]
    if need != "all" or part is None:
        return Wanted(place, patterns)
    small = tuple(pattern for pattern in patterns if pattern != ALL_WEIGHTS)
    root = _from_hub(Wanted(place, small), must=True)
    needed = None if root is None else wanted_files(root / (place.folder or ""), part)
    return Wanted(place, patterns if needed is None else (*needed, *part.beside, *small))


def _from_hub(wanted: Wanted, *, must: bool) -> Path | None:
    """Fetch a checkpoint's files; returns the folder of its repository's commit, None where they are not there."""
    place = wanted.place
    try:
        root = wanted.fetch()
    except Exception as error:  # the hub's client, its transports and the disk raise errors of many families
        problem = refusal(error, place)
    else:
        marks = Wanted(place, MARKS)
        if any((root / (place.folder or "") / mark).is_file() for mark in MARKS) or marks.to_come():
            return root
        problem = f"has no config.json{'' if place.folder is None else f' in its folder {place.folder}'}"
    if not must:
        return None
    raise LaunchError(f"{place.repository} {problem}")
