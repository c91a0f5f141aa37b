"""From a preset and flags to a plan: finds checkpoints and GPUs, checks them, and plans the engines."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from nla_gateway.description import Description
from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch.errors import LaunchError
from nla_launch.pair.bases import served_config, whole_config
from nla_launch.pair.checkpoints import Checkpoint, Need, find, wanted_of
from nla_launch.pair.describing import layer_beside
from nla_launch.pair.fetching import fetch_all
from nla_launch.pair.model_config import read_stored
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.preset import Preset
from nla_launch.pair.reading import NO_LAYER, NOT_KNOWN, PairLayer, pair_layer
from nla_launch.pair.sources import Source
from nla_launch.plan.advice import plan_or_advise
from nla_launch.plan.elsewhere import Elsewhere
from nla_launch.plan.gpus import Gpu, find_gpus, supposed_gpus
from nla_launch.plan.inventory import read_inventory
from nla_launch.plan.nodes import read_nodes
from nla_launch.plan.placement import GpuChoice, Request, Target
from nla_launch.plan.plan import EnginePlan

logger = logging.getLogger(__name__)

NOWHERE: Final = Elsewhere()


def plan_all(
    preset: Preset,
    arguments: argparse.Namespace,
    elsewhere: Elsewhere = NOWHERE,
    on_plan: Callable[[list[EnginePlan]], None] = lambda plans: None,
) -> tuple[list[EnginePlan], dict[Role, EngineSettings]]:
    """Plan the engines of a preset on this machine's GPUs, or on those of --inventory; and those that run elsewhere.

    Planned twice for a hub repository: before its weights are fetched, for a plan that cannot work should say so at
    once, and after.

    Args:
        preset: what is to be served.
        arguments: how, as the command line's flags have it.
        elsewhere: engines of other machines.
        on_plan: called with the first plan, where it is to be run: much can be got ready while checkpoints are
            fetched and checked.

    Raises:
        LaunchError: a checkpoint that cannot be served, or a plan that cannot work.
    """
    request = read_request(preset, arguments)
    if request.quantization is not None:
        logger.warning("%s weights change texts, vectors and scores: measure how much", request.quantization)
    gpus, trust = _gpus(request, arguments), request.trust_remote_code
    served = {role: one for role, one in preset.sources.items() if arguments.only in (None, role)}
    ours = {role: source for role, source in served.items() if role not in elsewhere.urls}
    others = {role: source for role, source in served.items() if role in elsewhere.urls}
    need: Need = "plan" if arguments.dry_run else "all but weights"
    beside = _beside(preset) if served.keys() == {Role.SOURCE} else NOT_KNOWN
    there = {role: find(source, need, code=trust) for role, source in others.items()}
    here = {role: find(source, "plan", code=trust) for role, source in ours.items()}
    described = describe_checkpoints(here | there, preset, beside=beside, fetched=False, trust_remote_code=trust)
    plans = _plan(here, described, request, gpus)
    if not arguments.dry_run:
        if plans:
            on_plan(plans)
        here = _fetched(ours, there, preset, beside, trust_remote_code=trust)
        described = describe_checkpoints(here | there, preset, beside=beside, trust_remote_code=trust)
        check_checkpoints(here | there, described, elsewhere=set(there), trust_remote_code=trust)
        plans = _plan(here, described, request, gpus)
    return plans, {role: elsewhere.settings(role, one, described.get(role), request) for role, one in there.items()}


def _beside(preset: Preset) -> PairLayer:
    """Read the sidecars of a pair of which the source alone is served.

    Raises:
        LaunchError: they do not fit, or they are here, and nothing states the layer.
    """
    pair = [find(source, "plan") for role, source in preset.sources.items() if role is not Role.SOURCE]
    try:
        found = layer_beside([one.places for one in pair])
    except CheckpointError as error:
        raise LaunchError(str(error)) from None
    if found.layer is None and preset.layer is None and all(one.folder is not None for one in pair):
        raise LaunchError(f"{preset.sources[Role.SOURCE]}: {NO_LAYER}")
    return found


def _fetched(
    ours: Mapping[Role, Source],
    there: Mapping[Role, Checkpoint],
    preset: Preset,
    beside: PairLayer,
    *,
    trust_remote_code: bool,
) -> dict[Role, Checkpoint]:
    """Fetch what our engines load, all at the same time: of a source, up to the pair's layer, less than all.

    Raises:
        LaunchError: as `find`, `describe_checkpoints` and `fetch_all` do.
    """
    pair: dict[Role, Checkpoint] = {
        role: find(source, "all but weights", code=trust_remote_code)
        for role, source in ours.items()
        if role is not Role.SOURCE
    }
    blocks: dict[Role, int] = {}
    if Role.SOURCE in ours:
        known = pair | {role: one for role, one in there.items() if role is not Role.SOURCE}
        described = describe_checkpoints(known, preset, beside=beside, trust_remote_code=trust_remote_code)
        layer = pair_layer(preset, described, beside).layer
        if layer is None:
            raise LaunchError(f"{ours[Role.SOURCE]}: {NO_LAYER}")
        blocks[Role.SOURCE] = layer + 1
    wanted = (wanted_of(source, code=trust_remote_code, blocks=blocks.get(role)) for role, source in ours.items())
    fetch_all([one for some in wanted for one in some])
    return {role: find(source, "all", code=trust_remote_code, blocks=blocks.get(role)) for role, source in ours.items()}


def read_request(preset: Preset, arguments: argparse.Namespace) -> Request:
    """Form what the user asked for.

    Raises:
        LaunchError: flags that do not fit together.
    """
    return Request(
        tp=arguments.tp,
        dp=arguments.dp,
        device=preset.device if arguments.device == "auto" else arguments.device,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        concurrency=arguments.concurrency,
        gpus=GpuChoice(arguments.gpus, {role: own for role in Role if (own := getattr(arguments, f"{role}_gpus"))}),
        nodes=read_nodes(arguments.nnodes, arguments.node_rank, arguments.dist_init_addr),
        trust_remote_code=arguments.trust_remote_code,
        attention_backend=preset.attention_backend,
        source_context=arguments.source_context,
        engine_args=preset.engine_args,
    )


def _gpus(request: Request, arguments: argparse.Namespace) -> list[Gpu]:
    if arguments.inventory is not None:
        if not arguments.dry_run:
            raise LaunchError("--inventory describes another machine: it goes with --dry-run alone")
        return read_inventory(arguments.inventory)
    if request.device == "cpu":
        return []
    found = find_gpus()
    if found or not arguments.dry_run:
        return found
    return supposed_gpus(max([(request.tp or 1) * request.dp, *(index + 1 for index in request.gpus.named)]))


def _plan(
    found: Mapping[Role, Checkpoint], described: Mapping[Role, Description], request: Request, gpus: Sequence[Gpu]
) -> list[EnginePlan]:
    if not found:
        return []
    trust = request.trust_remote_code
    targets = {}
    for role, one in found.items():
        config, description = whole_config(role, one, trust_remote_code=trust), described.get(role)
        if config is not None and description is not None:
            config = served_config(one, config, description)
        elif role is Role.SOURCE:  # how much of the model it is, is not known
            config = None
        if config is not None:
            config = replace(config, stored=read_stored(one.model_path, config.blocks))
        targets[role] = Target(one, config, description)
    return plan_or_advise(targets, request, gpus)
