"""The command `nla-serve`: from flags to an exit code. Slow imports wait until the flags are known to be right."""

import argparse
import logging
import os
import sys
from contextlib import closing

from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.keys import load_keys, require_keys
from nla_launch.limits import check_limits, limits_of
from nla_launch.logs import set_up_logs
from nla_launch.pairs import asked_for

logger = logging.getLogger(__name__)


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
    asked = asked_for(arguments)
    limits = limits_of(arguments)
    keys = load_keys(arguments.api_key, arguments.api_keys, os.environ.get("NLA_API_KEY"))
    from nla_gateway.settings import Access
    from nla_launch.tls import load_tls

    tls = load_tls(arguments.tls_cert, arguments.tls_key)
    access = Access(
        api_keys={name: entry.key for name, entry in keys.items()},
        shares={name: entry.share() for name, entry in keys.items()},
        allow_origins=tuple(arguments.allow_origin),
        docs=not arguments.no_docs,
        page=not arguments.no_page,
    )
    from nla_launch.plan.plan import import_environment
    from nla_launch.plan.planning import engines_of, plan_all

    if arguments.dry_run:
        from nla_launch.plan.describe import describe
        from nla_launch.plan.sharing import mps_folder, mps_runs

        pairs = plan_all(asked)
        engines, others = engines_of(pairs), [one for pair in pairs for one in pair.others.items()]
        check_limits(limits, engines)
        mps = mps_runs(mps_folder()) if arguments.inventory is None else None
        sys.stdout.write(describe(engines, others, asked[0].elsewhere.listen, mps) + "\n")
        return 0
    from nla_launch.run import service
    from nla_launch.run.forking import ForkServer

    # Machine 0 has the gateways: on the others nobody calls.
    listener = None if arguments.node_rank else service.listen(arguments.host, arguments.port)
    if listener is not None:
        require_keys(listener, keys)
    with closing(ForkServer()) as forks:
        pairs = plan_all(asked, on_plan=lambda engines: forks.start(import_environment(engines)))
        check_limits(limits, engines_of(pairs))
        if listener is None:
            service.serve_part(engines_of(pairs), forks)
            return 0
        service.serve(
            pairs, listener, forks=forks, host=arguments.host, access=access, limits=limits, tls=tls,
            log_level=arguments.log_level, workers=arguments.workers, hung_after_s=arguments.hung_after,
            open_page=arguments.open,
        )  # fmt: skip
    return 0
