"""API keys: where they come from, and what is refused."""

import re
import socket
from pathlib import Path

import pytest

from nla_launch.errors import LaunchError
from nla_launch.keys import load_keys, require_keys


def test_keys_of_the_flag_and_of_a_file_go_together(tmp_path: Path) -> None:
    assert load_keys(None, None) == {}
    assert load_keys("k1", None) == {"api-key": "k1"}
    (tmp_path / "keys.yaml").write_text("ada: k2  # her laptop\nbob@lab: 'k3'\n")
    assert load_keys("k1", str(tmp_path / "keys.yaml")) == {"api-key": "k1", "ada": "k2", "bob@lab": "k3"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no keys"),
        ("- topsecret", "must hold lines of `name: key`"),
        ("topsecret", "must hold lines of `name: key`"),
        ("ada: 123", "the key of 'ada' must be text"),
        ("ada: 'top secret'", "the key of 'ada' must be text"),
        ("ada: ''", "the key of 'ada' must be text"),
        ("a b: topsecret", "the name 'a b'"),
        ("ada: topsecret\nbob: topsecret", "the same API key"),
        ("api-key: topsecret", "choose another"),
        ("{topsecret", "is not YAML"),
        ("\x00topsecret", "is not YAML"),
    ],
)
def test_bad_files_say_what_is_wrong_and_show_no_key(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(LaunchError, match=re.escape(message)) as caught:
        load_keys("other", str(path))
    assert "topsecret" not in str(caught.value)


def test_no_file_and_a_bad_flag() -> None:
    with pytest.raises(LaunchError, match=r"cannot be read: No such file"):
        load_keys(None, "/no/such/file")
    with pytest.raises(LaunchError, match=re.escape("--api-key (or NLA_API_KEY): the key")):
        load_keys("two words", None)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")])  # noqa: S104
def test_keys_are_required_unless_bound_to_loopback(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        require_keys(listener, {"ada": "k"})
        if host == "127.0.0.1":
            require_keys(listener, {})
        else:
            with pytest.raises(LaunchError, match="give --api-key"):
                require_keys(listener, {})
