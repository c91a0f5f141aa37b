"""Each SGLang name that the plugin leans on still exists; the failure names what moved."""

import json
import os
import subprocess
import sys

import pytest

from nla_engine.checkpoint import VARIABLE
from nla_engine.names import NAMES
from nla_engine.plugin import hooks_for
from nla_gateway.roles import Role
from tests.stack import ON_CPU

# In a process of its own: SGLang warns at import, and warnings are errors here.
RESOLVE = """
import pkgutil, sys
for name in sys.argv[1:]:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        sys.stdout.write(f"MOVED {name}: {error}\\n")
"""


def test_names_resolve() -> None:
    run = subprocess.run([sys.executable, "-c", RESOLVE, *NAMES], capture_output=True, text=True, check=True)
    moved = [line for line in run.stdout.splitlines() if line.startswith("MOVED")]
    assert not moved, "SGLang moved names that the plugin hooks:\n" + "\n".join(moved)


@pytest.mark.parametrize("role", list(Role))
def test_every_hook_is_in_the_table(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLA_ENGINE_DEVICE", "cpu")
    assert {hook.target for hook in hooks_for(role)} <= NAMES.keys()


# SGLang puts a hooked function in the place of all that has the same, in whatever module.
REACH = """
import sys, types
import sglang.srt.entrypoints.http_server
import sglang.srt.managers.data_parallel_controller
import sglang.srt.managers.scheduler
from sglang.srt.plugins import hook_registry, load_plugins

load_plugins()
for name, module in sorted(sys.modules.items()):
    for attribute, value in list(getattr(module, "__dict__", {}).items()):
        if (
            name != hook_registry.__name__
            and isinstance(value, types.FunctionType)
            and value.__code__.co_filename == hook_registry.__file__
            and hasattr(value, "__wrapped__")
        ):
            print("HOOKED", f"{name}.{attribute}")
"""
EVERYWHERE = {"torch.distributed.rendezvous._create_c10d_store"}
REACHED = {
    Role.AV: {
        "sglang.kernels.ops.activation.softcap.softcap_inplace_logits",
        "sglang.srt.disaggregation.decode.match_kv_cache",
        "sglang.srt.layers.logits_processor.fused_softcap",
        "sglang.srt.layers.sampler.multinomial_with_seed",
        "sglang.srt.layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch",
        "sglang.srt.managers.schedule_batch.match_kv_cache",
        "sglang.srt.managers.schedule_policy.match_kv_cache",
        "sglang.srt.mem_cache.common.match_kv_cache",
    },
    Role.AR: set(),
    Role.SOURCE: {
        "sglang.srt.model_loader.loader.filter_duplicate_safetensors_files",
        "sglang.srt.model_loader.weight_utils.filter_duplicate_safetensors_files",
    },
}


@pytest.mark.parametrize("role", list(Role))
def test_hooks_reach_no_further_than_is_meant(role: Role) -> None:
    told = {"NLA_ENGINE_ROLE": role.value, VARIABLE: json.dumps({"architecture": "Qwen2ForCausalLM"})}
    command = [sys.executable, "-c", REACH]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ON_CPU, **told})
    reached = {line.removeprefix("HOOKED ") for line in run.stdout.splitlines() if line.startswith("HOOKED ")}
    assert reached == REACHED[role] | EVERYWHERE


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="must be av, ar or source"):
        hooks_for("actor")
