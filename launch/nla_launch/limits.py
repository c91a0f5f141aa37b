"""The gateway's limits as flags, made from the fields of its own model."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError

if TYPE_CHECKING:  # slow, and not needed for flags
    from nla_launch.plan.plan import EnginePlan

TOKENS: Final = {Role.AV: "max_tokens", Role.AR: "max_text_tokens", Role.SOURCE: None}
"""Of each role, the limit that its engine's context length bounds."""


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Give the parser a flag for each limit."""
    group = parser.add_argument_group("limits", "of each gateway; all are shown at /v1/info")
    for name, field in GatewayLimits.model_fields.items():
        kind = float if field.annotation is float else int
        group.add_argument(
            _flag(name),
            dest=name,
            type=kind,
            metavar="SECONDS" if kind is float else "N",
            help=f"{field.description} (default {kind(field.default)})".replace(".0)", ")"),
        )


def limits_of(arguments: argparse.Namespace) -> GatewayLimits:
    """Form the limits that the flags give.

    Raises:
        LaunchError: one that cannot be.
    """
    given = {name: value for name in GatewayLimits.model_fields if (value := getattr(arguments, name)) is not None}
    try:
        return GatewayLimits(**given)
    except ValidationError as error:
        problem = error.errors()[0]
    if not problem["loc"]:
        raise LaunchError(problem["msg"].removeprefix("Value error, "))
    name = str(problem["loc"][0])
    raise LaunchError(f"{_flag(name)} {given[name]}: {problem['msg'].removeprefix('Input ').lower()}")


def check_limits(limits: GatewayLimits, engines: Sequence["EnginePlan"]) -> None:
    """Raise LaunchError for a limit on tokens that was given and that no engine of its kind in the plan can reach."""
    largest = {engine.role: engine for engine in sorted(engines, key=lambda engine: engine.context_length)}
    for engine in largest.values():
        name = TOKENS[engine.role]
        if name is not None and name in limits.model_fields_set and getattr(limits, name) >= engine.context_length:
            raise LaunchError(
                f"{_flag(name)} {getattr(limits, name)} is over what the {engine.label} can hold:"
                f" prompt and all, {engine.context_length} tokens"
            )


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")
