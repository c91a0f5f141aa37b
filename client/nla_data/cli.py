"""The command `nla`: from flags to an exit code."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from nla_client import NLAError
from nla_data.errors import DataError, UsageError
from nla_data.flags import DEFAULT_URL, build_parser
from nla_data.running import blocking
from nla_data.running.progress import sentence

if TYPE_CHECKING:
    from pathlib import Path

    from nla_data.asking.tasks import Task
    from nla_data.run import Job, Outcome

T = TypeVar("T")
STOPPED: Final = 1
WRONG: Final = 2
SOME_FAILED: Final = 3


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code; see the help."""
    arguments = build_parser().parse_args(argv)
    try:
        return _commands[arguments.command](arguments)
    except (DataError, NLAError) as error:
        sys.stderr.write(f"nla: {error}\n")
        return WRONG if isinstance(error, UsageError) or not isinstance(error, DataError) else STOPPED
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("nla: stopped; the same command goes on where it was\n")
        return STOPPED


def _dataset(arguments: argparse.Namespace) -> int:
    from nla_data.run import run

    outcome = _until_stopped(run(_job(arguments)))
    _tell(outcome, arguments.progress)
    return SOME_FAILED if outcome.totals.failed else 0


def _job(arguments: argparse.Namespace) -> "Job":
    from nla_data.run import Job

    return Job(task=_task(arguments), urls=arguments.url or [DEFAULT_URL], **_of(Job, arguments))


def _task(arguments: argparse.Namespace) -> "Task":
    from nla_data.asking.explain import Explain
    from nla_data.asking.extract import Extract
    from nla_data.asking.tasks import Reconstruct, ScorePairs, Verbalize

    if arguments.command == "extract":
        return Extract(text_column=arguments.column, **_of(Extract, arguments))
    if arguments.command == "explain":
        vectors = arguments.vectors if arguments.with_vectors else None
        return Explain(text_column=arguments.column, **_of(Explain, arguments) | {"vectors": vectors})
    if arguments.command == "reconstruct":
        return Reconstruct(text_column=arguments.column, dtype=arguments.dtype)
    if arguments.command == "score":
        return ScorePairs(arguments.column, arguments.text_column, arguments.dtype)
    return Verbalize(vector_column=arguments.column, **_of(Verbalize, arguments))


def _of(kind: type[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that a dataclass has fields for."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or until Ctrl-C or SIGTERM, after which what is done is still written."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # on Windows Ctrl-C cancels it without
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    return asyncio.run(cancellable())


def _tell(outcome: "Outcome", progress: str) -> None:
    totals = outcome.totals
    if progress == "json":
        means = {"mean_mse": totals.mean_mse, "mean_fve": totals.mean_fve, "out": outcome.out}
        sys.stdout.write(orjson.dumps(totals.model_dump() | means).decode() + "\n")
    elif progress != "quiet" or outcome.out is None:
        rate = totals.rows / totals.seconds if totals.seconds else 0.0
        mse = "" if totals.mean_mse is None else f", mean mse {totals.mean_mse:.4f}"
        where = f"{outcome.out}: " if outcome.out else ""
        again = " (it was finished before)" if outcome.was_finished else ""
        sys.stdout.write(f"{where}{sentence(totals, None, rate)}{mse}{again}\n")


def _info(arguments: argparse.Namespace) -> int:
    from nla_data import show

    for url in arguments.url or [DEFAULT_URL]:
        show.info(url, arguments.api_key, arguments.model)
    return 0


def _try(arguments: argparse.Namespace) -> int:
    from nla_data import show

    url = (arguments.url or [DEFAULT_URL])[0]
    names = ("n", "temperature", "top_p", "top_k", "max_tokens", "seed")
    sampling = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    place = show.Place(arguments.file, arguments.row, arguments.column)
    _until_stopped(blocking.to_end(lambda _: show.one(url, arguments.api_key, arguments.model, place, sampling)))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from nla_data.report.build import write_report
    from nla_data.report.compare import write_comparison

    out, other, to, groups, url = (getattr(arguments, name) for name in ("out", "other", "to", "group", "url"))
    if other is not None and url is not None:
        raise UsageError("--url goes with one output: two are compared by what is in them")

    def write() -> "Path":
        if other is None:
            return write_report(out, to, groups, url, arguments.api_key, model=arguments.model)
        return write_comparison(out, other, to, groups)

    path = _until_stopped(blocking.to_end(lambda _: write()))
    sys.stdout.write(f"{path}\n")
    return 0


_commands: Final = {
    "extract": _dataset,
    "explain": _dataset,
    "verbalize": _dataset,
    "reconstruct": _dataset,
    "score": _dataset,
    "report": _report,
    "info": _info,
    "try": _try,
}
