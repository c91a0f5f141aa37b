"""A base that adapters go on top of: how much of it is served, and whether they fit. Asked before any engine starts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import SINGLE, Checkpoint
from nla_launch.pair.model_config import ModelConfig, read_config

READER: Final = "nla_engine.adapters.check"
"""The engine's own reader of adapters, which is asked in a process of its own: nothing of ours imports the engine."""
ADAPTER_FILES: Final = ("adapter_config.json", SINGLE)
"""What an adapter's folder has instead of a config.json."""


def whole_config(role: Role, checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> ModelConfig | None:
    """Read the configuration of a checkpoint, or of the base that it is made of.

    Returns:
        None where config.json, or an adapter, is not there yet.

    Raises:
        LaunchError: it does not fit, or there is none, for it is an adapter.
    """
    folder = checkpoint.folder
    if folder is None or any(adapter.folder is None for adapter in checkpoint.adapters):
        return None
    if (
        checkpoint.base is None
        and not (folder / "config.json").is_file()
        and any((folder / name).is_file() for name in ADAPTER_FILES)
    ):
        raise LaunchError(
            f"{checkpoint.source} is an adapter: name its base, too, with --{role} BASE --{role}-adapter"
            f" {checkpoint.source}, or in a preset as {role}: {{base: BASE, adapters: [{checkpoint.source}]}}"
        )
    return read_config(folder, trust_remote_code=trust_remote_code)


def blocks_of(description: Description) -> int | None:
    """Tell how many of a model's blocks an engine runs; None: all."""
    if description.reconstructor is not None:
        return description.reconstructor.blocks
    return None if description.source is None else description.source.blocks


def served_config(checkpoint: Checkpoint, config: ModelConfig, description: Description) -> ModelConfig:
    """Form the configuration of what an engine loads: of a reconstructor's base, and of a source, the first blocks.

    Raises:
        LaunchError: the base has fewer.
    """
    blocks = blocks_of(description)
    whole = checkpoint.base is None and description.role is not Role.SOURCE
    if whole or checkpoint.folder is None or blocks is None:
        return config
    if blocks > config.blocks:
        raise LaunchError(
            f"{checkpoint.source}: a {description.role.label} of {blocks} blocks, of a base that has {config.blocks}"
        )
    return replace(config, blocks=blocks, changed=_cut(checkpoint.folder, blocks, config.blocks))


def check_base(role: Role, checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Check that a checkpoint's adapters can be merged into its base.

    Raises:
        LaunchError: they cannot, naming cause and mend.
    """
    folder = checkpoint.folder
    if folder is None or not checkpoint.adapters:
        return
    if "quantization_config" in (folder / "config.json").read_text(encoding="utf-8"):
        raise LaunchError(f"{folder} is quantized, and nothing can be merged into that: give the base in bfloat16")
    adapters = [{"path": str(one.folder), "use_rslora": one.use_rslora} for one in checkpoint.adapters]
    asked = {
        "base": str(folder),
        "adapters": adapters,
        "blocks": config.blocks if role is Role.AR else None,
        "tied": config.tied,
    }
    command = [sys.executable, "-P", "-m", READER]
    run = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if run.returncode:
        problem = run.stdout.strip() or f"{READER} failed: {' '.join(run.stderr.split())[-300:]}"
        raise LaunchError(problem)


def _cut(folder: Path, blocks: int, full: int) -> dict[str, Any]:
    """Form what SGLang is to read instead of config.json's: fewer blocks, and lists by block as long as they are."""
    whole = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    decoder = whole.get("text_config", whole)
    lists = {
        name: value[:blocks]
        for name, value in decoder.items()
        if isinstance(value, list) and len(value) == full and "layer" in name
    }
    changed = {"num_hidden_layers": blocks, **lists}
    return {"text_config": changed} if decoder is not whole else changed
