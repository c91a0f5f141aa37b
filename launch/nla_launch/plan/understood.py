"""What was understood of a checkpoint, in words, for --dry-run: each value with who stated it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from nla_gateway.description import Description

SHOWN: Final = 60
"""Characters of a text that are shown, of its beginning and its end."""
NOT_SHOWN: Final = ("role", "origin")


def understood(description: Description) -> list[str]:
    """List a description's values, one a line; those that nobody stated are left out where there is nothing to say."""
    values = dict(_flat(description.model_dump(mode="json", exclude=set(NOT_SHOWN)), description.origin))
    width = max(map(len, values))
    lines = []
    for name, value in values.items():
        origin = description.origin.get(name)
        if origin is None and value in (None, "", [], False):
            continue
        lines.append(f"{name:<{width}}  {_shown(value)}" + ("" if origin is None else f"  ({origin})"))
    return lines


def _flat(values: dict[str, Any], origins: Mapping[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name nested values by dots; one that was stated as a whole stays whole."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in origins:
            yield from _flat(value, origins, f"{name}.")
        elif value is not None or name in origins:
            yield name, value


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return "none" if value is None else str(value)
    if len(value) <= 2 * SHOWN or ("\n" not in value and " " not in value):
        return repr(value)
    return f"{value[:SHOWN]!r} ... {value[-SHOWN:]!r}"
