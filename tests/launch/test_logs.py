"""One log of several speakers: as text, as JSON, and lines of children that are records themselves."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from nla_gateway.telemetry.logs import JsonFormatter
from nla_launch.logs import TextFormatter, pass_on

logger = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the text log shows, less the time."""
    lines = "\n".join(TextFormatter().format(record) for record in caplog.records).splitlines()
    return [line.split(" ", 1)[1] for line in lines]


def test_every_line_says_who_speaks(caplog: pytest.LogCaptureFixture) -> None:
    logger.info("starting")
    logger.warning("one\ntwo")
    assert pass_on(logger, "verbalizer", "loading %s", logging.DEBUG) == "loading %s"
    assert shown(caplog) == [
        "nla-serve | starting",
        "nla-serve | WARNING one",
        "nla-serve | WARNING two",
        "verbalizer | loading %s",
    ]
    assert caplog.records[-1].levelno == logging.DEBUG


def test_a_childs_record_keeps_level_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "GET / 500", (), None)
    record.fields = {"status": 500, "path": "/"}
    line = JsonFormatter("gateway").format(record)
    assert pass_on(logger, "gateway 2", line, logging.INFO) == "GET / 500"
    assert shown(caplog) == ["gateway 2 | ERROR GET / 500"]
    again = json.loads(JsonFormatter("nla-serve").format(caplog.records[0]))
    again.pop("time")
    expected = {"level": "error", "who": "gateway 2", "message": "GET / 500", "status": 500, "path": "/"}
    assert again == expected


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_users_error_is_one_line_in_either_form(form: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nla_launch", "--preset", "nope", "--log-format", form]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    line = done.stderr.removesuffix("\n")
    if form == "json":
        fields = json.loads(line)
        assert (fields["level"], fields["who"]) == ("error", "nla-serve")
        line = f"nla-serve: {fields['message']}"
    assert line.startswith("nla-serve: no preset 'nope': known are")
