"""The keys that callers must show: one from the flag or the environment, or several named ones from a file."""

import os
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import StringConstraints, TypeAdapter, ValidationError

from nla_gateway.settings import Share
from nla_launch.errors import LaunchError

FLAG_NAME: Final = "api-key"
"""What the log calls a caller who shows the key of --api-key."""
Name = Annotated[str, StringConstraints(pattern=r"^[\w.@-]+$")]
Key = Annotated[str, StringConstraints(pattern=r"^[!-~]+$")]


class Entry(Share):
    """What the keys file says of one caller."""

    key: Key

    def share(self) -> Share:
        """What they get of the engines."""
        return Share(**self.model_dump(exclude={"key"}))


ENTRIES: Final = TypeAdapter(dict[Name, Entry])


def load_keys(flag: str | None, file: str | None, variable: str | None) -> dict[str, Entry]:
    """Collect the keys and what goes with them, by the names that the log gives callers; none where they need none.

    Args:
        flag: the key of --api-key; empty for none.
        file: that of --api-keys, YAML: `name: key` lines, or `name:` with the fields of Entry below it.
        variable: the key of NLA_API_KEY. It counts where neither of the others is given: beside a file it is most
            likely what this user's own clients show.

    Raises:
        LaunchError: the file cannot be read or holds something else; a key that no header can hold; the same key twice.
    """
    keys = {} if file is None else _read(file)
    if key := variable if flag is None and file is None else flag:
        if FLAG_NAME in keys:
            raise LaunchError(f"--api-keys {file}: the name {FLAG_NAME!r} is that of --api-key; choose another")
        if os.path.isfile(key):  # noqa: PTH113 - pathlib's fails where a key is too long for a name
            raise LaunchError("the key of --api-key (or NLA_API_KEY) is the name of a file: is --api-keys meant?")
        keys |= _checked({FLAG_NAME: key}, "--api-key (or NLA_API_KEY)")
    owners: dict[str, str] = {}
    for name, own in keys.items():
        if (other := owners.setdefault(own.key, name)) != name:
            raise LaunchError(f"{other!r} and {name!r} have the same API key: give each their own")
    return keys


def require_keys(listener: socket.socket, keys: Mapping[str, Entry]) -> None:
    """Raise LaunchError where others than this machine's users could call without a key."""
    address = listener.getsockname()[0]
    if not keys and not ip_address(address).is_loopback:
        raise LaunchError(
            f"--host {address} can be reached from elsewhere: give --api-key (or NLA_API_KEY) or --api-keys FILE"
        )


def _read(file: str) -> dict[str, Entry]:
    try:
        named = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"--api-keys {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError):
        raise LaunchError(f"--api-keys {file} is not YAML") from None  # the error would show what it holds
    if not named:
        raise LaunchError(f"--api-keys {file} holds no keys: write lines of `name: key`")
    return _checked(named, f"--api-keys {file}")


def _checked(named: object, source: str) -> dict[str, Entry]:
    """Check names, keys and what goes with them; complaints show no key."""
    entries = named
    if isinstance(named, dict):
        entries = {name: one if isinstance(one, dict) else {"key": one} for name, one in named.items()}
    try:
        return ENTRIES.validate_python(entries, strict=True)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
    where = problem["loc"]
    if not where:
        raise LaunchError(f"{source} must hold lines of `name: key`")
    if where[-1] == "[key]":
        raise LaunchError(f"{source}: names may have letters, digits and .@_- alone, in lines of `name: key`")
    if where[-1] == "key":
        raise LaunchError(
            f"{source}: the key of {where[0]!r} must be text of visible ASCII, without spaces (in quotes)"
        )
    if where[-1] not in Entry.model_fields:  # it may be a key
        raise LaunchError(f"{source}: below {where[0]!r} may stand: {', '.join(sorted(Entry.model_fields))}")
    raise LaunchError(f"{source}: {where[-1]} of {where[0]!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
