"""Entry point `sglang.srt.plugins`: our hooks and our model, in every process of an engine that nla-serve started.

Imports SGLang only once it is sure that it is wanted, for every SGLang in the environment loads this module.
"""

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from nla_engine import names
from nla_engine.cpu.platform import on_cpu

ROLE_VARIABLE: Final = "NLA_ENGINE_ROLE"
"""Set to `av`, `ar` or `source` by nla-serve, and by nothing else, for the engines that it starts."""


class Hook(NamedTuple):
    """A function of ours at a place in SGLang; kind is a member name of SGLang's HookType."""

    target: str
    function: Callable[..., object]
    kind: str


def hooks_for(role: str) -> list[Hook]:
    """List the hooks of an engine.

    Raises:
        ValueError: there is no such role.
    """
    from nla_engine.hooks import (
        idle,
        prefix,
        rendezvous,
        requests,
        sampling,
        shards,
        state,
        stopping,
        tokenizers,
        weights,
    )

    hooks = [
        Hook(names.LOAD_WEIGHTS, weights.load_completely, "AROUND"),
        Hook(names.TOKENIZER, tokenizers.load_once, "AROUND"),
        Hook(names.LAUNCH_SCHEDULERS, tokenizers.load_before_forks, "BEFORE"),
        Hook(names.RENDEZVOUS, rendezvous.meet_on_loopback, "AROUND"),
        Hook(names.REPLICAS_LOOP, idle.sleep_between_requests, "AROUND"),
        Hook(names.SIGTERM_WATCH, stopping.stop_at_once, "AROUND"),
    ]
    if on_cpu():
        from nla_engine.cpu import pool

        hooks.append(Hook(names.KV_BUFFERS, pool.take_memory_late, "AROUND"))
    match role:
        case "av":
            hooks += [
                Hook(names.GENERATE_REQUEST, requests.decode_injection, "BEFORE"),
                Hook(names.MATCH_PREFIX, prefix.reuse_before_vectors, "AROUND"),
                Hook(names.SAMPLING_BATCH, sampling.seed_each_request, "AFTER"),
                Hook(names.FILTERED_DRAW, sampling.draw_in_vocabulary_order, "AROUND"),
            ]
            if on_cpu():
                hooks += [
                    Hook(names.SEEDED_DRAW, sampling.multinomial_on_cpu, "REPLACE"),
                    Hook(names.CAPPED_LOGITS, sampling.cap_on_cpu, "REPLACE"),
                ]
        case "ar":
            hooks += [
                Hook(names.GENERATE_REQUEST, requests.refuse_generation, "BEFORE"),
                Hook(names.WEIGHT_FILES, shards.of_first_blocks, "AROUND"),
            ]
        case "source":
            hooks += [
                Hook(names.GENERATE_REQUEST, requests.encode_rows, "AROUND"),
                Hook(names.WEIGHT_FILES, shards.of_first_blocks, "AROUND"),
            ]
        case _:
            raise ValueError(f"{ROLE_VARIABLE} is {role!r}; it must be av, ar or source")
    report = state.reporting(role, [hook.target for hook in hooks])
    return [*hooks, Hook(names.INTERNAL_STATE, report, "AFTER")]


def activate() -> None:
    """Register the hooks and the model of this engine's role; in any other SGLang, do nothing."""
    role = os.environ.get(ROLE_VARIABLE)
    if role is None:
        return
    from sglang.srt.plugins import hook_registry

    from nla_engine.hooks.reach import put_everywhere

    hook_registry._propagate_patch = put_everywhere
    for hook in hooks_for(role):
        hook_registry.HookRegistry.register(hook.target, hook.function, hook_registry.HookType[hook.kind])
    from nla_engine.checkpoint import Checkpoint
    from nla_engine.classes.registry import register_model

    register_model(role, Checkpoint.told())
