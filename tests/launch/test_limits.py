"""The limits as flags: each one, its bounds, and what no engine can reach."""

import argparse
from dataclasses import dataclass
from typing import Any, cast

import pytest

from nla_client.wire import Limits
from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.limits import add_limits, check_limits, limits_of


@dataclass(frozen=True)
class Planned:
    """What `check_limits` reads of a plan."""

    role: Role
    label: str
    context_length: int


def limits(*flags: str) -> GatewayLimits:
    parser = argparse.ArgumentParser()
    add_limits(parser)
    return limits_of(parser.parse_args(flags))


def check(given: GatewayLimits, role: Role) -> None:
    check_limits(given, cast(Any, [Planned(role, "engine", 1024)]))


def test_without_flags_they_are_the_models_defaults() -> None:
    assert limits() == GatewayLimits()


def test_every_limit_has_a_flag_and_shows_in_the_info() -> None:
    assert list(Limits.model_fields) == list(GatewayLimits.model_fields)
    flags = [f"--{name.removesuffix('_s').replace('_', '-')}" for name in GatewayLimits.model_fields]
    given = limits(*(part for number, flag in enumerate(flags, 5) for part in (flag, str(number))))
    assert list(given.model_dump().values()) == list(range(5, 5 + len(flags)))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--max-samples 0", "--max-samples 0: should be greater than 0"),
        ("--max-batch -3", "--max-batch -3: should be greater than 0"),
        ("--request-timeout nan", "--request-timeout nan: should be a finite number"),
        ("--stall-timeout 0.5", "--stall-timeout 0.5: should be greater than or equal to 1"),
        ("--max-body-bytes 300000000", "no body of --max-body-bytes 300000000 fits into --max-held-bytes 268435456"),
    ],
)
def test_limits_that_cannot_be(flags: str, line: str) -> None:
    with pytest.raises(LaunchError) as caught:
        limits(*flags.split())
    assert str(caught.value) == line


def test_tokens_that_no_engine_can_hold() -> None:
    for role, flag in ((Role.AV, "--max-tokens"), (Role.AR, "--max-text-tokens")):
        with pytest.raises(LaunchError, match=f"{flag} 1024 is over what the engine can hold"):
            check(limits(flag, "1024"), role)
        check(limits(flag, "1023"), role)
        check(limits(), role)  # the default shrinks to what there is
