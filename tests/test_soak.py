"""What a soak reports. The load itself is that of the fault tests."""

import json

import pytest

from tests.soak import Reading, Report


def report(**outcomes: int) -> Report:
    readings = [Reading(30.0 * k, 100.0 + 3 * k, 80.0, 40, 20) for k in range(9)]
    return Report(4.0, outcomes, {}, 61.4, readings)


def test_growth_is_that_of_the_second_half() -> None:
    assert report(right=1).slope("gateway_mb") == pytest.approx(6.0)
    assert report(right=1).slope("launcher_mb") == pytest.approx(0.0)


def test_the_table_counts_everything() -> None:
    lines = report(right=1200, left=30, wrong=1, nothing=2, **{"400": 90, "503": 4, "429": 7}).table().splitlines()
    assert "| calls in 4 minutes, 50 in flight | 1,334 |" in lines
    assert "| answered with the contract's error | 7 x 429, 4 x 503 |" in lines
    assert "| lost | 2 |" in lines
    assert "| wrong | 1 |" in lines
    assert "| gateway memory, growth in the second half | 124 MB, +6.00 MB a minute |" in lines


def test_the_json_holds_every_count_and_reading() -> None:
    written = json.loads(report(right=3, left=1).as_json())
    assert written["outcomes"] == {"right": 3, "left": 1}
    assert len(written["readings"]) == 9
