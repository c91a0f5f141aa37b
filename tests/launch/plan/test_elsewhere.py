"""Flags that name engines of other machines, or offer ours to them."""

from typing import Any

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.plan.elsewhere import Elsewhere, read_elsewhere

GIVEN: dict[str, Any] = {"key": "k", "listen": None, "only": None}


def read(**given: Any) -> Elsewhere:
    urls = {role: given.pop(role.value, []) for role in Role}
    return read_elsewhere(urls, **(GIVEN | given))


def test_urls_by_role() -> None:
    found = read(av=["http://a:1/", "https://b"], ar=["http://[::1]:2"])
    assert found.urls == {Role.AV: ("http://a:1", "https://b"), Role.AR: ("http://[::1]:2",)}
    assert read(ar=["http://b:1"]).urls.keys() == {Role.AR}
    assert read(source=["http://c:1"]).urls == {Role.SOURCE: ("http://c:1",)}
    assert read(key=None) == Elsewhere()


def test_an_address_to_listen_on() -> None:
    assert read(listen="10.0.0.2:30000", only="av").listen == ("10.0.0.2", 30000)
    assert read(listen="[::1]:30000", only="ar").listen == ("::1", 30000)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"av": ["a:1"]}, "--av-url a:1: must look like http://host:port"),
        ({"av": ["http://a:99999"]}, "must look like"),
        ({"av": ["http://[zz]:3"]}, "must look like"),
        ({"ar": ["http://a:1/generate"]}, "--ar-url http://a:1/generate: must look like"),
        ({"av": ["http://a:1", "http://a:1"]}, "--av-url names one engine twice"),
        ({"av": ["http://a:1"], "key": None}, "--engine-key, or NLA_ENGINE_KEY"),
        ({"listen": "a:1", "only": "av", "key": ""}, "--engine-key, or NLA_ENGINE_KEY"),
        ({"key": "-k"}, "begin with a letter or digit"),
        ({"listen": "a:1"}, "--only av or --only ar or --only source"),
        ({"source": ["a:1"]}, "--source-url a:1: must look like"),
        ({"listen": "a:1", "only": "av", "av": ["http://a:1"]}, "--only av or --only ar"),
        ({"listen": "a", "only": "av"}, "--engine-listen a: must be HOST:PORT"),
        ({"listen": "a:70000", "only": "av"}, "must be HOST:PORT"),
    ],
)
def test_what_makes_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words.replace("(", r"\(")):
        read(**given)
