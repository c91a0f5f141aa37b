"""The example notebook runs without errors, and what is stored in it is what comes.

Cells with the tag `pinned` are greedy or exact. Those with `seeded` sample many texts, of which a few may come out
differently on another CPU. The others show pictures, and figures of what was sampled.
"""

import re
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, Final

import pytest

from tests import notebook
from tests.stack import Stack

STORED: Final = notebook.read()
NUMBER: Final = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
MAX_BYTES: Final = 100_000
pytestmark = pytest.mark.timeout(1800)  # some 150 texts of a real language model, beside another process of tests


def tagged(book: Any, tag: str) -> list[Any]:
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", ())]


def text_of(cell: Any) -> str:
    """All that a cell shows as plain text."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # fonts being cached, say
    return "\n".join(output.text if "text" in output else output.data["text/plain"] for output in outputs)


def words_and_numbers(cell: Any) -> tuple[list[str], list[float]]:
    text = text_of(cell)
    return NUMBER.sub("#", text).split(), [float(number) for number in NUMBER.findall(text)]


@pytest.fixture(scope="module")
def executed(demo: Stack) -> Any:
    return notebook.run(demo.url)


def test_it_runs_from_top_to_bottom(executed: Any) -> None:
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_what_is_pinned_is_what_comes(executed: Any) -> None:
    stored = tagged(STORED, "pinned")
    assert len(stored) == 8
    for before, now in zip(stored, tagged(executed, "pinned"), strict=True):
        words, numbers = words_and_numbers(before)
        assert words_and_numbers(now)[0] == words
        assert words_and_numbers(now)[1] == pytest.approx(numbers, abs=2e-3)


def test_what_was_sampled_with_a_seed_comes_again(executed: Any) -> None:
    stored = tagged(STORED, "seeded")
    assert len(stored) == 3
    for before, now in zip(stored, tagged(executed, "seeded"), strict=True):
        same = SequenceMatcher(None, words_and_numbers(before)[0], words_and_numbers(now)[0], autojunk=False)
        assert same.ratio() > 0.9, text_of(now)


def test_what_is_stored_was_run_at_one_go_and_is_small() -> None:
    counts = [cell.execution_count for cell in STORED.cells if cell.cell_type == "code"]
    assert all(after == before + 1 for before, after in pairwise([0, *counts]))
    assert notebook.PATH.stat().st_size < MAX_BYTES
    assert STORED.metadata == notebook.METADATA


def test_what_is_stored_tells_nothing_of_the_machine() -> None:
    outputs = [output for cell in STORED.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = "\n".join(text_of(cell) for cell in STORED.cells if cell.cell_type == "code")
    assert not re.search(r"/(?:home|tmp|root|work|usr|var)/|site-packages", shown)
