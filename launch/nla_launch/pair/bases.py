"""A base that adapters go on top of: how much of it is served, and whether they fit. Asked before any engine starts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nla_gateway.pair.sidecar import read_sidecar
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import SIDECAR, Checkpoint
from nla_launch.pair.model_config import ModelConfig, read_config

READER: Final = "nla_engine.lora_check"
"""The engine's own reader of adapters, which is asked in a process of its own: nothing of ours imports the engine."""


def served_config(role: Role, checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> ModelConfig | None:
    """Read the configuration of what an engine is to load: of a reconstructor's base the first blocks alone.

    Returns:
        None where config.json, or an adapter, is not there yet.

    Raises:
        LaunchError: it does not fit, or is not stated how many blocks are wanted.
    """
    folder = checkpoint.folder
    if folder is None:
        return None
    if (
        checkpoint.base is None
        and not (folder / "config.json").is_file()
        and (folder / "adapter_config.json").is_file()
    ):
        raise LaunchError(
            f"{checkpoint.source} is an adapter: name its base, too, with --{role} BASE --{role}-adapter"
            f" {checkpoint.source}, or in a preset as {role}: {{base: BASE, adapters: [{checkpoint.source}]}}"
        )
    config = read_config(folder, trust_remote_code=trust_remote_code)
    if checkpoint.base is None or role is not Role.AR:
        return config
    blocks = _blocks(checkpoint)
    if blocks > config.blocks:
        raise LaunchError(
            f"{checkpoint.source}: a reconstructor of {blocks} blocks, of a base that has {config.blocks}"
        )
    return replace(config, blocks=blocks, changed=_cut(folder, blocks))


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


def _blocks(checkpoint: Checkpoint) -> int:
    """Tell how many blocks a reconstructor has: by its sidecar, and by its adapter's own file where it has one."""
    if not (checkpoint.sidecar_folder / SIDECAR).is_file():
        raise LaunchError(f"{checkpoint.source}: neither an adapter nor the base has {SIDECAR}, which states the layer")
    layer = read_sidecar(checkpoint.sidecar_folder).layer
    meta = checkpoint.meta()
    if layer is None:
        raise LaunchError(f"{checkpoint.sidecar_folder}: {SIDECAR} states no layer, which a reconstructor needs")
    if meta.get("ar_num_layers", layer + 1) != layer + 1:
        raise LaunchError(f"{checkpoint.source}: a reconstructor of layer {layer} has {layer + 1} blocks, but its"
                          f" ar_meta.json says ar_num_layers {meta['ar_num_layers']}")  # fmt: skip
    if meta and not meta.get("final_norm_stripped"):
        raise LaunchError(f"{checkpoint.source}: its ar_meta.json does not say final_norm_stripped: true, so that it"
                          " keeps the base's final norm, which is not supported")  # fmt: skip
    return layer + 1


def _cut(folder: Path, blocks: int) -> dict[str, Any]:
    """Form what SGLang is to read instead of config.json's: fewer blocks, and lists by block as long as they are."""
    whole = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    decoder = whole.get("text_config", whole)
    full = decoder["num_hidden_layers"]
    lists = {
        name: value[:blocks]
        for name, value in decoder.items()
        if isinstance(value, list) and len(value) == full and "layer" in name
    }
    changed = {"num_hidden_layers": blocks, **lists}
    return {"text_config": changed} if decoder is not whole else changed
