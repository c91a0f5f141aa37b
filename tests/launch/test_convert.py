"""`nla-convert`: a head out of a pickle, and nothing of a pickle is ever run."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nla_launch.convert import main
from tests.pages import of_kind, run

SIZE = 8


class Harmful:
    """Runs a command where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


def head(bias: bool = True, **names: str) -> dict[str, torch.Tensor]:
    linear = torch.nn.Linear(SIZE, SIZE, bias=bias)
    return {names.get(key, key): value.detach() for key, value in linear.state_dict().items()}


@pytest.mark.parametrize(
    ("content", "has_bias"),
    [
        (head(), True),
        (head(bias=False), False),
        ({"state_dict": head(weight="linear.weight", bias="linear.bias"), "step": 3}, True),
        (torch.eye(SIZE), False),
    ],
)
def test_a_head_is_converted(tmp_path: Path, content: Any, has_bias: bool, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, tmp_path / "linear_head.pt")
    assert main([str(tmp_path / "linear_head.pt")]) == 0
    converted = load_file(tmp_path / "value_head.safetensors")
    assert sorted(converted) == (["bias", "weight"] if has_bias else ["weight"])
    given = content if isinstance(content, torch.Tensor) else next(iter(content.get("state_dict", content).values()))
    assert torch.equal(converted["weight"], given)
    assert f"weight [{SIZE}, {SIZE}]" in capsys.readouterr().out
    assert main([str(tmp_path / "linear_head.pt")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_one_of_several_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = {f"value_head.{layer}.weight": torch.full((SIZE, SIZE), float(layer)) for layer in (4, 10)}
    torch.save(heads, tmp_path / "heads.pt")
    assert main([str(tmp_path / "heads.pt")]) == 2
    assert "name one of value_head.4.weight, value_head.10.weight by --weight" in capsys.readouterr().err
    assert main([str(tmp_path / "heads.pt"), str(tmp_path / "10.safetensors"), "--weight", "value_head.10.weight"]) == 0
    assert load_file(tmp_path / "10.safetensors")["weight"][0, 0] == 10


BROKEN = {"weight": torch.full((SIZE, SIZE), float("nan"))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(SIZE, 3)}, f"it has weight [{SIZE}, 3]"),
        ({}, "it has no tensors"),
        (BROKEN, f"weight has {SIZE * SIZE} NaN or infinite values"),
        ({**head(), "gate.weight": torch.ones(2, SIZE)}, "holds more than a linear map: gate.weight"),
    ],
)
def test_what_is_none_is_one_clear_line(
    tmp_path: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "head.pt")
    assert main([str(tmp_path / "head.pt")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_nothing_in_a_pickle_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**head(), "extra": Harmful(tmp_path / "proof")}, tmp_path / "head.pt")
    assert main([str(tmp_path / "head.pt")]) == 2
    assert "holds more than tensors, and is not run" in capsys.readouterr().err
    assert not (tmp_path / "proof").exists()


def test_the_command_on_the_page(tmp_path: Path) -> None:
    (command,) = of_kind("nla-convert")
    torch.save(head(), tmp_path / "value_head.pt")
    run(command.text.replace("nla-convert", f"{sys.executable} -m nla_launch.convert"), tmp_path)
    assert (tmp_path / "value_head.safetensors").is_file()


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pt").write_text("words")
    for name, message in (("text.pt", ""), ("nowhere.pt", "cannot be read: No such file")):
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("nla-convert: ")
        assert error.count("\n") == 1
