"""The simulation, small and short: it finds what it should, also where answers go wrong."""

import asyncio
import json

import pytest

from tests.scale import __main__ as scale


def test_a_third_vanishes_and_nothing_is_lost() -> None:
    report = asyncio.run(scale.simulate(scale.Scale(engines=6, gateways=2, places=8, sample_s=0.5, phase_s=4)))
    assert report.fine, (report.outcomes, report.examples)
    assert report.outcomes["right"] > 200
    for phase in ("all there", "a third gone"):
        counts = report.served[phase]
        assert len(counts) == (6 if phase == "all there" else 4)
        assert min(counts) > 0.5 * sum(counts) / len(counts), (phase, counts)
    assert "| anything else | 0 |" in report.table()
    assert json.loads(report.as_json())["outcomes"] == dict(report.outcomes)
    assert 0 <= report.idle_cpu < 1
    assert 0 < report.cpu_ms < 100


def test_wrong_answers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = scale.vectors_and_texts
    monkeypatch.setattr(scale, "vectors_and_texts", lambda *given: (known(*given)[0], known(*given)[1][::-1]))
    report = asyncio.run(scale.simulate(scale.Scale(engines=3, gateways=1, places=8, sample_s=0.2, phase_s=1)))
    assert not report.fine
    assert report.outcomes["wrong"] > 0
