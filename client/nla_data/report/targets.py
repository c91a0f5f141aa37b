"""Where a page goes, with its plots in a folder beside it."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from nla_data.errors import UsageError
from nla_data.reading.files import reason
from nla_data.report.plots import Plot
from nla_data.report.results import Results

StrPath = str | os.PathLike[str]
_ENDINGS: Final = (".html", ".htm")
_PLOTS: Final = ("fve", "mse", "norm", "norm_against", "by_layer", "difference", "pairs")


def of(results: Results, to: str | None, other: Results | None = None) -> Path:
    """The page's path: as given, or beside the first output, by the name of it or of both.

    Raises:
        UsageError: it ends in something else, or the output is not on this machine.
    """
    if to is None and not results.store.local:
        raise UsageError(f"{results.store.out} is not on this machine: say with --to where the report goes")
    against = f"_against_{_place(other).stem}" if other else ""
    place = _place(results)
    path = Path(to).expanduser() if to else Path(place.with_name(f"{place.stem}{against}.html"))
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--to {path}: must end in .html")
    return path


def files(target: Path) -> Path:
    """The folder of its plots."""
    return target.with_name(f"{target.stem}_files")


def write(target: Path, html: str, drawn: Sequence[Plot]) -> None:
    """Write page and plots.

    Raises:
        UsageError: they cannot be written.
    """
    folder = files(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _PLOTS:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
        for plot in drawn:
            (folder / f"{plot.name}.png").write_bytes(plot.png)
        target.write_text(html, "utf-8")
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {reason(error)}") from error


def _place(results: Results) -> PurePosixPath:
    """The output; a folder as if it had an ending, for its name may have dots."""
    return PurePosixPath(results.store.file or f"{PurePosixPath(results.store.folder)}.parquet")
