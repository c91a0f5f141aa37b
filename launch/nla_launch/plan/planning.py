"""From a preset and flags to a plan: finds checkpoints and GPUs, checks them, and plans the engines."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nla_gateway.description import Description
from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch.errors import LaunchError, naming
from nla_launch.pair.bases import part_of, served_config, whole_config
from nla_launch.pair.checkpoints import Checkpoint, Need, find, wanted_of
from nla_launch.pair.describing import layer_beside
from nla_launch.pair.fetching import fetch_all
from nla_launch.pair.hub import Wanted
from nla_launch.pair.model_config import read_stored
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.preset import Preset
from nla_launch.pair.reading import NO_LAYER, NOT_KNOWN, PairLayer, pair_layer
from nla_launch.pair.shards import Part
from nla_launch.plan.asked import Asked
from nla_launch.plan.gpus import Gpu, find_gpus, supposed_gpus
from nla_launch.plan.inventory import read_inventory
from nla_launch.plan.nodes import read_nodes
from nla_launch.plan.placement import GpuChoice, Request, Target
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.together import ToPlan, plan_together

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """One pair, with a plan for each of its engines."""

    asked: Asked
    engines: list[EnginePlan]
    """Ours."""
    others: dict[Role, EngineSettings]
    """Those that run elsewhere."""


def engines_of(pairs: Sequence[Planned]) -> list[EnginePlan]:
    """List our engines of all pairs."""
    return [engine for pair in pairs for engine in pair.engines]


def plan_all(asked: Sequence[Asked], on_plan: Callable[[list[EnginePlan]], None] = lambda plans: None) -> list[Planned]:
    """Plan the engines of all pairs on this machine's GPUs, or on those of --inventory; and those that run elsewhere.

    Planned twice for a hub repository: before its weights are fetched, for a plan that cannot work should say so at
    once, and after.

    Args:
        asked: what is to be served.
        on_plan: called with the first plan, where it is to be run: much can be got ready while checkpoints are
            fetched and checked.

    Raises:
        LaunchError: a checkpoint that cannot be served, or a plan that cannot work.
    """
    pairs = [_Pair(one) for one in asked]
    gpus = _gpus([pair.request for pair in pairs], asked[0].arguments)
    for pair in pairs:
        with naming(pair.asked.prefix):
            pair.look()
    engines = _plan(pairs, gpus)
    if not asked[0].arguments.dry_run:
        if flat := [engine for some in engines for engine in some]:
            on_plan(flat)
        fetch_all([one for pair in pairs for one in pair.wanted()])
        for pair in pairs:
            with naming(pair.asked.prefix):
                pair.check()
        engines = _plan(pairs, gpus)
    return [Planned(pair.asked, some, pair.others()) for pair, some in zip(pairs, engines, strict=True)]


class _Pair:
    """One pair on its way to a plan.

    Args:
        asked: what is to be served, and how.

    Raises:
        LaunchError: flags that do not fit together.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked, arguments, preset = asked, asked.arguments, asked.preset
        with naming(asked.prefix):
            self.request = read_request(preset, arguments)
        if self.request.quantization is not None:
            kind = f"{asked.prefix}{self.request.quantization}"
            logger.warning("%s weights change texts, vectors and scores: measure how much", kind)
        self._trust = self.request.trust_remote_code
        served = {role: one for role, one in preset.sources.items() if arguments.only in (None, role)}
        elsewhere = asked.elsewhere.urls
        self._ours = {role: source for role, source in served.items() if role not in elsewhere}
        self._others = {role: source for role, source in served.items() if role in elsewhere}
        self._source_only = served.keys() == {Role.SOURCE}
        self._beside = NOT_KNOWN
        self.here = dict[Role, Checkpoint]()
        self._there = dict[Role, Checkpoint]()
        self.described = dict[Role, Description]()
        self._parts = dict[Role, Part]()

    def look(self) -> None:
        """Find what a plan needs to know of the checkpoints.

        Raises:
            LaunchError: one that cannot be served.
        """
        need: Need = "plan" if self.asked.arguments.dry_run else "all but weights"
        self._beside = _beside(self.asked.preset) if self._source_only else NOT_KNOWN
        self._there = {role: find(source, need, code=self._trust) for role, source in self._others.items()}
        self.here = {role: find(source, "plan", code=self._trust) for role, source in self._ours.items()}
        self.described = self._describe(self.here | self._there, fetched=False)

    def wanted(self) -> list[Wanted]:
        """List what is to be fetched for our engines: of a source, and of a reconstructor's base, less than all.

        Raises:
            LaunchError: as `find` and `describe_checkpoints` do.
        """
        with naming(self.asked.prefix):
            pair: dict[Role, Checkpoint] = {
                role: find(source, "all but weights", code=self._trust)
                for role, source in self._ours.items()
                if role is not Role.SOURCE
            }
            self._parts = self._parts_of(pair)
            return [
                one
                for role, source in self._ours.items()
                for one in wanted_of(source, code=self._trust, part=self._parts.get(role))
            ]

    def check(self) -> None:
        """Find what was fetched, and check it whole.

        Raises:
            LaunchError: it cannot be served.
        """
        self.here = {
            role: find(source, "all", code=self._trust, part=self._parts.get(role))
            for role, source in self._ours.items()
        }
        found = self.here | self._there
        self.described = self._describe(found)
        check_checkpoints(found, self.described, elsewhere=set(self._there), trust_remote_code=self._trust)

    def others(self) -> dict[Role, EngineSettings]:
        """Form what gateways need to know of the engines that run elsewhere."""
        settings, label = self.asked.elsewhere.settings, self.asked.label
        return {
            role: settings(role, label(role), one, self.described.get(role), self.request)
            for role, one in self._there.items()
        }

    def _parts_of(self, pair: dict[Role, Checkpoint]) -> dict[Role, Part]:
        """Tell of which models a part is enough, by the pair's small files."""
        known = pair | {role: one for role, one in self._there.items() if role is not Role.SOURCE}
        described = self._describe(known)
        parts = {role: part for role, one in pair.items() if (part := part_of(one, described[role])) is not None}
        if Role.SOURCE in self._ours:
            layer = pair_layer(self.asked.preset, described, self._beside).layer
            if layer is None:
                raise LaunchError(f"{self._ours[Role.SOURCE]}: {NO_LAYER}")
            parts[Role.SOURCE] = Part(layer + 1)
        return parts

    def _describe(self, found: Mapping[Role, Checkpoint], *, fetched: bool = True) -> dict[Role, Description]:
        preset, trust = self.asked.preset, self._trust
        return describe_checkpoints(found, preset, beside=self._beside, fetched=fetched, trust_remote_code=trust)


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


