"""The committed openapi.json is what the gateway serves; `make openapi` writes it anew."""

import json
from pathlib import Path

from nla_gateway.api.app import create_app
from nla_gateway.settings import Settings

COMMITTED = Path(__file__).parents[3] / "server" / "openapi.json"


def test_openapi_is_pinned() -> None:
    current = create_app(Settings(pairs=())).openapi()
    assert json.loads(COMMITTED.read_text()) == current, "the API changed: `make openapi`, and tell users"
