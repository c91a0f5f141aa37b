"""GPUs as the driver and CUDA_VISIBLE_DEVICES tell of them; the driver is played by hand, for there is none here."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from nla_launch.plan.gpus import find_gpus, in_ranges


def drive(monkeypatch: pytest.MonkeyPatch, count: int, memory: Any = None) -> None:
    fakes = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: count,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda handle: f"card {handle}",
        "nvmlDeviceGetCudaComputeCapability": lambda handle: [9, handle],
        "nvmlDeviceGetMemoryInfo": memory or (lambda handle: SimpleNamespace(total=(handle + 1) * 10**9)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)


@pytest.mark.parametrize(
    ("visible", "cards"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("3", [3]),
        ("2, 0", [2, 0]),
        ("GPU-1", [1]),
        ("GPU-", [0]),
        ("-1", []),
        ("9", []),
    ],
)
def test_only_visible_gpus_count(monkeypatch: pytest.MonkeyPatch, visible: str | None, cards: list[int]) -> None:
    drive(monkeypatch, 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = find_gpus()
    assert [(gpu.index, gpu.name) for gpu in found] == [(i, f"card {card}") for i, card in enumerate(cards)]
    assert [gpu.memory_bytes for gpu in found] == [(card + 1) * 10**9 for card in cards]
    assert [gpu.capability for gpu in found] == [(9, card) for card in cards]
    # As the driver counts, whatever an engine's parent sees.
    assert [gpu.visible_device for gpu in found] == [str(card) for card in cards]


def test_parts_of_a_gpu_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    drive(monkeypatch, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7,1")
    assert [gpu.name for gpu in find_gpus()] == ["card 1"]
    assert "MIG-7 is left out: parts of a GPU (MIG) are not planned for" in caplog.text


def missing(*_: Any) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    drive(monkeypatch, 1)
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert find_gpus() == []


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_the_driver_cannot_tell_of_hides_no_other(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    drive(monkeypatch, 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    works = getattr(pynvml, call)
    monkeypatch.setattr(pynvml, call, lambda about: missing() if about == 1 else works(about))
    assert [(gpu.name, gpu.visible_device) for gpu in find_gpus()] == [("card 0", "0"), ("card 2", "2")]


@pytest.mark.parametrize("call", ["nvmlDeviceGetUUID", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetName"])
def test_what_else_it_cannot_tell_is_done_without(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    drive(monkeypatch, 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, call, missing)
    assert [gpu.memory_bytes for gpu in find_gpus()] == [10**9, 2 * 10**9]


@pytest.mark.parametrize(("indices", "written"), [((0, 1, 2, 3, 6), "0-3,6"), ((3, 1), "3,1"), ((5,), "5"), ((), "")])
def test_lists_are_written_in_ranges(indices: tuple[int, ...], written: str) -> None:
    assert in_ranges(indices) == written