def _gpus(requests: Sequence[Request], arguments: argparse.Namespace) -> list[Gpu]:
    """Find the machine's GPUs; for a dry run without any, suppose as many as all pairs together may want."""
    if arguments.inventory is not None:
        if not arguments.dry_run:
            raise LaunchError("--inventory describes another machine: it goes with --dry-run alone")
        return read_inventory(arguments.inventory)
    if all(request.device == "cpu" for request in requests):
        return []
    found = find_gpus()
    if found or not arguments.dry_run:
        return found
    wanted = sum((request.tp or 1) * request.dp for request in requests)
    return supposed_gpus(max([wanted, *(index + 1 for request in requests for index in request.gpus.named)]))


def _plan(pairs: Sequence[_Pair], gpus: Sequence[Gpu]) -> list[list[EnginePlan]]:
    """Plan the engines of all pairs together."""
    to_plan = []
    for pair in pairs:
        with naming(pair.asked.prefix):
            here = [] if pair.request.device == "cpu" else gpus
            to_plan.append(ToPlan(pair.asked, _targets(pair), pair.request, here))
    return plan_together(to_plan)


def _targets(pair: _Pair) -> dict[Role, Target]:
    targets = {}
    for role, one in pair.here.items():
        config = whole_config(role, one, trust_remote_code=pair.request.trust_remote_code)
        description = pair.described.get(role)
        if config is not None and description is not None:
            config = served_config(one, config, description)
        elif role is Role.SOURCE:  # how much of the model it is, is not known
            config = None
        if config is not None:
            config = replace(config, stored=read_stored(one.model_path, config.blocks))
        targets[role] = Target(one, config, description)
    return targets
