"""From a preset to a plan: finds the checkpoints, checks them, and plans each engine."""

import argparse

from nla_launch.checkpoints import locate
from nla_launch.gpus import Gpu, find_gpus
from nla_launch.model_config import read_config
from nla_launch.plan import EnginePlan, Request, plan_engine
from nla_launch.preflight import Role, check_checkpoints
from nla_launch.preset import Preset


def plan_all(preset: Preset, arguments: argparse.Namespace) -> tuple[list[EnginePlan], list[Gpu]]:
    """Plan the engines of a preset on this machine's GPUs.

    Raises:
        LaunchError: a checkpoint that cannot be served, or a plan that cannot work.
    """
    gpus = [] if arguments.device == "cpu" else find_gpus()
    request = Request(arguments.tp, arguments.device, arguments.dtype, preset.attention_backend)
    sources: dict[Role, str | None] = {"av": preset.av, "ar": preset.ar}
    found = {
        role: locate(source, weights=not arguments.dry_run) for role, source in sources.items() if source is not None
    }
    if not arguments.dry_run:
        check_checkpoints(*(found[role].folder if role in found else None for role in ("av", "ar")))
    plans = []
    for role, checkpoint in found.items():
        folder = checkpoint.folder
        known = folder is not None and ((folder / "config.json").is_file() or not arguments.dry_run)
        config = read_config(folder) if folder is not None and known else None
        plans.append(plan_engine(role, checkpoint, config, request, gpus, dry_run=arguments.dry_run))
    return plans, gpus
