"""The command `nla-serve`: flags in, exit code out. Slow imports wait until the flags are known to be right."""

import argparse
import logging
import os
import re
import sys
from importlib.metadata import version
from math import inf
from typing import Final

from nla_launch.elsewhere import KEY_VARIABLE, read_elsewhere
from nla_launch.errors import LaunchError
from nla_launch.keys import load_keys, require_keys
from nla_launch.limits import add_limits, check_limits, limits_of
from nla_launch.logs import FORMATS, set_up_logs
from nla_launch.preset import DEFAULT, Preset, load_preset

logger = logging.getLogger(__name__)

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def build_parser() -> argparse.ArgumentParser:
    """Form the flags, as the contract has them."""
    parser = argparse.ArgumentParser(
        prog="nla-serve", description="Serve a Natural Language Autoencoder pair: activation vectors to words and back."
    )
    add = parser.add_argument
    add("--preset", metavar="NAME|FILE", help=f"pair to serve (default {DEFAULT}; `demo` runs anywhere)")
    add("--av", metavar="REPO|DIR", help="verbalizer checkpoint, instead of the preset's")
    add("--ar", metavar="REPO|DIR", help="reconstructor checkpoint, instead of the preset's")
    add("--only", choices=("av", "ar"), help="serve the verbalizer or the reconstructor alone")
    add("--tp", type=_positive, metavar="N",
        help="GPUs that each engine is spread over (default 1, or all that --gpus and the like name)")  # fmt: skip
    add("--dp", type=_positive, default=1, metavar="N", help="replicas of each engine, on tp GPUs each (default 1)")
    add("--gpus", type=_indices, metavar="LIST", help="GPUs of both engines, such as 0-3,6 (default: from the first)")
    add("--av-gpus", type=_indices, metavar="LIST", help="GPUs of the verbalizer alone; needs --ar-gpus")
    add("--ar-gpus", type=_indices, metavar="LIST", help="GPUs of the reconstructor alone; needs --av-gpus")
    add("--concurrency", type=_positive, metavar="N",
        help="samples at the same time that memory is planned for (default 256 a replica, or what fits; 64 on a CPU)",
    )  # fmt: skip
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default auto: GPUs where there are any")
    add("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="default: bfloat16, on CPUs float32")
    add("--quantization", choices=("fp8",), help="weights in fewer bits, quantized at the start: fidelity changes")
    add("--trust-remote-code", action="store_true", help="run Python code that checkpoints bring (default: never)")
    add("--nnodes", type=_positive, default=1, metavar="N", help="machines that each engine is spread over (default 1)")
    add("--node-rank", type=int, metavar="N", help="with --nnodes: which of them this is, from 0")
    add("--dist-init-addr", metavar="HOST:PORT",
        help="with --nnodes: an address of machine 0; it takes this port and the next 40")  # fmt: skip
    add("--av-url", action="append", default=[], metavar="URL",
        help="use the verbalizer engine there, and start none; repeat for several alike")  # fmt: skip
    add("--ar-url", action="append", default=[], metavar="URL", help="the same for the reconstructor")
    add("--engine-listen", metavar="HOST:PORT", help="with --only: let gateways of other machines use the engine")
    add("--engine-key", metavar="KEY", help="what engines ask other machines for (or NLA_ENGINE_KEY)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=_port, default=8000, help="port to listen on (default 8000)")
    add(
        "--workers",
        type=_positive,
        default=1,
        metavar="N",
        help="gateway processes (default 1, enough for 700 requests/s)",
    )
    add("--api-key", metavar="KEY", help="ask callers for it (or NLA_API_KEY)")
    add("--api-keys", metavar="FILE", help="ask callers for one of several, `name: key` lines in YAML")
    add("--tls-cert", metavar="FILE", help="serve https with this certificate (PEM, with its chain)")
    add("--tls-key", metavar="FILE", help="its key (PEM, without a password)")
    add("--allow-origin", action="append", default=[], type=_origin, metavar="URL",
        help="let web pages from there call, such as https://lab.org; repeat for several (default none)")  # fmt: skip
    add("--no-docs", action="store_true", help="serve neither /docs nor /openapi.json")
    add("--hung-after", type=_seconds, default=120.0, metavar="SECONDS",
        help="restart an engine that makes no progress for so long (default 120)")  # fmt: skip
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


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 clean stop, 1 the service failed, 2 wrong usage or checkpoint."""
    arguments = build_parser().parse_args(argv)
    set_up_logs(arguments.log_level, arguments.log_format)
    try:
        return _run(arguments)
    except LaunchError as error:
        logger.error("%s", error, extra={"plain": True})
        return error.exit_code


def _run(arguments: argparse.Namespace) -> int:
    preset = _preset(arguments)
    limits = limits_of(arguments)
    key = arguments.engine_key or os.environ.get(KEY_VARIABLE)
    elsewhere = read_elsewhere(
        arguments.av_url, arguments.ar_url, key=key, listen=arguments.engine_listen, only=arguments.only
    )
    keys = load_keys(arguments.api_key, arguments.api_keys, os.environ.get("NLA_API_KEY"))
    from nla_gateway.settings import Access
    from nla_launch import service
    from nla_launch.tls import load_tls

    tls = load_tls(arguments.tls_cert, arguments.tls_key)
    access = Access(api_keys=keys, allow_origins=tuple(arguments.allow_origin), docs=not arguments.no_docs)
    listener = None if arguments.dry_run else service.listen(arguments.host, arguments.port)
    if listener is not None:
        require_keys(listener, keys)
    from nla_launch.describe import describe
    from nla_launch.planning import plan_all

    engines, others = plan_all(preset, arguments, elsewhere)
    check_limits(limits, engines)
    if listener is None:
        sys.stdout.write(describe(engines, others) + "\n")
        return 0
    if any(engine.nodes is not None and engine.nodes.rank > 0 for engine in engines):
        listener.close()
        service.serve_part(engines)
        return 0
    service.serve(
        engines, others, elsewhere, preset, listener, host=arguments.host, access=access, limits=limits, tls=tls,
        log_level=arguments.log_level, workers=arguments.workers, hung_after_s=arguments.hung_after,
    )  # fmt: skip
    return 0


def _preset(arguments: argparse.Namespace) -> Preset:
    """Combine the preset with the checkpoints given; given both and no preset, none is needed."""
    given = {"av": arguments.av, "ar": arguments.ar}
    wanted = ("av", "ar") if arguments.only is None else (arguments.only,)
    if arguments.preset is None and all(given[role] for role in wanted):
        base = Preset(name="custom", av=None, ar=None)
    else:
        base = load_preset(arguments.preset or DEFAULT)
    changes = {role: given[role] or getattr(base, role) for role in wanted}
    missing = [role for role in wanted if changes[role] is None]
    if missing:
        raise LaunchError(f"preset {base.name} has no `{missing[0]}`: give --{missing[0]}")
    other = {role: None for role in ("av", "ar") if role not in wanted}
    return base.model_copy(update=changes | other)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return value


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError("must look like https://host or https://host:port, or be *")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value < inf:
        raise argparse.ArgumentTypeError("must be at least 1")
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
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
