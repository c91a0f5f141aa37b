"""One of an engine's replicas stops: the others go on, and it must be missed all the same."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from nla_gateway.roles import Role
from tests.load import Known, disturb
from tests.plain import wait_for
from tests.stack import Stack, schedulers_of, serving

REPLICAS: Final = 2
HUNG_AFTER_S: Final = 10
ENDED: Final = "{}: hangs, and is ended"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    log = tmp_path_factory.mktemp("replicas") / "log"
    with serving(log, "--preset", "toy", "--dp", str(REPLICAS), "--hung-after", str(HUNG_AFTER_S)) as stack:
        yield stack


@pytest.fixture(scope="module")
def known(stack: Stack, toy_vectors: NDArray[np.float32]) -> Known:
    return Known.of(stack, toy_vectors)


@pytest.mark.parametrize(("role", "harm"), [(Role.AV, "suspend"), (Role.AR, "suspend"), (Role.AV, "kill")])
def test_a_replica_that_stops_has_its_engine_ended_and_started_again(
    stack: Stack, known: Known, role: Role, harm: str
) -> None:
    family = len(stack.family())
    replicas = schedulers_of(stack, role)
    assert len(replicas) == REPLICAS
    ended = stack.log_text().count(ENDED.format(role.label))
    got = disturb(stack, known, getattr(replicas[-1], harm), role.label)
    assert set(got) <= {"right", "503"}, got
    assert stack.log_text().count(ENDED.format(role.label)) > ended
    assert not any(replica.is_running() for replica in replicas)
    assert len(schedulers_of(stack, role)) == REPLICAS
    wait_for(lambda: len(stack.family()) == family)
