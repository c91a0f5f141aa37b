"""The error table is total: every type has a status, every status a type, every error class a type of its own."""

from typing import get_args

from nla_client.wire import STATUS, ErrorType
from nla_gateway import errors
from nla_gateway.api.http import error_detail
from nla_gateway.api.json_route import param_of


def test_table_is_total_and_one_to_one() -> None:
    assert set(STATUS) == set(get_args(ErrorType))
    assert len(set(STATUS.values())) == len(STATUS)


def test_each_request_error_has_its_own_type() -> None:
    types = [cls.type for cls in errors.RequestError.__subclasses__()]
    assert len(set(types)) == len(types)
    assert "internal" not in types


def test_a_bug_shows_nothing_of_itself() -> None:
    detail = error_detail(ValueError("secret"), "id1")
    assert (detail.type, detail.request_id) == ("internal", "id1")
    assert "secret" not in detail.message


def test_param_names_follow_the_contract() -> None:
    assert param_of(("vectors", "many", 3)) == "vectors[3]"
    assert param_of(("n",)) == "n"
    assert param_of(()) is None
