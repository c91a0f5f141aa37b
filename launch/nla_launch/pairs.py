"""From flags to what is to be served: one pair by flags of its own, or several that have names."""

import argparse
import copy
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Final

from pydantic import RootModel, StringConstraints

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError, naming
from nla_launch.flags import OF_ONE_PAIR, REPEATED, SWITCHES, pair_parser
from nla_launch.pair.preset import BASE, DEFAULT, NONE, Preset, load_preset
from nla_launch.pair.sources import Based, Source
from nla_launch.plan.asked import Asked
from nla_launch.plan.elsewhere import KEY_VARIABLE, read_elsewhere
from nla_launch.yaml_files import read_yaml

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Value = bool | int | str
Flags = dict[str, Value | list[Value]]


class PairsFile(RootModel[dict[Name, str | Flags]]):
    """Pairs by name: a preset, or flags of nla-serve without their dashes, and what they are given."""


def asked_for(arguments: argparse.Namespace) -> list[Asked]:
    """Read which pairs the flags ask for.

    Raises:
        LaunchError: flags that do not fit together, or make no sense.
    """
    words = _pairs(arguments)
    if not words:
        return [_asked(arguments)]
    _check_common(arguments, several=len(words) > 1)
    found = []
    for name, own in words.items():
        with naming(f"pair {name}: "):
            both = pair_parser(name).parse_args(own, copy.copy(arguments))
            found.append(_asked(both, name, alone=len(words) == 1))
    return found


def _asked(arguments: argparse.Namespace, name: str | None = None, *, alone: bool = True) -> Asked:
    preset, key = preset_of(arguments), arguments.engine_key or os.environ.get(KEY_VARIABLE)
    urls = {role: getattr(arguments, f"{role}_url") for role in Role}
    elsewhere = read_elsewhere(urls, key=key, listen=arguments.engine_listen, only=arguments.only)
    return Asked(preset, arguments, elsewhere, name, alone)


def _pairs(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Read the pairs that have names: for each, flags of its own.

    Raises:
        LaunchError: one that cannot be read, or a name that two have.
    """
    found: dict[str, list[str]] = {}
    if arguments.pairs is not None:
        file = read_yaml(Path(arguments.pairs), "--pairs", PairsFile)
        if not file.root:
            raise LaunchError(f"--pairs {arguments.pairs}: it names no pair")
        for name, value in file.root.items():
            with naming(f"pair {name}: "):
                found[name] = _words(value)
    for given in arguments.pair:
        name, equals, value = given.partition("=")
        if not equals or not re.fullmatch(NAME, name):
            raise LaunchError(f"--pair {given}: must look like NAME=PRESET, the name of letters, digits and . _ -")
        if name in found:
            raise LaunchError(f"--pair {given}: there is a pair {name} already")
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise LaunchError(f"--pair {given}: {str(error).lower()}") from None
        found[name] = words if not words or words[0].startswith("-") else ["--preset", *words]
    return found


def _words(value: str | Flags) -> list[str]:
    """Write what a file says of a pair as flags."""
    if isinstance(value, str):
        return ["--preset", value]
    return [word for name, given in value.items() for word in _flag(name.replace("-", "_"), given)]


def _flag(name: str, given: Value | list[Value]) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(given, list) and name.endswith("gpus"):
        given = ",".join(map(str, given))
    if isinstance(given, list) and name in REPEATED:
        return [f"{flag}={one}" for one in given]
    if isinstance(given, bool) and name in SWITCHES:
        return [flag] if given else []
    if isinstance(given, list | bool):
        raise LaunchError(f"{flag} takes one value, not {str(given).lower()}")
    return [f"{flag}={given}"]


def _check_common(arguments: argparse.Namespace, *, several: bool) -> None:
    """Raise LaunchError for flags that can be meant for one pair alone, beside pairs that have names."""
    named = arguments.source not in (None, BASE, NONE)
    for name in (*OF_ONE_PAIR, *(["source"] if named else [])):
        if getattr(arguments, name):
            flag = f"--{name.replace('_', '-')}"
            raise LaunchError(f"{flag} is for one pair: write it in that pair's words, --pair 'NAME={flag} ...'")
    if several and arguments.nnodes > 1:
        raise LaunchError("--nnodes is for one pair: start its engines by themselves, and give this one their --av-url")
    if several and arguments.engine_listen is not None:
        raise LaunchError("--engine-listen is for one engine of one pair")


def preset_of(arguments: argparse.Namespace) -> Preset:
    """Combine the preset with the checkpoints given; given all and no preset, none is needed."""
    only = None if arguments.only is None else Role(arguments.only)
    needed = [Role.AV, Role.AR] if only is None else [only]
    for role in Role:
        if only not in (None, role) and _is_given(arguments, role):
            raise LaunchError(f"--only {only} serves no {role.label}, but one is given: leave out either")
    given: dict[Role, Source] = {role: source for role in Role if (source := getattr(arguments, role))}
    if arguments.preset is None and all(role in given and given[role] != BASE for role in needed):
        base = Preset(name="custom", av=None, ar=None)
    else:
        base = load_preset(arguments.preset or DEFAULT)
    sources = base.sources | given
    if (only is Role.SOURCE or arguments.source_url) and Role.SOURCE not in sources:
        sources[Role.SOURCE] = BASE
    source = _source(sources.pop(Role.SOURCE, NONE), base) if only in (None, Role.SOURCE) else None
    if source is not None:
        sources[Role.SOURCE] = source
    elif only is Role.SOURCE or arguments.source_url or arguments.source_context:
        raise LaunchError("no source is served: give --source, or leave out the flags that are for one")
    for role in needed:
        if role not in sources:
            raise LaunchError(f"preset {base.name} has no `{role}`: give --{role}")
        if adapters := getattr(arguments, f"{role}_adapter", None):
            below = sources[role]
            sources[role] = Based(base=below if isinstance(below, str) else below.base, adapters=tuple(adapters))
    return base.model_copy(update={role.value: sources.get(role) for role in Role})


def _is_given(arguments: argparse.Namespace, role: Role) -> bool:
    """Whether the flags name a role's checkpoint, adapters or engine."""
    named = (getattr(arguments, f"{role}{kind}", None) for kind in ("", "_url", "_adapter"))
    return any(value and value != NONE for value in named)


def _source(given: Source, preset: Preset) -> str | None:
    """Tell which model the source is; None where there is none.

    Raises:
        LaunchError: it is to be the base model, and none is named.
    """
    if given == NONE:
        return None
    if given == BASE and preset.base is None:
        raise LaunchError(
            f"--source {BASE}: preset {preset.name} has no `base_model`: add `base_model: REPO` to it, or give --source"
            " REPO|DIR"
        )
    return preset.base if given == BASE else str(given)
