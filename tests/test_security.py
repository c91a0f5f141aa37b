"""server/README.md on files that run code: none of ours loads any. torch reads a user's tensors, weights_only."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for part in ("client", "server", "launch") for path in (ROOT / part).rglob("*.py"))
RUNS_CODE = re.compile(
    r"\b(?:import|from)\s+(?:pickle|joblib|marshal|shelve)\b(?! import UnpicklingError\b)"
    r"|torch\.load\b(?!.*weights_only=True)|allow_pickle\s*=\s*True|trust_remote_code\s*=\s*True"
    r"|yaml\.(unsafe_|full_)?load\(|shell\s*=\s*True|(?<![.\w])(eval|exec)\("
)


def test_there_are_sources() -> None:
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_ours_runs_what_it_reads(path: Path) -> None:
    assert RUNS_CODE.findall(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import load", "torch.load(x)", "trust_remote_code=True", "yaml.load(f)", "eval(x)"],
)
def test_it_would_be_found(line: str) -> None:
    assert RUNS_CODE.search(line)
