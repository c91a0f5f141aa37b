"""Property-based: whatever fits or breaks the OpenAPI document, the server keeps to it, and never answers 500."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.stack import STAND_IN, Stack, serving


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with serving(tmp_path_factory.mktemp("schema") / "log", "--preset", "toy", "--source", STAND_IN) as stack:
        yield stack


schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "server" / "openapi.json")


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_server_keeps_to_its_document(stack: Stack, case: Any) -> None:
    case.call_and_validate(
        base_url=stack.url,
        timeout=300,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            negative_data_rejection,
        ],
    )
