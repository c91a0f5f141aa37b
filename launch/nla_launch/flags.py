"""All flags of `nla-serve`, and how each one alone is read. What they mean together is checked where they are used."""

import argparse
import re
from collections.abc import Callable
from importlib.metadata import version
from math import inf
from typing import Final, NoReturn

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.limits import add_limits
from nla_launch.logs import FORMATS
from nla_launch.pair.preset import BASE, DEFAULT, NONE
from nla_launch.plan.nodes import PORTS
from nla_launch.plan.source import SOURCE_CONTEXT

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
URL_HELP: Final = {
    Role.AV: "use the verbalizer engine there, and start none; repeat for several alike",
    Role.AR: "the same for the reconstructor",
    Role.SOURCE: "the same for the source",
}
CHECKPOINT_HELP: Final = {
    Role.AV: "verbalizer checkpoint, instead of the preset's",
    Role.AR: "reconstructor checkpoint, instead of the preset's",
    Role.SOURCE: f"model that texts are read by, up to the pair's layer: `{BASE}` is the preset's base_model, `{NONE}`"
    " takes back the preset's source (default: the preset's, or none)",
}

ADAPTER_HELP: Final = (
    (Role.AV, f"LoRA adapter to merge into the {Role.AV.label}'s weights; repeat for one on top of another"),
    (Role.AR, f"the same for the {Role.AR.label}"),
)
"""Of the roles that take adapters."""


OF_ONE_PAIR: Final = ("preset", "av", "ar", "av_adapter", "ar_adapter", *(f"{role}_url" for role in Role))
"""Flags that make no sense for several pairs at once."""
REPEATED: Final = (*(f"{role}_url" for role in Role), *(f"{role}_adapter" for role, _ in ADAPTER_HELP))
SWITCHES: Final = ("trust_remote_code",)
"""Of those of a pair: what may be given more than once, and what takes no value."""


def build_parser() -> argparse.ArgumentParser:
    """Form all flags."""
    parser = argparse.ArgumentParser(
        prog="nla-serve",
        description="Serve Natural Language Autoencoder pairs: activation vectors to words and back.",
    )
    _add_served(parser)
    add = parser.add_argument_group("several pairs").add_argument
    add("--pair", action="append", default=[], metavar="NAME=PRESET|FILE",
        help="serve this pair under a name, which requests give as `model`; repeat for others: the first is for those"
        " without; flags of its own may follow, in quotes: 'NAME=PRESET --tp 2'")  # fmt: skip
    add("--pairs", metavar="FILE", help="pairs of a YAML file, `name: preset` lines, or more on each")
    _add_places(parser)
    add = parser.add_argument_group("more than one machine").add_argument
    add("--nnodes", type=_positive, default=1, metavar="N", help="machines that each engine is spread over (default 1)")
    add("--node-rank", type=_whole, metavar="N", help="with --nnodes: which of them this is, from 0")
    add("--dist-init-addr", metavar="HOST:PORT",
        help=f"with --nnodes: an address of machine 0; it takes this port and the next {PORTS}")  # fmt: skip
    _add_urls(add)
    add("--engine-listen", metavar="HOST:PORT", help="with --only: let gateways of other machines use the engine")
    add("--engine-key", metavar="KEY", help="what engines ask other machines for (or NLA_ENGINE_KEY)")
    add = parser.add_argument_group("who may call").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=_port, default=8000, help="port to listen on (default 8000)")
    add("--api-key", metavar="KEY", help="ask callers for it (or NLA_API_KEY)")
    add("--api-keys", metavar="FILE", help="ask callers for one of several, `name: key` lines in YAML, or more on each")
    add("--tls-cert", metavar="FILE", help="serve https with this certificate (PEM, with its chain)")
    add("--tls-key", metavar="FILE", help="its key (PEM, without a password)")
    add("--allow-origin", action="append", default=[], type=_origin, metavar="URL",
        help="let web pages from there call, such as https://lab.org; repeat for several (default none)")  # fmt: skip
    add("--no-docs", action="store_true", help="serve neither /docs nor /openapi.json")
    add("--no-page", action="store_true", help="serve no page at /")
    add = parser.add_argument_group("running").add_argument
    add("--workers", type=_positive, default=1, metavar="N",
        help="gateway processes (default 1, enough for 700 requests/s)")  # fmt: skip
    add("--hung-after", type=_seconds, default=120.0, metavar="SECONDS",
        help="restart an engine that makes no progress for so long (default 120)")  # fmt: skip
    add("--open", action="store_true", help="open the page in a browser once all is ready")
    add("--dry-run", action="store_true", help="print the launch plan and exit")
    add(
        "--inventory",
        metavar="FILE",
        help="with --dry-run: plan for the GPUs that this YAML file lists",
    )
    add("--log-level", choices=LOG_LEVELS, default="info", help="debug shows the engines' own output (default info)")
    add("--log-format", choices=FORMATS, default="text", help="json: an object a line, for collectors (default text)")
    add_limits(parser)
    add("--version", action="version", version=f"nla-serve {version('nla-serve')}")
    return parser


