"""What the gateway counts: alone, and together with other gateways, of which some are dead."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nla_client.wire import Score, Usage
from nla_gateway.callers import Caller, Exchange, answering
from nla_gateway.settings import COUNTERS_VARIABLE, Share
from nla_gateway.telemetry.metrics import Metrics

GATEWAY = """
import sys
from nla_gateway.telemetry.metrics import Metrics
metrics = Metrics()
metrics.engine_state("verbalizer", sys.argv[1])
metrics.engine_restarted("verbalizer")
metrics.queue.set(5)
metrics.vectors("/verbalize", 2)
print("counted", flush=True)
for line in sys.stdin:
    sys.stdout.write(metrics.text().decode() + "# EOF\\n")
    sys.stdout.flush()
"""
OF_DEMO = Exchange(Caller("", Share()))
OF_DEMO.model = "demo"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    families: Iterator[Metric] = text_string_to_metric_families(text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_mean_fve_and_share_of_incomplete_texts_follow() -> None:
    metrics = Metrics(["demo"])
    with answering(OF_DEMO):
        metrics.scores([Score(mse=0.1, cosine=0.95, fve=0.9), Score(mse=1.5, cosine=0.25, fve=-0.5)])
        metrics.scores([Score(mse=0.1, cosine=0.95, fve=None)])
        metrics.sample(complete=True)
    shown = samples(metrics.text().decode())
    mean = 1 - shown["nla_unexplained_sum", "demo"] / shown["nla_unexplained_count", "demo"]
    assert mean == pytest.approx((0.9 - 0.5) / 2)
    assert [shown["nla_samples_total", complete, "demo"] for complete in ("true", "false")] == [1, 0]


def test_tokens_count_for_whom_they_were() -> None:
    metrics, usage = Metrics(), Usage(prompt_tokens=7, cached_tokens=5, completion_tokens=3)
    for name in ("ada", "ada", "bob"):
        with answering(Exchange(Caller(name, Share()))):
            metrics.tokens("verbalizer", usage)
        metrics.call(name, 200)
    metrics.call("ada", 429)
    metrics.tokens("verbalizer", usage)  # of a server without keys
    assert metrics.used_by("ada") == (3, Usage(prompt_tokens=14, cached_tokens=10, completion_tokens=6))
    assert metrics.used_by("bob") == (1, usage)
    assert (
        metrics.used_by("eve")
        == metrics.used_by("")
        == (0, Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0))
    )


def test_tokens_vectors_and_times() -> None:
    metrics = Metrics()
    with answering(OF_DEMO):
        metrics.tokens("verbalizer", Usage(prompt_tokens=7, cached_tokens=5, completion_tokens=3))
        metrics.tokens("reconstructor", Usage(prompt_tokens=4, cached_tokens=0, completion_tokens=0))
        metrics.vectors("/critic", 6)
    metrics.request("demo", "/critic", 200, 0.006)
    metrics.request("demo", "/critic", 200, 250.0)
    shown = samples(metrics.text().decode())
    assert shown["nla_tokens_total", "verbalizer", "cached", "demo"] == 5
    assert shown["nla_tokens_total", "reconstructor", "prompt", "demo"] == 4
    assert shown["nla_vectors_total", "/critic", "demo"] == 6
    assert shown["nla_request_seconds_bucket", "/critic", "0.005", "demo"] == 0
    assert shown["nla_request_seconds_bucket", "/critic", "0.01", "demo"] == 1
    assert shown["nla_request_seconds_bucket", "/critic", "300.0", "demo"] == 2


def test_an_engine_is_in_one_state() -> None:
    metrics = Metrics()
    metrics.engine_state("verbalizer", "starting")
    assert samples(metrics.text().decode())["nla_engine_restarts", "verbalizer"] == 0
    metrics.engine_state("verbalizer", "ready")
    metrics.engine_restarted("verbalizer")
    shown = samples(metrics.text().decode())
    states = {key[2]: value for key, value in shown.items() if key[0] == "nla_engine_state"}
    assert [state for state, value in states.items() if value] == ["ready"]
    assert shown["nla_engine_ready", "verbalizer"] == 1
    assert shown["nla_engine_restarts", "verbalizer"] == 1


class Gateway:
    """A process that counts as a gateway does."""

    def __init__(self, folder: Path, state: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, COUNTERS_VARIABLE: str(folder)},
        )  # fmt: skip
        assert self._line() == "counted\n"

    def shown(self) -> dict[tuple[str, ...], float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return samples("".join(iter(self._line, "# EOF\n")))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def test_gateways_count_together_and_dead_ones_hold_nothing(tmp_path: Path) -> None:
    gateways = [Gateway(tmp_path, "ready"), Gateway(tmp_path, "starting")]
    try:
        shown = gateways[0].shown()
        assert shown["nla_vectors_total", "/verbalize", ""] == 4
        assert shown["nla_queue",] == 10
        assert shown["nla_engine_restarts", "verbalizer"] == 1  # both saw the same one
        assert shown["nla_engine_ready", "verbalizer"] == 0
        assert shown["nla_engine_state", "verbalizer", "ready"] == 1
        assert shown["nla_engine_state", "verbalizer", "starting"] == 1
        gateways[1].end()
        gateways.append(Gateway(tmp_path, "ready"))
        shown = gateways[2].shown()
        assert shown["nla_vectors_total", "/verbalize", ""] == 6
        assert shown["nla_queue",] == 10
        assert shown["nla_engine_ready", "verbalizer"] == 1
        assert shown["nla_engine_state", "verbalizer", "starting"] == 0
    finally:
        for gateway in gateways:
            if gateway.process.returncode is None:
                gateway.end()
