"""Loads checkpoints with SGLang's own models and loader, on a CPU, up to where kernels for GPUs would come in.

Takes a JSON list of tasks from its input, and writes what became of each to the file that its argument names: None, or
the message of a ValueError. A process of its own: SGLang warns at its import, and warnings are errors in the tests.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sglang.srt.configs.device_config import DeviceConfig
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed.parallel_state import (
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from sglang.srt.model_loader.loader import DefaultModelLoader
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs

from nla_engine.weights import load_completely


def try_to_load(task: dict[str, Any]) -> str | None:
    """Load one checkpoint; a task holds fields of SGLang's ServerArgs."""
    arguments = ServerArgs(**task, device="cpu", dtype="bfloat16", attention_backend="torch_native")
    publish(arguments, role="test", ranks=SpawnRanks(world_rank=0))
    config, loader = ModelConfig.from_server_args(arguments), DefaultModelLoader(LoadConfig())
    initialize_model_parallel(backend="gloo")
    model = loader.initialize_model_for_startup(model_config=config, device_config=DeviceConfig("cpu"))
    weights = loader._get_all_weights(config, model)
    try:
        load_completely(DefaultModelLoader.load_weights_only, model, weights, None)
    except ValueError as error:
        return str(error)
    finally:
        destroy_model_parallel()
    return None


if __name__ == "__main__":
    meeting = f"tcp://127.0.0.1:{sys.argv[2]}"
    init_distributed_environment(1, 0, meeting, 0, "gloo")
    Path(sys.argv[1]).write_text(json.dumps([try_to_load(task) for task in json.load(sys.stdin)]))
