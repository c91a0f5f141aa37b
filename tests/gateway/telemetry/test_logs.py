"""The log's lines, and that a log which nobody reads holds nobody up."""

import json
import logging
import os
import subprocess
import sys
from datetime import datetime

import pytest

from nla_gateway.telemetry.logs import FLUSH_S, MOST_LINES, JsonFormatter, read_json

PROGRAM = """
import logging, sys
from nla_gateway.telemetry import logs
from nla_gateway.telemetry.logs import JsonFormatter, StderrHandler
logs.FLUSH_S = {flush_s}
logging.basicConfig(level="INFO", handlers=[StderrHandler(JsonFormatter("test"))])
for number in range({lines}):
    logging.info("%s %s", number, "filler " * 15)
print("done", flush=True)
sys.stdin.read()
logging.info("the end")
"""


def start(lines: int, flush_s: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(lines=lines, flush_s=flush_s)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_record_as_json() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a %s", ('"b"\n',), None)
    record.fields = {"status": 200, "caller": None}
    line = JsonFormatter("me").format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert datetime.fromisoformat(fields.pop("time")).utcoffset() is not None
    assert fields == {"level": "warning", "who": "me", "message": 'a "b"\n', "status": 200, "caller": None}


@pytest.mark.parametrize("line", ["", "Traceback", '{"time": ', "{}"])
def test_other_lines_are_no_records(line: str) -> None:
    assert read_json(line) is None


def test_every_line_is_written_where_somebody_reads() -> None:
    _, errors = start(lines=1000).communicate(timeout=60)
    messages = [json.loads(line)["message"] for line in errors.splitlines()]
    assert [message.split()[0] for message in messages] == [*map(str, range(1000)), "the"]


def test_unread_lines_hold_nobody_up_and_are_counted() -> None:
    lines = MOST_LINES + 5000
    process = start(lines)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "done\n"
    read = os.read(process.stderr.fileno(), 65536).decode()
    _, rest = process.communicate(timeout=60)
    messages = [json.loads(line)["message"] for line in (read + rest).splitlines()]
    lost = sum(int(message.split()[0]) for message in messages if "were lost here" in message)
    assert lost > 0
    assert lost + sum("filler" in message or message == "the end" for message in messages) == lines + 1


def test_a_process_whose_log_nobody_reads_ends() -> None:
    process = start(MOST_LINES + 5000, FLUSH_S)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "done\n"
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    process.stderr.close()


def test_what_was_logged_is_written_once_it_is_waited_for() -> None:
    program = PROGRAM.replace('print("done", flush=True)', 'logging.root.handlers[0].drain(); os.write(2, b"done\\n")')
    command = [sys.executable, "-c", "import os" + program.format(lines=100, flush_s=60)]
    run = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert [line[:1] for line in run.stderr.splitlines()] == [*"{" * 100, "d", "{"]
