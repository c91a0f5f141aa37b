"""API keys: where they come from, and what is refused."""

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from nla_gateway.settings import Share
from nla_launch.errors import LaunchError
from nla_launch.keys import Entry, load_keys, require_keys


def keys_of(flag: str | None, file: str | None, variable: str | None) -> dict[str, str]:
    return {name: entry.key for name, entry in load_keys(flag, file, variable).items()}


def test_keys_of_the_flag_and_of_a_file_go_together(tmp_path: Path) -> None:
    assert keys_of(None, None, None) == {}
    assert keys_of("k1", None, "k4") == {"api-key": "k1"}
    (tmp_path / "keys.yaml").write_text("ada: k2  # her laptop\nbob@lab: 'k3'\n")
    assert keys_of("k1", str(tmp_path / "keys.yaml"), "k4") == {"api-key": "k1", "ada": "k2", "bob@lab": "k3"}


def test_a_callers_share_stands_below_their_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("ada: k2\nbob:\n  key: k3\n  weight: 2\n  tokens_per_minute: 1000\n")
    assert keys_of(None, str(path), None) == {"ada": "k2", "bob": "k3"}
    shares = {name: entry.share() for name, entry in load_keys(None, str(path), None).items()}
    assert shares == {"ada": Share(), "bob": Share(weight=2.0, tokens_per_minute=1000)}


def test_a_file_that_can_be_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(path.write_text, "ada: k2\n")
        assert keys_of(None, str(path), None) == {"ada": "k2"}


def test_the_variable_counts_where_nothing_else_is_given(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("ada: k2\n")
    assert keys_of(None, None, "k4") == {"api-key": "k4"}
    assert keys_of(None, str(tmp_path / "keys.yaml"), "k4") == {"ada": "k2"}
    assert keys_of("", None, "k4") == keys_of(None, None, "") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no keys"),
        ("- topsecret", "must hold lines of `name: key`"),
        ("topsecret", "must hold lines of `name: key`"),
        ("ada: 123", "the key of 'ada' must be text"),
        ("ada: 'top secret'", "the key of 'ada' must be text"),
        ("ada: ''", "the key of 'ada' must be text"),
        ("a b: topsecret", "names may have letters"),
        ("top/secret: ada", "names may have letters"),
        ("ada: topsecret\nbob: topsecret", "'ada' and 'bob' have the same API key"),
        ("ada: 1234-56-78", "is not YAML"),
        ("api-key: topsecret", "choose another"),
        ("ada: {weight: 2}", "the key of 'ada' must be text"),
        ("ada: {key: [topsecret]}", "the key of 'ada' must be text"),
        ("ada: {key: k, topsecret: k}", "below 'ada' may stand: key, max_in_flight, requests_per_minute"),
        ("ada: {key: topsecret, weight: 0}", "weight of 'ada': input should be greater than or equal to 0.01"),
        ("ada: {key: topsecret, max_in_flight: many}", "max_in_flight of 'ada': input should be a valid integer"),
        ("{topsecret", "is not YAML"),
        ("\x00topsecret", "is not YAML"),
    ],
)
def test_bad_files_say_what_is_wrong_and_show_no_key(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(LaunchError, match=re.escape(message)) as caught:
        load_keys("other", str(path), None)
    assert "topsecret" not in str(caught.value)


def test_no_file_and_a_bad_flag() -> None:
    with pytest.raises(LaunchError, match=r"cannot be read: No such file"):
        load_keys(None, "/no/such/file", None)
    with pytest.raises(LaunchError, match=re.escape("--api-key (or NLA_API_KEY): the key")):
        load_keys("two words", None, None)


def test_a_file_given_as_the_key(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("ada: topsecret")
    with pytest.raises(LaunchError, match="is --api-keys meant"):
        load_keys(str(tmp_path / "keys.yaml"), None, None)


class Listener:
    """A socket as far as its address goes: a machine need not have IPv6."""

    def __init__(self, host: str) -> None:
        self.getsockname = lambda: (host, 8000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1"])
def test_on_loopback_no_key_is_required(host: str) -> None:
    require_keys(cast(socket.socket, Listener(host)), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "fe80::1%eth0"])  # noqa: S104
def test_elsewhere_a_key_is_required(host: str) -> None:
    require_keys(cast(socket.socket, Listener(host)), {"ada": Entry(key="k")})
    with pytest.raises(LaunchError, match="give --api-key"):
        require_keys(cast(socket.socket, Listener(host)), {})
