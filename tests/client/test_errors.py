import pickle
from typing import Any, get_args

import pytest

import nla_client
from nla_client import errors
from nla_client.wire import STATUS, ErrorType


def test_every_error_type_has_one_class_and_one_status() -> None:
    types = set(get_args(ErrorType))
    assert set(errors.ERROR_CLASSES) == types == set(STATUS)
    assert set(errors.ERROR_CLASSES.values()) == set(errors.APIStatusError.__subclasses__())
    assert all(cls.type == kind for kind, cls in errors.ERROR_CLASSES.items())


def test_the_tree_in_the_docstring_names_every_class_and_status() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    for cls in classes:
        assert f"{cls.__name__} " in errors.__doc__ or f"{cls.__name__}\n" in errors.__doc__
        assert issubclass(cls, nla_client.NLAError)
    for kind, cls in errors.ERROR_CLASSES.items():
        assert f"{cls.__name__} " in errors.__doc__
        assert f"{STATUS[kind]} {kind}\n" in errors.__doc__


def test_argument_errors_are_value_errors_and_timeouts_connection_errors() -> None:
    assert issubclass(errors.InvalidVectorError, ValueError)
    assert issubclass(errors.InvalidArgumentError, ValueError)
    assert issubclass(errors.APITimeoutError, errors.APIConnectionError)


def test_text_of_a_status_error_holds_all_that_helps() -> None:
    error = errors.InvalidRequestError("is zero", param="vectors[3]", request_id="r")
    assert str(error) == "400 invalid_request: is zero (param vectors[3], request r)"
    assert str(errors.InternalServerError("oh", status_code=502)) == "502 internal: oh"
    limited = errors.OverloadedError("wait", request_id="r", retry_after=1234567, exceeded="tokens")
    assert str(limited) == "429 overloaded: wait (limit tokens a minute, come again in 1234567 s, request r)"
    assert limited.rate_limited
    assert str(errors.OverloadedError("full", retry_after=7)) == "429 overloaded: full"


@pytest.mark.parametrize("cls", errors.ERROR_CLASSES.values())
def test_status_errors_survive_pickling(cls: Any) -> None:
    error = cls("no", param="n", request_id="r", body="{}", retry_after=2.0, exceeded="requests")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is cls
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
