"""What was run, in words: the head of the page."""

import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from nla_data.asking.base import USUAL_MAX_TOKENS, dtype_for
from nla_data.asking.explain import Explain
from nla_data.asking.extract import Extract
from nla_data.report.results import REPORTED, Results
from nla_data.report.rows import Rows
from nla_data.writing.manifest import InputFile, Manifest

Facts = list[tuple[str, str]]
"""Terms with what they are."""

MAX_REASONS: Final = 20
MAX_INPUTS: Final = 20
_KINDS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def run(results: Results) -> Facts:
    """Which models did what."""
    manifest, served = results.manifest, results.manifest.served
    source = [("Source", _model(served.source))] if served.source else []
    return [
        ("Command", command(manifest)),
        *source,
        ("Verbalizer", _model(served.verbalizer)),
        ("Reconstructor", _model(served.reconstructor)),
        ("Base model", served.base_model or "not told"),
        ("Layer", "not known" if served.layer is None else str(served.layer)),
        ("d_model", f"{served.d_model:,}"),
        ("Started", manifest.started),
    ]


def command(manifest: Manifest) -> str:
    """The command, as far as its flags are not the defaults; inputs and output are told elsewhere."""
    return shlex.join(["nla", manifest.task, "IN", "OUT", *_flags(manifest)])


def models(manifest: Manifest) -> list[tuple[str, dict[str, Any] | None]]:
    """The pair, and the source where it was read, by role."""
    served = manifest.served
    pair = [("Verbalizer", served.verbalizer), ("Reconstructor", served.reconstructor)]
    return [*pair, ("Source", served.source)] if served.source else pair


def fingerprint(model: dict[str, Any] | None) -> str:
    """The start of what tells its weights from others of the same name."""
    return str((model or {}).get("fingerprint") or "not told")[:16]


def best_of(manifest: Manifest) -> int:
    """From how many samples each row's was chosen by its score."""
    return int(manifest.settings.get("n", 1)) if manifest.settings.get("best") else 1


def settings(manifest: Manifest) -> Facts:
    """All of them."""
    told = {name: _setting(value) for name, value in manifest.settings.items()}
    if manifest.settings.get("ray"):
        told["ray"] = f"yes, in parts of {manifest.settings['ray']:,} rows"
    return list(told.items())


def inputs(manifest: Manifest) -> Facts:
    """The first of the files, with their sizes."""
    shown: Facts = [(file.path, _size(file)) for file in manifest.inputs[:MAX_INPUTS]]
    more = len(manifest.inputs) - len(shown)
    return [*shown, (f"and {more:,} more", "")] if more else shown


def counts(rows: Rows) -> Facts:
    """How many rows there are, and how many are of no use."""
    share = f"{rows.incomplete:,} ({rows.incomplete / rows.good:.1%} of those without an error)" if rows.good else "0"
    failed = rows.failed.total()
    lost = f"{failed:,} ({failed / rows.count:.1%})" if rows.count else "0"
    return [
        ("Rows", f"{rows.count:,}"),
        ("Scored, and in the figures below", f"{len(rows):,}"),
        ("Failed, and left out", lost),
        ("Incomplete texts", share),
    ]


def failures(rows: Rows) -> Facts:
    """Why rows failed, the commonest first."""
    common = rows.failed.most_common(MAX_REASONS)
    other = rows.failed.total() - sum(count for _, count in common)
    told = [(reason, f"{count:,}") for reason, count in common]
    return [*told, ("other reasons", f"{other:,}")] if other else told


def cost(results: Results) -> Facts:
    """Tokens and time."""
    totals = results.totals
    rate = f"{totals.rows / totals.seconds:,.1f}" if totals.seconds else "not told"
    return [
        ("Prompt tokens", f"{totals.prompt_tokens:,}"),
        ("of them cached", f"{totals.cached_tokens:,}"),
        ("Completion tokens", f"{totals.completion_tokens:,}"),
        ("Seconds", f"{totals.seconds:,.1f}"),
        ("Texts per second" if results.manifest.task == Explain.name else "Vectors per second", rate),
    ]


def _flags(manifest: Manifest) -> Iterator[str]:
    usual = {field.name: field.default for field in fields(REPORTED[manifest.task])}
    own = dtype_for((manifest.served.verbalizer or {}).get("checkpoint_dtype"))
    usual |= {"seed": None, "vectors": Extract.vectors, "max_tokens": USUAL_MAX_TOKENS, "dtype": own}
    for name, value in manifest.settings.items():
        flag = "--column" if name in ("vector_column", "text_column") else f"--{name.replace('_', '-')}"
        if name == "vectors" and value:
            yield "--keep-vectors"
        if name == "context":  # which is the server's
            continue
        if value is None or value is False or value == [] or (name in usual and value == usual[name]):
            continue
        if value is True or name == "ray":  # which says how many rows a part has
            yield flag
        else:
            for one in value if isinstance(value, list) else [value]:
                yield from ((f"{flag}={one}",) if str(one).startswith("-") else (flag, str(one)))


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _model(model: dict[str, Any] | None) -> str:
    return str(model.get("model", "not told")) if model else "none"


def _size(file: InputFile) -> str:
    size, kind = float(file.size), 0
    while size >= 1024 and kind < len(_KINDS) - 1:
        size, kind = size / 1024, kind + 1
    return f"{size:.4g} {_KINDS[kind]}"
