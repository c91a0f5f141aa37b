"""The output: a folder of parts, each whole or not there, with one manifest; or one file, made of them at the end.

On a local disk a part is written beside its name and renamed; on object storage a put is whole or nothing.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from nla_data.errors import StoppedError, UsageError
from nla_data.reading.conversion import convert
from nla_data.reading.files import locate, reason
from nla_data.writing import lock
from nla_data.writing.lease import Claim, Lease

MANIFEST: Final = "_nla.json"
PARTS_SUFFIX: Final = ".parts"
_COPY_BYTES: Final = 8 * 2**20
_PART: Final = re.compile(r"part-(\d{6,})\.parquet")


class Store:
    """Where the output goes.

    Args:
        out: A folder, or a file that ends in .parquet; a path or a URI.
    """

    def __init__(self, out: str) -> None:
        self._filesystem, path = locate(out)
        self.out = out
        self.file: str | None = path if path.endswith(".parquet") else None
        self.folder = f"{path}{PARTS_SUFFIX}" if self.file else path.rstrip("/")
        self.local = isinstance(self._filesystem, fs.LocalFileSystem)
        self._claim: Claim | None = None

    @contextlib.contextmanager
    def locked(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Keep a second run away. To wait for one that may be dead ends where `stopped` says so.

        Raises:
            UsageError: there is one already, or the output cannot be written.
            StoppedError: it was stopped, or the storage is gone.
        """
        self._check_kind()
        if not self.local:
            with self._leased(stopped):
                yield
            return
        with (
            lock.folder(Path(self.folder), self.out) as is_locked,
            contextlib.nullcontext() if is_locked else self._leased(stopped),
        ):
            self._tidy()  # not before it is sure that nobody else is at it
            yield

    def _check_kind(self) -> None:
        """A folder in a file's place, or a file in a folder's, is noticed before the work and not after it."""
        if self.file and self._info(self.file).type == fs.FileType.Directory:
            raise UsageError(f"{self.out}: is a folder, not a file; choose another output")
        if self._info(self.folder).type == fs.FileType.File:
            raise UsageError(
                f"{self.out}: is a file, not a folder, and does not end in .parquet; choose another output"
            )

    @contextlib.contextmanager
    def _leased(self, stopped: Callable[[], bool]) -> Iterator[None]:
        try:
            lease = Lease(self._filesystem, self.folder, self.out, self._write)
            with lease.held(stopped) as self._claim:
                yield
        finally:
            self._claim = None

    def _tidy(self) -> None:
        """Remove what a killed run was in the middle of writing."""
        for left in Path(self.folder).glob(".*.*"):
            if left.suffix[1:].isdigit():  # a process's; see `_put_local`
                left.unlink(missing_ok=True)

    def has_file(self) -> bool:
        """Whether the one output file is there."""
        return self.file is not None and self._exists(self.file)

    def paths(self) -> list[str]:
        """Where anything of the output may be."""
        return [path for path in (self.file, self.folder) if path]

    def parts(self) -> list[str]:
        """Paths of the parts, in order.

        Raises:
            UsageError: one in the middle is missing.
        """
        found = self.found_parts()
        missing = set(range(len(found))) - set(found)
        if missing:
            raise UsageError(f"{self.out}: part {min(missing)} is missing; begin anew in another place")
        return list(found.values())

    def found_parts(self) -> dict[int, str]:
        """Paths of the parts that are there, by number, in order."""
        infos = self._info(fs.FileSelector(self.folder, allow_not_found=True))
        found = {int(match[1]): info.path for info in infos if (match := _PART.fullmatch(info.base_name))}
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes | None:
        """A small file of the folder, or None where there is none."""
        path = f"{self.folder}/{name}"
        if not self._exists(path):
            return None
        with self._filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def metadata(self, path: str) -> dict[bytes, bytes]:
        """What a part or the output file says of itself.

        Raises:
            UsageError: it is no whole parquet file.
        """
        try:
            with self._filesystem.open_input_file(path) as opened:
                return dict(pq.read_metadata(opened).metadata or {})
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: not a whole part: {reason(error)}; begin anew in another place") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, whole or not at all.

        Raises:
            StoppedError: it cannot be written now: the disk is full, the storage is gone.
        """
        if self._claim:
            self._claim.check()
        self._write(name, content)

    def write_beside(self, ending: str, content: bytes) -> None:
        """Write a file beside the output, named like it with another ending after it; as `write`."""
        if self._claim:
            self._claim.check()
        self._put(f"{self.file or self.folder}{ending}", lambda stream: stream.write(content))

    def _write(self, name: str, content: bytes) -> None:
        self._put(f"{self.folder}/{name}", lambda stream: stream.write(content))

    def write_part(self, index: int, table: Any) -> None:
        """Write a part, as `write`."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.write(f"part-{index:06d}.parquet", buffer.getvalue())

    def merge(self, schema: pa.Schema, rows: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Make the one output file of all parts, whole or not at all, and remove the parts.

        Args:
            schema: Its columns.
            rows: How many it must have.
            stopped: Whether it is still wanted.

        Raises:
            UsageError: the parts have other rows.
            StoppedError: it cannot be written now, or `stopped` says so.
        """
        if self.file is None:
            return
        paths = self.parts()
        found = 0

        def write(stream: Any) -> None:
            nonlocal found
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                for path in paths:
                    if stopped():
                        raise StoppedError(f"{self.out}: stopped while the parts were made one file")
                    with self._filesystem.open_input_file(path) as opened:
                        table = _as(pq.read_table(opened), schema)
                    writer.write_table(table)
                    found += table.num_rows
            if found != rows:
                raise UsageError(f"{self.out}: its parts have {found} rows for {rows}; begin anew in another place")
            if self._claim:
                self._claim.check()

        self._put(self.file, write)
        self.remove_parts()

    def remove_parts(self) -> None:
        """Remove the folder of parts beside the one output file."""
        with contextlib.suppress(OSError):
            self._filesystem.delete_dir(self.folder)

    def open(self, path: str) -> Any:
        """Open a part or the output file for reading."""
        return self._filesystem.open_input_file(path)

    def _exists(self, path: str) -> bool:
        return bool(self._info(path).type == fs.FileType.File)

    def _info(self, which: Any) -> Any:
        try:
            return self._filesystem.get_file_info(which)
        except OSError as error:
            raise StoppedError(f"{self.out}: {reason(error)}") from error

    def _put(self, path: str, write: Any) -> None:
        try:
            self._put_local(Path(path), write) if self.local else self._put_remote(path, write)
        except (OSError, pa.ArrowException) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            mend = "make room" if full else "mend it"
            again = f"{mend}, and run the same command again"
            raise StoppedError(f"{path}: cannot be written: {reason(error)}; {again}") from error

    def _put_local(self, path: Path, write: Any) -> None:
        # In the folder of the parts, which the next run tidies, whatever ends this one.
        beside = Path(self.folder, f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _put_remote(self, path: str, write: Any) -> None:
        # All of it is made before the upload starts: closing a stream after a failure would put half of it there.
        with tempfile.TemporaryFile() as made:
            write(made)
            made.seek(0)
            with self._filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(made, stream, _COPY_BYTES)


def _as(table: Any, schema: pa.Schema) -> Any:
    """A table with that schema's types; pyarrow's own cast of tables makes invalid ones of some lists."""
    columns = [
        pa.chunked_array([convert(chunk, field.type) for chunk in table[field.name].chunks], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
