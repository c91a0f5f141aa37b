"""The hub: which files of a repository are wanted, and fetching them."""

import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

SIDECAR: Final = "nla_meta.yaml"
REPOSITORY: Final = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<folder>[\w.-]+(?:/[\w.-]+)*)/?)?"
)
FILES_AT_ONCE: Final = 4
"""Of each repository; what was begun of a file is lost where a fetch is ended, so that more would lose more."""


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


@dataclass(frozen=True)
class Wanted:
    """Some files of a checkpoint on the hub."""

    place: Place
    patterns: tuple[str, ...]
    """Of files in its folder."""

    @property
    def allowed(self) -> list[str]:
        """Form the patterns of its files, and of the sidecars above it: some runs have one for all their steps."""
        folder = self.place.folder
        if folder is None:
            return [*self.patterns]
        above = [SIDECAR if str(part) == "." else f"{part}/{SIDECAR}" for part in PurePosixPath(folder).parents]
        return [*(f"{folder}/{pattern}" for pattern in self.patterns), *above]

    @property
    def ignored(self) -> list[str]:
        """Form the patterns of what is in folders below it, as of other steps, and of the same weights once more."""
        folder = "" if self.place.folder is None else f"{self.place.folder}/"
        return [f"{folder}*/*" if folder else "*/*", f"{folder}consolidated*.safetensors"]

    def fetch(self, bars: type[Any] | None = None) -> Path:
        """Fetch what is not there yet; returns the folder of the repository's commit.

        Args:
            bars: class of the bars that are told of progress; None: nobody is.

        Raises:
            Exception: of many families: the hub's client, its transports and the disk have each their own.
        """
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

        from nla_launch.pair.bars import Bars

        try:
            return Path(self._ask(tqdm_class=bars or Bars().made))
        except (httpx.TransportError, OfflineModeIsEnabled, HfHubHTTPError) as error:
            try:  # a cache that an older client filled has all files and no listing of them
                return Path(self._ask(local_files_only=True))
            except LocalEntryNotFoundError:
                raise error from None

    def to_come(self) -> dict[str, int]:
        """Tell which files are not there yet, and how large they are; nothing where the hub cannot be asked."""
        from nla_launch.pair.bars import Bars

        try:
            files = self._ask(dry_run=True, tqdm_class=Bars().made)
        except Exception:  # as `fetch`, which tells
            return {}
        return {file.filename: file.file_size or 0 for file in files if file.will_download}

    def there(self, name: str) -> bool:
        """Whether a file is there."""
        from huggingface_hub import try_to_load_from_cache

        commit = resolved(self.place.repository, self.place.revision).resolved
        return isinstance(try_to_load_from_cache(self.place.repository, name, revision=commit), str)

    def _ask(self, **how: Any) -> Any:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            self.place.repository,
            revision=resolved(self.place.repository, self.place.revision),
            allow_patterns=self.allowed,
            ignore_patterns=self.ignored,
            max_workers=FILES_AT_ONCE,
            **how,
        )


@cache
def resolved(repository: str, revision: str | None) -> "ResolvedRevision":
    """Find the commit that a revision stands for; asked once, so that all files of a start are of one commit.

    Raises:
        Exception: as `Wanted.fetch` does.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError, RevisionResolutionError

    logging.getLogger("huggingface_hub").handlers.clear()  # it writes its lines itself, and hands them on as well
    try:
        return HfApi().resolve_revision(repository, revision=revision)
    except RevisionNotFoundError:
        raise
    except HfHubHTTPError as error:  # refused, or too busy: what is there is served
        try:
            return HfApi().resolve_revision(repository, revision=revision, local_files_only=True)
        except RevisionResolutionError:
            raise error from None


def refusal(error: Exception, place: Place) -> str:
    """Tell what the hub, or the way there, had against a fetch, and what helps."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    match error:
        case GatedRepoError():
            return "is gated: ask for access on its hub page, then log in with `hf auth login` or set HF_TOKEN"
        case RevisionNotFoundError():
            return f"has no revision {place.revision}: check its branches and tags on its hub page"
        case RepositoryNotFoundError():
            return "was not found on the hub: check the name, or log in if it is private (`hf auth login`)"
        case LocalEntryNotFoundError() | RevisionResolutionError():
            why = "" if error.__cause__ is None else f" ({_in_one_line(error.__cause__)})"
            mend = "check the network or give a local folder"
            return f"is not in the local cache and the hub cannot be reached{why}: {mend}"
        case _:
            return f"could not be fetched from the hub: {_in_one_line(error)}"


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
