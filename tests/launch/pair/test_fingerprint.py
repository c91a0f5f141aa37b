"""Checkpoints that differ in anything that results depend on have different fingerprints, cheaply."""

import shutil
from pathlib import Path
from typing import Final

import pytest
import safetensors.torch
import torch

from nla_gateway.description import Description, SourceDescription
from nla_gateway.roles import Role
from nla_launch.pair.fingerprint import fingerprint
from nla_launch.pair.rules import Rules
from nla_launch.pair.shards import Part
from tests.checkpoints import make_pair
from tests.descriptions import described

SHAPE: Final = (64, 100)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "iter_100"
    folder.mkdir()
    torch.manual_seed(0)
    for part in range(2):
        tensors = {f"layers.{k}.weight": torch.randn(SHAPE).bfloat16() for k in range(3)}
        safetensors.torch.save_file(tensors, folder / f"model-{part}.safetensors")
    (folder / "config.json").write_text('{"hidden_size": 64}')
    (folder / "nla_meta.yaml").write_text("kind: nla_model\n")
    return folder


def test_a_copy_has_the_same(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, copy)
    (copy / "README.md").write_text("words")
    assert fingerprint(copy) == fingerprint(checkpoint)
    assert len(fingerprint(copy)) == 64


def test_weights_trained_on_have_another(checkpoint: Path) -> None:
    """Their files have the same names, sizes and heads."""
    before, path = fingerprint(checkpoint), checkpoint / "model-1.safetensors"
    size = path.stat().st_size
    tensors = safetensors.torch.load_file(path)
    tensors["layers.1.weight"] += 0.01 * torch.randn(SHAPE).bfloat16()
    safetensors.torch.save_file(tensors, path)
    assert path.stat().st_size == size
    assert fingerprint(checkpoint) != before


@pytest.mark.parametrize("name", ["config.json", "nla_meta.yaml", "model-0.safetensors", "value_head.safetensors"])
def test_any_file_counts(checkpoint: Path, name: str) -> None:
    before = fingerprint(checkpoint)
    with (checkpoint / name).open("ab") as stream:
        stream.write(b" ")
    assert fingerprint(checkpoint) != before


def test_of_a_source_its_first_blocks_count(tmp_path: Path) -> None:
    base = make_pair(tmp_path / "a", "qwen2").av
    parts = make_pair(tmp_path / "b", "qwen2", sharded=True).av
    (parts / "config.json").write_bytes((base / "config.json").read_bytes())
    rules = Description(role=Role.SOURCE, d_model=64, layer=0, source=SourceDescription(blocks=1))
    before = fingerprint(base, rules, part=Part(1))
    assert fingerprint(parts, rules, part=Part(1)) == before  # however they are cut into files
    for path in parts.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            if not any("embed" in name or ".layers.0." in name for name in file.keys()):  # noqa: SIM118 - no dict
                path.unlink()
    assert fingerprint(parts, rules, part=Part(1)) == before
    path = base / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.layers.2.mlp.up_proj.weight"] += 1
    safetensors.torch.save_file(tensors, path)
    assert fingerprint(base, rules, part=Part(1)) == before
    tensors["model.layers.0.mlp.up_proj.weight"] += 1
    safetensors.torch.save_file(tensors, path)
    assert fingerprint(base, rules, part=Part(1)) != before


def test_little_is_read(tmp_path: Path) -> None:
    """Of 8 GB, which this disk need not have."""
    head = b'{"w": {"dtype": "U8", "shape": [8589934592], "data_offsets": [0, 8589934592]}}'
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        stream.truncate(8 + len(head) + 2**33)
    assert fingerprint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"])
def test_damaged_weights_are_the_engines_to_refuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path)


def test_a_value_head_elsewhere_is_part_of_it(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    assert fingerprint(pair.ar, described(Role.AR, pair.ar)) == fingerprint(pair.ar)
    for number in (0.0, 1.0):
        safetensors.torch.save_file({"weight": torch.full(SHAPE, number)}, tmp_path / f"{number}.safetensors")
    heads = [{"reconstructor": {"value_head": {"file": f"{tmp_path}/{number}.safetensors"}}} for number in (0.0, 1.0)]
    others = [described(Role.AR, pair.ar, Rules.model_validate(head)) for head in heads]
    assert len({fingerprint(pair.ar, other) for other in others}) == 2
