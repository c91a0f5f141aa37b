"""SGLang's offline engine alone, on a verbalizer's prompt without vectors; prints prompts/s of each round as JSON."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.stack import ON_CPU


def main() -> int:
    """Generate for many prompts at once, a few times."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.offline", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    options = {}
    if arguments.device == "cpu":
        os.environ |= ON_CPU
        options = {"attention_backend": "torch_native", "sampling_backend": "pytorch", "mem_fraction_static": 0.3,
                   "max_total_tokens": 32768, "dtype": "float32"}  # fmt: skip
    from sglang import Engine

    from tests.reference import prompt_ids

    prompt = prompt_ids(arguments.checkpoint)
    sampling = {"max_new_tokens": arguments.tokens, "temperature": 1.0}
    engine = Engine(model_path=str(arguments.checkpoint), tp_size=arguments.tp, device=arguments.device,
                    max_running_requests=256 if arguments.device == "cuda" else 64, **options)  # fmt: skip
    rates = []
    for _ in range(arguments.rounds + 1):
        started = time.perf_counter()
        engine.generate(input_ids=[prompt] * arguments.prompts, sampling_params=sampling)
        rates.append(arguments.prompts / (time.perf_counter() - started))
    engine.shutdown()
    sys.stdout.write(json.dumps(rates[1:]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
