"""An output over its life: begun, gone on with, finished. What it says of itself decides; runs never mix."""

import secrets
from collections.abc import Callable, Collection
from typing import Final, Self

import pyarrow as pa

from nla_client.calls.base import SEEDS
from nla_data.asking.totals import Totals
from nla_data.errors import UsageError
from nla_data.reading.files import at_once
from nla_data.writing.manifest import Manifest, PartState
from nla_data.writing.parts import read_state
from nla_data.writing.store import MANIFEST, Store

MANIFEST_KEY: Final = b"nla_manifest"
"""Where the one output file keeps the manifest."""


class Output:
    """An output that a run may write.

    Attributes:
        manifest: Of the run that began it.
        state: Where it goes on.
        index: Number of the next part.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store, self.manifest = store, manifest
        self.index, self.state = 0, PartState(run=manifest.run)
        if not manifest.finished and not manifest.settings.get("ray"):
            paths = store.parts()
            self.index = len(paths)
            self.state = self._state(paths[-1]) if paths else self.state

    def done(self) -> dict[int, Totals]:
        """What the parts count, by number, where each counts its own rows and they come in any order.

        Raises:
            UsageError: one is not whole, or of another run.
        """
        found = self.store.found_parts()
        states = at_once(self._state, found.values())
        return {index: state.totals for index, state in zip(found, states, strict=True)}

    def _state(self, path: str) -> PartState:
        state = read_state(self.store, path, self.manifest.run)
        if state is None:
            raise UsageError(f"{path} is of another run; begin anew in another place")
        return state

    @classmethod
    def open(cls, store: Store, wanted: Manifest, left_open: Collection[str] = ()) -> Self:
        """Begin an output, or go on with one that was begun with the same rows, settings and models.

        Args:
            store: Where.
            wanted: What it is to be; a seed that is None is drawn.
            left_open: Settings that are those of an output that is there, whatever they are.

        Raises:
            UsageError: it was begun with others, or is none of ours.
            StoppedError: it cannot be written.
        """
        begun = _read(store)
        if begun and (begun.finished or store.found_parts()):  # else nothing is bound to it yet
            begun.check_goes_on(wanted, store.out, left_open)
            if begun.finished and store.file:
                store.remove_parts()
            return cls(store, begun)
        if not begun and store.found_parts():
            raise UsageError(f"{store.out} has parts but no {MANIFEST}; begin anew in another place")
        if wanted.settings.get("seed", 0) is None:
            wanted.settings["seed"] = secrets.randbelow(SEEDS)
        store.write(MANIFEST, wanted.model_dump_json(indent=2).encode())
        return cls(store, wanted)

    def finish(self, totals: Totals, schema: pa.Schema, stopped: Callable[[], bool] = lambda: False) -> None:
        """Say that it is finished, or make the one file of its parts.

        Raises:
            StoppedError: it cannot be written, or `stopped` says so.
        """
        self.manifest = self.manifest.model_copy(update={"finished": True, "totals": totals})
        content = self.manifest.model_dump_json(indent=2).encode()
        if self.store.file:
            self.store.merge(
                schema.with_metadata({**(schema.metadata or {}), MANIFEST_KEY: content}), totals.written, stopped
            )
        else:
            self.store.write(MANIFEST, content)


def _read(store: Store) -> Manifest | None:
    """The manifest of what is there, if anything is."""
    if store.file and store.has_file():
        content = store.metadata(store.file).get(MANIFEST_KEY)
        if content is None:
            raise UsageError(f"{store.out} is there already, and not of this program; choose another output")
    else:
        content = store.read(MANIFEST)
    try:
        return Manifest.model_validate_json(content) if content else None
    except ValueError as error:
        raise UsageError(f"{store.out}: its manifest cannot be read; begin anew in another place") from error


def read_manifest(store: Store) -> Manifest:
    """The manifest of an output.

    Raises:
        UsageError: there is none.
    """
    manifest = _read(store)
    if manifest is None:
        raise UsageError(f"{store.out}: no output of nla verbalize, reconstruct, score, extract or explain")
    return manifest