def pair_parser(name: str) -> argparse.ArgumentParser:
    """Form those flags that each of several pairs may have of its own, on top of what is given for all.

    Raises:
        LaunchError: by the parser, where it reads what makes no sense.
    """
    parser = _PairParser(prog=name, add_help=False, allow_abbrev=False)
    _add_served(parser)
    _add_places(parser)
    _add_urls(parser.add_argument)
    return parser


class _PairParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LaunchError(message)


def _add_served(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is served").add_argument
    add("--preset", metavar="NAME|FILE", help=f"pair to serve (default {DEFAULT}; `demo` runs anywhere)")
    for role in Role:
        words = f"{BASE}|REPO|DIR|{NONE}" if role is Role.SOURCE else "REPO|DIR"
        add(f"--{role}", metavar=words, help=CHECKPOINT_HELP[role])
    add("--source-context", type=_positive, metavar="N",
        help=f"tokens that a text which the source reads may have (default {SOURCE_CONTEXT}, or what the model takes)",
    )  # fmt: skip
    for role, text in ADAPTER_HELP:
        add(f"--{role}-adapter", action="append", default=[], metavar="REPO|DIR", help=text)
    add("--only", choices=[role.value for role in Role],
        help=f"serve {' or '.join(f'the {role.label}' for role in Role)} alone")  # fmt: skip


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it runs").add_argument
    add("--tp", type=_positive, metavar="N",
        help="GPUs that each engine is spread over (default 1, or all that --gpus and the like name)")  # fmt: skip
    add("--dp", type=_positive, default=1, metavar="N", help="replicas of each engine, on tp GPUs each (default 1)")
    add("--gpus", type=_indices, metavar="LIST", help="GPUs of all engines, such as 0-3,6 (default: from the first)")
    for role in Role:
        add(f"--{role}-gpus", type=_indices, metavar="LIST",
            help=f"GPUs of the {role.label} alone; needs such a list for each engine that is served")  # fmt: skip
    add("--concurrency", type=_positive, metavar="N",
        help="samples at the same time that memory is planned for (default 256 a replica, or what fits; 64 on a CPU)",
    )  # fmt: skip
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default auto: GPUs where there are any")
    add("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="default: bfloat16, on CPUs float32")
    add("--quantization", choices=("fp8",), help="weights in fewer bits, quantized at the start: fidelity changes")
    add("--trust-remote-code", action="store_true", help="run Python code that checkpoints bring (default: never)")


def _add_urls(add: Callable[..., argparse.Action]) -> None:
    for role in Role:
        add(f"--{role}-url", action="append", default=[], metavar="URL", help=URL_HELP[role])


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _port(text: str) -> int:
    value = _whole(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return value


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError("must look like https://host or https://host:port, or be *")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 5 <= value < inf:
        raise argparse.ArgumentTypeError("must be at least 5: an engine may take a second to tell")
    return value


def _indices(text: str) -> tuple[int, ...]:
    """Read a list of GPUs such as 0-3,6."""
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text):
        raise argparse.ArgumentTypeError("must look like 0-3,6")
    ends = [tuple(map(int, part.split("-"))) for part in text.split(",")]
    indices = tuple(index for end in ends for index in range(end[0], end[-1] + 1))
    if len(set(indices)) < len(indices) or any(end[0] > end[-1] for end in ends):
        raise argparse.ArgumentTypeError("must name each GPU once, in ranges from low to high")
    return indices


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
