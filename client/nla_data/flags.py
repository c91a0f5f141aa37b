"""All flags of `nla`."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Final, get_args

from nla_client.wire import VectorDType
from nla_data.running.progress import Mode

DEFAULT_URL: Final = "http://127.0.0.1:8000"
PATIENCE_S: Final = 600.0
DESCRIPTION: Final = """\
Take activation vectors from texts, explain, rebuild and score them, by a running nla-serve.

Input: .parquet, .arrow, .jsonl, .npy, .npz, .safetensors, .pt; folders, globs, and URIs such as s3://bucket/folder.
Output: a folder of parquet parts, or one file that ends in .parquet. The same command goes on where it was stopped.
Exit codes: 0 done, 1 stopped before the end (run it again), 2 wrong usage, input or server, 3 done, but rows failed.
"""


def build_parser() -> argparse.ArgumentParser:
    """Form all commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="nla", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"nla {version('nla-serve')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _extract(commands.add_parser("extract", help="texts, chats or token ids to vectors, a row a position"))
    _explain(commands.add_parser("explain", help="texts, chats or token ids to explanations, both steps at once"))
    _verbalize(commands.add_parser("verbalize", help="vectors to explanations, with scores if asked for"))
    _reconstruct(commands.add_parser("reconstruct", help="texts to vectors"))
    _score(commands.add_parser("score", help="texts scored against vectors"))
    _report(
        commands.add_parser("report", help="one page about what verbalize or explain --score wrote, or two such runs")
    )
    _server(commands.add_parser("info", help="what the server serves"))
    _try(commands.add_parser("try", help="one vector, explained and scored"))
    return parser


