"""From a preset to a plan: finds the checkpoints, checks them, and plans each engine."""

import argparse
from pathlib import Path

from nla_launch.checkpoints import Checkpoint, locate
from nla_launch.gpus import Gpu, find_gpus
from nla_launch.model_config import ModelConfig, read_config
from nla_launch.plan import EnginePlan, Request, fit_memory, plan_engine
from nla_launch.preflight import Role, check_checkpoints
from nla_launch.preset import Preset


def plan_all(preset: Preset, arguments: argparse.Namespace) -> list[EnginePlan]:
    """Plan the engines of a preset on this machine's GPUs.

    Planned twice for a hub repository: before its weights are fetched, for a plan that cannot work should say so at
    once, and after.

    Raises:
        LaunchError: a checkpoint that cannot be served, or a plan that cannot work.
    """
    gpus = [] if arguments.device == "cpu" else find_gpus()
    plans = _plan(_locate(preset, weights=False), preset, arguments, gpus)
    if arguments.dry_run:
        return plans
    found = _locate(preset, weights=True)
    check_checkpoints(*(found[role].folder if role in found else None for role in ("av", "ar")))
    return _plan(found, preset, arguments, gpus)


def _locate(preset: Preset, *, weights: bool) -> dict[Role, Checkpoint]:
    sources: dict[Role, str | None] = {"av": preset.av, "ar": preset.ar}
    return {role: locate(source, weights=weights) for role, source in sources.items() if source is not None}


def _plan(
    found: dict[Role, Checkpoint], preset: Preset, arguments: argparse.Namespace, gpus: list[Gpu]
) -> list[EnginePlan]:
    device = preset.device if arguments.device == "auto" else arguments.device
    request = Request(arguments.tp, device, arguments.dtype, preset.attention_backend, preset.engine_args)
    plans = [
        plan_engine(role, checkpoint, _config(checkpoint.folder), request, gpus, dry_run=arguments.dry_run)
        for role, checkpoint in found.items()
    ]
    return fit_memory(plans, gpus)


def _config(folder: Path | None) -> ModelConfig | None:
    return None if folder is None else read_config(folder)
