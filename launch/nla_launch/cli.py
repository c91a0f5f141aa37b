"""The command `nla-serve`: from flags to an exit code. Slow imports wait until the flags are known to be right."""

import argparse
import logging
import os
import sys
from contextlib import closing

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.keys import load_keys, require_keys
from nla_launch.limits import check_limits, limits_of
from nla_launch.logs import set_up_logs
from nla_launch.pair.preset import BASE, DEFAULT, NONE, Preset, load_preset
from nla_launch.pair.sources import Based, Source
from nla_launch.plan.elsewhere import KEY_VARIABLE, read_elsewhere

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
    preset = _preset(arguments)
    limits = limits_of(arguments)
    key = arguments.engine_key or os.environ.get(KEY_VARIABLE)
    urls = {role: getattr(arguments, f"{role}_url") for role in Role}
    elsewhere = read_elsewhere(urls, key=key, listen=arguments.engine_listen, only=arguments.only)
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
    from nla_launch.plan.planning import plan_all

    if arguments.dry_run:
        from nla_launch.plan.describe import describe
        from nla_launch.plan.sharing import mps_folder, mps_runs

        engines, others = plan_all(preset, arguments, elsewhere)
        check_limits(limits, engines)
        mps = mps_runs(mps_folder()) if arguments.inventory is None else None
        sys.stdout.write(describe(engines, others, elsewhere.listen, mps) + "\n")
        return 0
    from nla_launch.run import service
    from nla_launch.run.forking import ForkServer

    # Machine 0 has the gateways: on the others nobody calls.
    listener = None if arguments.node_rank else service.listen(arguments.host, arguments.port)
    if listener is not None:
        require_keys(listener, keys)
    with closing(ForkServer()) as forks:
        engines, others = plan_all(
            preset, arguments, elsewhere, on_plan=lambda plans: forks.start(plans[0].import_environment())
        )
        check_limits(limits, engines)
        if listener is None:
            service.serve_part(engines, forks)
            return 0
        service.serve(
            engines, others, elsewhere, preset, listener, forks=forks, host=arguments.host, access=access,
            limits=limits, tls=tls, log_level=arguments.log_level, workers=arguments.workers,
            hung_after_s=arguments.hung_after, open_page=arguments.open,
        )  # fmt: skip
    return 0


def _preset(arguments: argparse.Namespace) -> Preset:
    """Combine the preset with the checkpoints given; given all and no preset, none is needed."""
    only = None if arguments.only is None else Role(arguments.only)
    needed = [Role.AV, Role.AR] if only is None else [only]
    for role in Role:
        if only not in (None, role) and _is_given(arguments, role):
            raise LaunchError(f"--only {only} serves no {role.label}, but one is given: leave out either")
    given: dict[Role, Source] = {role: source for role in Role if (source := getattr(arguments, role))}
    if arguments.preset is None and all(role in given and given[role] != BASE for role in needed):
        base = Preset(name="custom", av=None, ar=None)
    else:
        base = load_preset(arguments.preset or DEFAULT)
    sources = base.sources | given
    if (only is Role.SOURCE or arguments.source_url) and Role.SOURCE not in sources:
        sources[Role.SOURCE] = BASE
    source = _source(sources.pop(Role.SOURCE, NONE), base) if only in (None, Role.SOURCE) else None
    if source is not None:
        sources[Role.SOURCE] = source
    elif only is Role.SOURCE or arguments.source_url or arguments.source_context:
        raise LaunchError("no source is served: give --source, or leave out the flags that are for one")
    for role in needed:
        if role not in sources:
            raise LaunchError(f"preset {base.name} has no `{role}`: give --{role}")
        if adapters := getattr(arguments, f"{role}_adapter", None):
            below = sources[role]
            sources[role] = Based(base=below if isinstance(below, str) else below.base, adapters=tuple(adapters))
    return base.model_copy(update={role.value: sources.get(role) for role in Role})


def _is_given(arguments: argparse.Namespace, role: Role) -> bool:
    """Whether the flags name a role's checkpoint, adapters or engine."""
    named = (getattr(arguments, f"{role}{kind}", None) for kind in ("", "_url", "_adapter"))
    return any(value and value != NONE for value in named)


def _source(given: Source, preset: Preset) -> str | None:
    """Tell which model the source is; None where there is none.

    Raises:
        LaunchError: it is to be the base model, and none is named.
    """
    if given == NONE:
        return None
    if given == BASE and preset.base is None:
        raise LaunchError(
            f"--source {BASE}: preset {preset.name} has no `base_model`: add `base_model: REPO` to it, or give --source"
            " REPO|DIR"
        )
    return preset.base if given == BASE else str(given)
