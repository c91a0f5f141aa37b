"""Quantized forms of the small checkpoints, as the usual tools write them, with or without some of the tensors."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

BLOCK: Final = 16
SYMMETRIC: Final = {"num_bits": 8, "symmetric": True, "dynamic": False, "strategy": "channel"}
DYNAMIC: Final = {"num_bits": 8, "symmetric": True, "dynamic": True, "strategy": "token"}


def _compressed(kind: str, written: str) -> dict[str, Any]:
    """What compressed-tensors says of weights with a scale a row, and of activations quantized as they come."""
    group = {
        "targets": ["Linear"],
        "weights": SYMMETRIC | {"type": kind},
        "input_activations": DYNAMIC | {"type": kind},
    }
    described = {"quant_method": "compressed-tensors", "format": written, "quantization_status": "compressed"}
    return described | {"ignore": ["lm_head"], "config_groups": {"group_0": group}}


FORMATS: Final[dict[str, dict[str, Any] | None]] = {
    "plain": None,
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
    "compressed-fp8": _compressed("float", "float-quantized"),
    "compressed-int8": _compressed("int", "int-quantized"),
}
"""What config.json says, by the name of a format."""


def write_quantized(source: Path, folder: Path, written: str, lost: str) -> None:
    """Copy a checkpoint in one of the formats, without the tensor `lost`, if any."""
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    if (described := FORMATS[written]) is not None:
        config["quantization_config"] = described
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        tensors |= _quantize(name, tensor, written) if ".layers." in name and tensor.ndim == 2 else {name: tensor}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name != lost}
    assert bool(lost) == (len(kept) < len(tensors))
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    for other in source.glob("value_head.safetensors"):
        (folder / other.name).write_bytes(other.read_bytes())


def _quantize(name: str, tensor: torch.Tensor, written: str) -> dict[str, torch.Tensor]:
    match written:
        case "fp8":
            rows, columns = (size // BLOCK for size in tensor.shape)
            scale = tensor.abs().view(rows, BLOCK, columns, BLOCK).amax((1, 3)) / 448
            spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
            return {name: (tensor / spread).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
        case "compressed-fp8":
            scale = tensor.abs().amax(1, keepdim=True) / 448
            return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}
        case "compressed-int8":
            scale = tensor.abs().amax(1, keepdim=True) / 127
            return {name: (tensor / scale).round().to(torch.int8), f"{name}_scale": scale}
        case _:
            return {name: tensor}
