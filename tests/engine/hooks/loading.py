"""Loads checkpoints with SGLang's own models and loader, on a CPU, up to where kernels for GPUs would come in.

Takes two files: a JSON list of tasks, and where it writes what became of each: what was wrong, if anything, and the
type of the weights. It is a process of its own, for SGLang warns at its import, and warnings are errors in the tests.
"""

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, Final

import torch
from sglang.srt.configs.device_config import DeviceConfig
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
from sglang.srt.model_loader.loader import DefaultModelLoader
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs

from nla_engine.checkpoint import VARIABLE, Checkpoint
from nla_engine.classes.registry import register_model
from nla_engine.hooks.weights import load_completely
from tests.stack import free_port

LATE: Final = (
    "sglang.srt.layers.moe.fused_moe_triton",
    *(f"sglang.srt.models.{name}" for name in ("qwen2", "llama", "gemma3_causal")),
)
"""What each fork would else import for itself."""
FUSED: Final = "model.layers.1.self_attn.qkv_proj.weight"
WEIGHT: Final = "model.layers.0.mlp.down_proj.weight"


def try_to_load(task: dict[str, Any]) -> tuple[str | None, str]:
    """Load one checkpoint; a task holds fields of SGLang's ServerArgs, and of ours `role` and `told`."""
    role, told = task.pop("role"), Checkpoint.model_validate(task.pop("told"))
    os.environ[VARIABLE] = told.model_dump_json()
    register_model(role, told)
    arguments = ServerArgs(**task, device="cpu", dtype="bfloat16", attention_backend="torch_native")
    publish(arguments, role="test", ranks=SpawnRanks(world_rank=0))
    init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
    initialize_model_parallel(backend="gloo")
    config, loader = ModelConfig.from_server_args(arguments), DefaultModelLoader(LoadConfig())
    model = loader.initialize_model_for_startup(model_config=config, device_config=DeviceConfig("cpu"))
    model.get_parameter(FUSED).data.zero_()  # were it not loaded, nothing would look wrong there
    wrong = None
    try:
        load_completely(DefaultModelLoader.load_weights_only, model, loader._get_all_weights(config, model), None)
    except ValueError as error:
        wrong = str(error)
    return wrong, str(model.get_parameter(WEIGHT).dtype)


if __name__ == "__main__":
    tasks, answered = map(Path, sys.argv[1:])
    for name in LATE:
        importlib.import_module(name)
    torch.cuda.get_device_capability = lambda device=None: (9, 0)  # decides which of its schemes SGLang takes
    # A fork for each: of SGLang's settings and groups a process has but one.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        answers = pool.map(try_to_load, json.loads(tasks.read_text()), chunksize=1)
    answered.write_text(json.dumps(answers))
