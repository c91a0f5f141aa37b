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
from nla_launch.pair.shards import Part, wanted_files
from nla_launch.pair.value_heads import FILES as HEADS

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


def part_of(checkpoint: Checkpoint, description: Description) -> Part | None:
    """Tell what of a model is served: of a source, and of a reconstructor's base, the first blocks; None: all of it."""
    if description.source is not None:
        return Part(description.source.blocks)
    rules = description.reconstructor
    if rules is None or checkpoint.base is None:
        return None
    stated = () if rules.value_head is None else (rules.value_head.file.name,)
    return Part(rules.blocks, final_norm=rules.final_norm, beside=tuple(dict.fromkeys([*HEADS, *stated])))


def served_config(checkpoint: Checkpoint, config: ModelConfig, description: Description) -> ModelConfig:
    """Form the configuration of what an engine loads: of a reconstructor's base, and of a source, the first blocks.

    Raises:
        LaunchError: the base has fewer.
    """
    part = part_of(checkpoint, description)
    if part is None or checkpoint.folder is None:
        return config
    if part.blocks > config.blocks:
        raise LaunchError(
            f"{checkpoint.source}: a {description.role.label} of {part.blocks} blocks, of a base that has"
            f" {config.blocks}"
        )
    return replace(config, blocks=part.blocks, changed=_cut(checkpoint.folder, part.blocks, config.blocks))


def check_base(checkpoint: Checkpoint, config: ModelConfig, part: Part | None) -> None:
    """Check that a checkpoint's adapters can be merged into its base, or into the part of it that is served.

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
        "blocks": None if part is None else part.blocks,
        "files": None if part is None else wanted_files(folder, part),
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
