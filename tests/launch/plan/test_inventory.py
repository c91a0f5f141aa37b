"""YAML files that list another machine's GPUs."""

from pathlib import Path

import pytest

from nla_launch.errors import LaunchError
from nla_launch.plan.inventory import read_inventory


def test_gpus_in_order(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text("gpus:\n- {count: 2, name: H100, memory_gb: 80, compute_capability: 9.0}\n- {memory_gb: 23.5}\n")
    gpus = read_inventory(str(path))
    assert [(gpu.index, gpu.name, gpu.memory_bytes, gpu.capability) for gpu in gpus] == [
        (0, "H100", 80 * 10**9, (9, 0)),
        (1, "H100", 80 * 10**9, (9, 0)),
        (2, "GPU", 23_500_000_000, None),
    ]
    assert [gpu.visible_device for gpu in gpus] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus: []", "gpus: List should have at least 1"),
        ("gpus: [{memory_gb: 0}]", "gpus.0.memory_gb"),
        ("gpus: [{memory_gb: .inf}]", "gpus.0.memory_gb"),
        ("gpus: [{memory_gb: 80, count: 0}]", "gpus.0.count"),
        ("gpus: [{memory_gb: 80, sort: x}]", "gpus.0.sort"),
        ("gpus: [{memory_gb: 80, compute_capability: 9}]", "gpus.0.compute_capability"),
        ("[]", "the file: Input should be a valid dictionary"),
        ("{", "is not YAML"),
    ],
)
def test_what_is_no_inventory(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(text)
    with pytest.raises(LaunchError, match=message) as caught:
        read_inventory(str(path))
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot be read: No such file"):
        read_inventory(str(tmp_path / "none.yaml"))
