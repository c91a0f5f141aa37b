"""A pair to spoil, for the tests of this room."""

from pathlib import Path

import pytest

from tests.checkpoints import Pair, make_pair


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), "qwen2")


@pytest.fixture
def pair(original: Pair, tmp_path: Path) -> Pair:
    return original.copy(tmp_path)
