"""The sidecars of the toy pair are what its training writes."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nla_gateway.roles import Role
from nla_launch.toy.tokenizer import write_sidecar
from tests.plain import TOY


@pytest.mark.parametrize(("role", "name"), [(Role.AV, "verbalizer"), (Role.AR, "reconstructor")])
def test_a_sidecar_is_as_it_was_trained_with(role: Role, name: str, tmp_path: Path) -> None:
    write_sidecar(tmp_path, role, AutoTokenizer.from_pretrained(TOY / name))
    assert (tmp_path / "nla_meta.yaml").read_bytes() == (TOY / name / "nla_meta.yaml").read_bytes()
