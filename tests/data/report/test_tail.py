"""The worst rows beside the means, by numbers that are known."""

import numpy as np
import pytest

from nla_data.report import tail
from nla_data.report.rows import Rows
from tests.data.report.test_differences import scores


def test_one_row_may_be_all() -> None:
    found = tail.of(np.array([0.0] * 99 + [2.0]))
    assert found == tail.Tail(rows=1, least=2.0, median=0.0, mean=0.02, others=0.0, worst=2.0, share=1.0)


def test_alike_rows_have_their_part() -> None:
    found = tail.of(np.full(700, 0.5))
    assert (found.rows, found.share, found.others) == (7, 0.01, 0.5)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_how_many_they_are(count: int, rows: int) -> None:
    assert tail.of(np.arange(count, dtype=float)).rows == rows


def test_nothing_unexplained_has_no_shares() -> None:
    assert tail.of(np.zeros(3)).share is None
    assert tail.of(np.ones(1)).others is None


def test_the_raw_error_weighs_large_vectors() -> None:
    rows: Rows = scores([0.5] * 200, norm=[1.0] * 199 + [100.0])
    found = tail.tails(rows)
    assert (found["mse"].share, found["mse"].rows) == (0.01, 2)
    assert found["raw"].worst == (1 + 10_000) / 2  # 2 |v|^2 (1 - cos)
    assert found["raw"].share == pytest.approx(10_001 / 10_199)
    assert tail.tails(scores([])) == {}