def _extract(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    _texts(parser)
    _kept_as(parser)
    parser.add_argument(
        "--seed",
        type=_not_negative,
        metavar="N",
        help="same seed, same positions drawn (default: drawn once for the output)",
    )
    _server(parser)
    _running(parser)
    _many(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    _texts(parser)
    parser.add_argument(
        "--keep-vectors", action="store_true", dest="with_vectors", help="write the vectors into the output, too"
    )
    _kept_as(parser)
    _samples(parser)
    _server(parser)
    _running(parser)
    _many(parser)


def _verbalize(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    _vectors(parser)
    _samples(parser)
    _server(parser)
    _running(parser)
    _many(parser)


def _many(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("many machines").add_argument
    add("--ray", action="store_true",
        help="done by workers of a Ray cluster, which see the same paths, or IN and OUT are URIs")  # fmt: skip
    add("--ray-address", metavar="ADDRESS", help="of the cluster (default: RAY_ADDRESS, or one on this machine)")


def _reconstruct(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    parser.add_argument("--column", default="explanation", metavar="NAME", help="of the texts (default explanation)")
    _dtype(parser)
    _server(parser)
    _running(parser)


def _score(parser: argparse.ArgumentParser) -> None:
    _files(parser, out_optional=True)
    _vectors(parser)
    parser.add_argument(
        "--text-column", default="explanation", metavar="NAME", help="of the texts (default explanation)"
    )
    _server(parser)
    _running(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="what nla verbalize or explain --score wrote, finished or not")
    parser.add_argument("other", nargs="?", metavar="B", help="a second run of the same rows, compared pair by pair")
    parser.add_argument(
        "--to", metavar="FILE.html", help="where the page goes (default: OUT.html, or OUT_against_B.html, beside OUT)"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="COLUMN",
        help="tell the figures by the values of this column, too (beside layer); repeat for more",
    )
    add = parser.add_argument_group("server").add_argument
    add("--url", metavar="URL", help="of an nla-serve with the run's reconstructor: adds the controls that rebuild "
        "texts; all else needs no server")  # fmt: skip
    add("--api-key", metavar="KEY", help="its key (or NLA_API_KEY)")
    _model(add)


def _try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a file of vectors (default: one of the demo pair's)")
    parser.add_argument("--row", type=_not_negative, default=0, metavar="N", help="which of them, from 0 (default 0)")
    parser.add_argument("--n", type=_positive, default=1, metavar="N", help="samples (default 1)")
    parser.add_argument("--column", default="activation_vector", metavar="NAME", help="of the vectors")
    _sampling(parser)
    parser.add_argument("--seed", type=_not_negative, metavar="N", help="same seed, same explanation")
    _server(parser)


def _files(parser: argparse.ArgumentParser, *, out_optional: bool = False) -> None:
    if out_optional:
        parser.add_argument("inputs", nargs=1, metavar="IN", help="a file, folder, glob or URI")
        parser.add_argument(
            "out", nargs="?", metavar="OUT", help="a folder or a .parquet file; without it, only totals are told"
        )
    else:
        parser.add_argument(
            "inputs", nargs="+", metavar="IN", help="files, folders, globs, URIs; rows come in this order"
        )
        parser.add_argument("out", metavar="OUT", help="a folder, or a file that ends in .parquet")
    add = parser.add_argument_group("rows and columns").add_argument
    add("--where", metavar="SQL", help="only these rows, such as \"layer = 20 AND token <> 'the'\" (DuckDB's dialect)")
    add("--limit", type=_not_negative, metavar="N", help="at most so many rows")
    add(
        "--drop",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this column out of the output; repeat for more",
    )


def _vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--column", default="activation_vector", metavar="NAME", help="of the vectors (default activation_vector)"
    )
    parser.add_argument("--keep-vectors", action="store_true", help="carry the vectors into the output, too")
    _dtype(parser)


def _texts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("texts").add_argument
    add("--column", default="text", metavar="NAME",
        help="of texts, chats (lists of role and content) or lists of token ids (default text)")  # fmt: skip
    add("--positions", default="last", metavar="WHICH",
        help="tokens to read: last, all, content, random:N, or numbers such as 0,5,-1, with = before a"
             " negative first one (default last)")  # fmt: skip
    add("--min-position", type=_not_negative, metavar="N", help="where random:N begins to draw (default 50)")
    add("--truncate", action="store_true",
        help="cut texts that are longer than the source's context (else they are rows that fail)")  # fmt: skip


def _kept_as(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vectors", choices=("float32", "bfloat16"), default="float32",
        help="what vectors are written as; bfloat16 as its bits, uint16 (default float32)",
    )  # fmt: skip


def _samples(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--n", type=_positive, default=1, metavar="N", help="samples of each vector (default 1)")
    add("--best", action="store_true", help="score all samples of a vector and choose the one whose mse is lowest")
    add("--score", action="store_true", help="score every text against its vector")
    _sampling(parser)
    add(
        "--seed",
        type=_not_negative,
        metavar="N",
        help="same seed, same explanations (default: drawn once for the output)",
    )


def _dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=get_args(VectorDType), help="of vectors on the wire (default: that of the engine)"
    )


def _sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=_number, default=1.0, metavar="T", help="0 means greedy (default 1)")
    parser.add_argument(
        "--top-p", type=_number, default=1.0, metavar="P", help="likeliest tokens of this total (default 1)"
    )
    parser.add_argument("--top-k", type=_positive, metavar="K", help="so many likeliest tokens (default all)")
    parser.add_argument(
        "--max-tokens", type=_positive, metavar="N", help="of a sample (default 200, or the server's limit)"
    )


def _server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--url", action="append", metavar="URL",
        help=f"of nla-serve (default {DEFAULT_URL}); repeat for several that serve the same")  # fmt: skip
    add("--api-key", metavar="KEY", help="its key (or NLA_API_KEY)")
    _model(add)


def _model(add: Callable[..., argparse.Action]) -> None:
    add(
        "--model",
        metavar="NAME",
        help="of its pair, of several: nla info tells (default: its first)",
    )


def _running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running").add_argument
    add("--progress", choices=get_args(Mode), default="auto", help="auto: a bar on a terminal, elsewhere lines")
    add("--patience", type=_seconds, default=PATIENCE_S, metavar="SECONDS",
        help="how long to wait for a server that does not answer (default 600)")  # fmt: skip


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value
