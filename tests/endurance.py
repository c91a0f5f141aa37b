"""`make endurance`: many vectors through `nla`, killed again and again, and engines with it; and undisturbed.

Then the same with texts. Both outputs must hold the same rows. Prints what was found; ends with 1 where a row is lost,
comes twice or differs.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from nla_gateway.roles import Role
from nla_launch.toy import data
from tests.plain import samples_of, total
from tests.stack import STAND_IN, Stack, engine_of, serving

EXACT: Final = ("id", "input_row", "complete", "finish_reason", "error", "model")
SETTINGS: Final = ("--score", "--temperature", "0", "--seed", "0", "--progress", "quiet")
TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True)
class Kind:
    """What is run.

    Attributes:
        given: What its rows are called.
        command: Of `nla`, with flags of its own.
        make: Writes so many rows of input.
        places: How many rows of the output each becomes.
        exact: Columns that are the same to the last bit.
        killed: Which engines are killed, in turn.
    """

    given: str
    command: tuple[str, ...]
    make: Callable[[Path, int], None]
    places: int
    exact: tuple[str, ...]
    killed: tuple[Role, ...]


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        given: What the input's rows are called.
        rows: How many there were.
        kills: How often the client was killed.
        engine_kills: How often an engine was.
        seconds: Of the undisturbed run.
        disturbed_seconds: Of all disturbed runs together.
        same: Whether all rows are there, once, in order, with the same values but for texts and scores.
        other_texts: Rows whose greedy text differs: two tokens that were as likely to a few parts in a million.
        worst_mse: The largest difference in mse between rows of the same text.
        worst_norm: The largest difference of a norm, in parts of it.
        peak_mb: The most memory that a client took.
    """

    given: str
    rows: int
    kills: int
    engine_kills: int
    seconds: float
    disturbed_seconds: float
    same: bool
    other_texts: int
    worst_mse: float
    worst_norm: float
    peak_mb: float

    @property
    def fine(self) -> bool:
        alike = self.other_texts <= self.rows / 1000 and self.worst_mse < 1e-3 and self.worst_norm < 1e-5
        return self.same and alike

    def table(self) -> str:
        killed = f"client killed {self.kills} times, an engine {self.engine_kills} times"
        rows = {
            self.given: f"{self.rows:,}",
            "undisturbed": f"{self.seconds:.0f} s, {self.rows / self.seconds:.1f} {self.given}/s",
            killed: f"{self.disturbed_seconds:.0f} s",
            "all rows there, once, in order": "yes" if self.same else "no",
            "greedy texts that differ": f"{self.other_texts:,}",
            "largest difference of an mse": f"{self.worst_mse:.1e}",
            "largest difference of a norm": f"{self.worst_norm:.1e}",
            "most memory of a client": f"{self.peak_mb:.0f} MB",
        }
        return "\n".join(["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def make_vectors(path: Path, count: int) -> None:
    """Vectors of the toy pair in row groups, with an id."""
    examples = data.sample(count, np.random.default_rng(11), held_out=True)
    flat = pa.array(examples.vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, data.D_MODEL)
    pq.write_table(pa.table({"id": np.arange(count), "activation_vector": column}), path, row_group_size=1000)


def make_texts(path: Path, count: int) -> None:
    """Sentences of many lengths in row groups, with an id."""
    draws = np.random.default_rng(12)
    examples = data.sample(count, draws, held_out=True)
    texts = [" ".join([data.explain(concepts, draws)] * (1 + k % 7)) for k, concepts in enumerate(examples.concepts)]
    pq.write_table(pa.table({"id": np.arange(count), "text": texts}), path, row_group_size=1000)


VECTORS: Final = Kind("vectors", ("verbalize",), make_vectors, 1, (*EXACT, "norm"), (Role.AV,))
TEXTS: Final = Kind(
    "texts", ("explain", "--positions", "0,-1"), make_texts, 2, (*EXACT, "position", "token_id"), (Role.SOURCE, Role.AV)
)


class Client:
    """Runs of the command; remembers the most memory that one took."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "nla_data", *arguments]
        self.peak_mb = 0.0

    def run(self, enough: Callable[[], bool] = lambda: False) -> int | None:
        """Run it until it has done enough, then kill it; returns the exit code, None where it was killed."""
        with subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True) as process:
            watched, until = psutil.Process(process.pid), time.monotonic() + TIMEOUT_S
            while process.poll() is None and time.monotonic() < until and not enough():
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


def endure(stack: Stack, folder: Path, kind: Kind, count: int, kills: tuple[int, int]) -> Report:
    """Both runs, compared; kills of the client, and of engines."""
    of_client, of_engines = kills
    given, word, own = folder / "in.parquet", kind.command[0], (*kind.command[1:], "--url", stack.url, *SETTINGS)
    kind.make(given, count)
    calm = Client(word, str(given), str(folder / "calm.parquet"), *own)
    before, started = written(stack), time.monotonic()
    calm.run()
    whole, seconds = written(stack) - before, time.monotonic() - started
    rough = Client(word, str(given), str(folder / "rough.parquet"), *own)
    started = time.monotonic()
    between = np.linspace(1, max(of_client, 1), of_engines + 2)[1:-1].astype(int)
    engines = itertools.cycle(kind.killed)
    for turn in range(1, of_client + 1):
        # By what is done, not by time: machines are busy now and then.
        last = written(stack) + float(np.random.default_rng(turn).uniform(0.1, 0.6)) * whole / (of_client + 1)
        if turn in between:
            engine_of(stack, next(engines)).kill()
        if rough.run(lambda last=last: written(stack) >= last) == 0:  # type: ignore[misc]
            raise RuntimeError(f"it was finished before kill {turn}: more {kind.given} are needed")
    rough.run()
    disturbed = time.monotonic() - started
    same, other, worst_mse, worst_norm = compare(folder / "calm.parquet", folder / "rough.parquet", kind, count)
    peak = max(calm.peak_mb, rough.peak_mb)
    found = (same, other, worst_mse, worst_norm, peak)
    return Report(kind.given, count, *kills, seconds, disturbed, *found)


def written(stack: Stack) -> float:
    """Tokens that the verbalizer has written for callers."""
    return total(samples_of(stack), "nla_tokens_total", engine="verbalizer", kind="completion")


def compare(one: Path, other: Path, kind: Kind, count: int) -> tuple[bool, int, float, float]:
    """Whether the rows are the same, how many texts differ, and by how much the mse of equal ones, and norms, do."""
    tables = [pq.read_table(path) for path in (one, other)]
    ids = [row for row in range(count) for _ in range(kind.places)]
    same = all(_column(table, "id") == ids for table in tables)
    same &= all(_column(tables[0], name) == _column(tables[1], name) for name in kind.exact)
    if not same:
        return False, 0, 0.0, 0.0
    texts = [_column(table, "explanation") for table in tables]
    alike = np.array([first == second for first, second in zip(*texts, strict=True)])
    mses = [np.array(_column(table, "mse"), float) for table in tables]
    norms = [np.array(_column(table, "norm"), float) for table in tables]
    worst_mse = float(np.abs(mses[0] - mses[1])[alike].max(initial=0.0))
    return True, int((~alike).sum()), worst_mse, float(np.abs(norms[0] / norms[1] - 1).max())


def _column(table: Any, name: str) -> Sequence[Any]:
    values: Sequence[Any] = table.column(name).to_pylist()
    return values


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine-kills", type=int, default=2)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--text-kills", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("build/endurance"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    reports = []
    flags = ("--preset", "toy", "--source", STAND_IN)
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "log", *flags) as stack:
        for kind, count, kills in (
            (VECTORS, arguments.vectors, arguments.kills),
            (TEXTS, arguments.texts, arguments.text_kills),
        ):
            folder = Path(name) / kind.given
            folder.mkdir()
            reports.append(endure(stack, folder, kind, count, (kills, arguments.engine_kills)))
            sys.stdout.write(reports[-1].table() + "\n\n")
            sys.stdout.flush()
    (arguments.out / "endurance.json").write_text(json.dumps([asdict(report) for report in reports], indent=2))
    return 0 if all(report.fine for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
