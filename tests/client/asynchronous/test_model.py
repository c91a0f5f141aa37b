"""One pair of several: a client that is told its name asks for it in all that it sends."""

import pickle
from typing import Any

import httpx
import numpy as np
import pytest

from nla_client import InvalidArgumentError, NLAClient, NLACritic, NotFoundError

VECTORS = np.ones((3, 4), dtype=np.float32)


def names(server: Any) -> list[Any]:
    return [(body or {}).get("model", request.url.params.get("model")) for request, body in zip(
        server.requests, server.bodies, strict=True
    )]  # fmt: skip


def everything(faces: Any, **given: Any) -> None:
    """Each call once, some in several requests."""
    nla, critic = faces.nla(batch_size=2, **given), faces.critic(batch_size=2, **given)
    nla.verbalize(VECTORS)
    nla.tokenize("a")
    nla.extract("a")
    nla.explain("a")
    critic.reconstruct(["1", "2", "3"])
    critic.score("1", VECTORS[0])
    critic.score_all(["1", "2"], VECTORS)
    critic.ablate("1", VECTORS[0])
    for face in (nla, critic):
        face.info()
        assert face.ready()


def test_all_requests_name_it(faces: Any, server: Any) -> None:
    everything(faces, model="two")
    assert len(server.requests) > 12
    assert set(names(server)) == {"two"}
    # Else as without: the name is all that is added.
    named = [{key: value for key, value in (body or {}).items() if key != "model"} for body in server.bodies]
    server.requests.clear()
    server.bodies.clear()
    everything(faces)
    assert set(names(server)) == {None}
    as_text = sorted(map(repr, named))
    assert sorted(repr(body or {}) for body in server.bodies) == as_text


def test_streams_name_it(faces: Any, server: Any, sse: Any) -> None:
    done = sse("done", {"usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}})
    server.script = [httpx.Response(200, content=done) for _ in range(2)]
    nla = faces.nla(model="two")
    nla.events(VECTORS[0])
    nla.explain_events("a")
    assert names(server) == ["two", "two"]


def test_a_list_of_pairs_is_of_the_server(faces: Any, server: Any) -> None:
    assert [one.id for one in faces.nla(model="two").models()] == ["one", "two"]
    assert names(server) == [None]


def test_a_pair_that_is_not_there(faces: Any, server: Any, error_body: Any) -> None:
    server.script = [httpx.Response(404, json=error_body("not_found", "no pair 'x' is served here", "model"))]
    with pytest.raises(NotFoundError, match="no pair 'x'") as told:
        faces.nla(model="x").verbalize(VECTORS)
    assert told.value.param == "model"


@pytest.mark.parametrize("model", ["", 3, b"two", ["two"]])
@pytest.mark.parametrize("kind", [NLAClient, NLACritic])
def test_what_is_no_name(kind: Any, model: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="model must be the name of a pair"):
        kind("http://nla:8000", model=model)


def test_it_goes_along_to_other_processes() -> None:
    with NLAClient("http://nla:8000", model="two") as nla:
        assert pickle.loads(pickle.dumps(nla))._connection.settings.model == "two"  # noqa: S301 - our own
