"""`make endurance`: many vectors through `nla`, killed again and again, and the verbalizer with it; and undisturbed.

Both outputs must hold the same rows. Prints what was found; ends with 1 where a row is lost, comes twice or differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from nla_gateway.roles import Role
from nla_launch.demo import data
from tests.stack import Stack, engine_of, serving

EXACT: Final = ("id", "input_row", "complete", "finish_reason", "error", "model", "norm")
SETTINGS: Final = ("--score", "--temperature", "0", "--seed", "0", "--progress", "quiet")
TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        vectors: How many there were.
        kills: How often the client was killed.
        engine_kills: How often the verbalizer was.
        seconds: Of the undisturbed run.
        disturbed_seconds: Of all disturbed runs together.
        same: Whether all rows are there, once, in order, with the same values but for texts and scores.
        other_texts: Rows whose greedy text differs: two tokens that were as likely to a few parts in a million.
        worst_mse: The largest difference in mse between rows of the same text.
        peak_mb: The most memory that a client took.
    """

    vectors: int
    kills: int
    engine_kills: int
    seconds: float
    disturbed_seconds: float
    same: bool
    other_texts: int
    worst_mse: float
    peak_mb: float

    @property
    def fine(self) -> bool:
        return self.same and self.other_texts <= self.vectors / 1000 and self.worst_mse < 1e-3

    def table(self) -> str:
        killed = f"client killed {self.kills} times, verbalizer {self.engine_kills} times"
        rows = {
            "vectors": f"{self.vectors:,}",
            "undisturbed": f"{self.seconds:.0f} s, {self.vectors / self.seconds:.1f} vectors/s",
            killed: f"{self.disturbed_seconds:.0f} s",
            "all rows there, once, in order": "yes" if self.same else "no",
            "greedy texts that differ": f"{self.other_texts:,}",
            "largest difference of an mse": f"{self.worst_mse:.1e}",
            "most memory of a client": f"{self.peak_mb:.0f} MB",
        }
        return "\n".join(["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def make_input(path: Path, count: int) -> None:
    """Demo vectors in row groups, with an id."""
    examples = data.sample(count, np.random.default_rng(11), held_out=True)
    flat = pa.array(examples.vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, data.D_MODEL)
    pq.write_table(pa.table({"id": np.arange(count), "activation_vector": column}), path, row_group_size=1000)


class Client:
    """Runs of the command; remembers the most memory that one took."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "nla_data", "verbalize", *arguments]
        self.peak_mb = 0.0

    def run(self, seconds: float = TIMEOUT_S) -> int | None:
        """Run it for so long at most, then kill it; returns the exit code, None where it was killed."""
        with subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True) as process:
            watched, until = psutil.Process(process.pid), time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < until:
                self.peak_mb = max(self.peak_mb, _resident(watched))
                time.sleep(0.05)
            if process.poll() is None:
                process.kill()
                return None
            assert process.stderr
            if process.returncode:
                raise RuntimeError(f"nla ended with {process.returncode}: {process.stderr.read()}")
            return process.returncode


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0


def endure(stack: Stack, folder: Path, count: int, kills: int, engine_kills: int) -> Report:
    """Both runs, compared."""
    given = folder / "in.parquet"
    make_input(given, count)
    calm = Client(str(given), str(folder / "calm.parquet"), "--url", stack.url, *SETTINGS)
    started = time.monotonic()
    calm.run()
    seconds = time.monotonic() - started
    rough = Client(str(given), str(folder / "rough.parquet"), "--url", stack.url, *SETTINGS)
    started = time.monotonic()
    between = np.linspace(1, max(kills, 1), engine_kills + 2)[1:-1].astype(int)
    for turn in range(1, kills + 1):
        lifetime = float(np.random.default_rng(turn).uniform(0.3, 1.3)) * seconds / (kills + 1)
        if turn in between:
            engine_of(stack, Role.AV).kill()
        if rough.run(max(lifetime, 2.0)) is not None:
            raise RuntimeError(f"it was finished before kill {turn}: more vectors are needed")
    rough.run()
    disturbed = time.monotonic() - started
    same, other, worst = compare(folder / "calm.parquet", folder / "rough.parquet", count)
    peak = max(calm.peak_mb, rough.peak_mb)
    return Report(count, kills, engine_kills, seconds, disturbed, same, other, worst, peak)


def compare(one: Path, other: Path, count: int) -> tuple[bool, int, float]:
    """Whether the rows are the same, how many texts differ, and by how much the mse of equal ones do."""
    tables = [pq.read_table(path) for path in (one, other)]
    same = all(table.num_rows == count and _column(table, "id") == list(range(count)) for table in tables)
    same &= all(_column(tables[0], name) == _column(tables[1], name) for name in EXACT)
    texts = [_column(table, "explanation") for table in tables]
    alike = np.array([first == second for first, second in zip(*texts, strict=True)])
    mses = [np.array(_column(table, "mse"), float) for table in tables]
    return same, int((~alike).sum()), float(np.abs(mses[0] - mses[1])[alike].max(initial=0.0))


def _column(table: Any, name: str) -> Sequence[Any]:
    values: Sequence[Any] = table.column(name).to_pylist()
    return values


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine-kills", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/endurance"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log", "--preset", "demo") as stack:
        report = endure(stack, Path(folder), arguments.vectors, arguments.kills, arguments.engine_kills)
    (arguments.out / "endurance.json").write_text(json.dumps(asdict(report), indent=2))
    sys.stdout.write(report.table() + "\n")
    return 0 if report.fine else 1


if __name__ == "__main__":
    sys.exit(main())
