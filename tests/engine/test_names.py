"""Each SGLang name that the plugin leans on still exists; the failure names what moved."""

import json

import pytest

from nla_engine.checkpoint import VARIABLE
from nla_engine.names import NAMES
from nla_engine.plugin import hooks_for
from nla_gateway.roles import Role
from tests.warm import run_program

RESOLVE = """
import pkgutil, sys
for name in sys.argv[1:]:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        sys.stdout.write(f"MOVED {name}: {error}\\n")
"""


def test_names_resolve() -> None:
    run = run_program(RESOLVE, *NAMES)
    assert run.returncode == 0, run.stderr
    moved = [line for line in run.stdout.splitlines() if line.startswith("MOVED")]
    assert not moved, "SGLang moved names that the plugin hooks:\n" + "\n".join(moved)


@pytest.mark.parametrize("role", list(Role))
def test_every_hook_is_in_the_table(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLA_ENGINE_DEVICE", "cpu")
    assert {hook.target for hook in hooks_for(role)} <= NAMES.keys()


# SGLang puts a hooked function in the place of all that has the same, in whatever module. A fork for each role.
REACH = """
import os, sys, types
import sglang.srt.entrypoints.http_server
import sglang.srt.layers.engram
import sglang.srt.managers.data_parallel_controller
import sglang.srt.managers.scheduler
import sglang.srt.managers.tp_worker
from sglang.srt.plugins import hook_registry, load_plugins

for role in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    os.environ["NLA_ENGINE_ROLE"] = role
    load_plugins()
    for name, module in sorted(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if (
                name != hook_registry.__name__
                and isinstance(value, types.FunctionType)
                and value.__code__.co_filename == hook_registry.__file__
                and hasattr(value, "__wrapped__")
            ):
                print("HOOKED", role, f"{name}.{attribute}")
    sys.stdout.flush()
    os._exit(0)
"""
EVERYWHERE = {
    "sglang.srt.layers.engram.get_tokenizer",
    "sglang.srt.managers.detokenizer_manager.get_tokenizer",
    "sglang.srt.managers.scheduler.get_tokenizer",
    "sglang.srt.managers.tokenizer_manager.get_tokenizer",
    "sglang.srt.managers.tp_worker.get_tokenizer",
    "sglang.srt.utils.hf_transformers.get_tokenizer",
    "sglang.srt.utils.hf_transformers.processor.get_tokenizer",
    "sglang.srt.utils.hf_transformers.tokenizer.get_tokenizer",
    "sglang.srt.utils.hf_transformers_utils.get_tokenizer",
    "torch.distributed.rendezvous._create_c10d_store",
}
CHOOSES_FILES = {
    "sglang.srt.model_loader.loader.filter_duplicate_safetensors_files",
    "sglang.srt.model_loader.weight_utils.filter_duplicate_safetensors_files",
}
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
    Role.AR: CHOOSES_FILES,
    Role.SOURCE: CHOOSES_FILES,
}


@pytest.fixture(scope="module")
def reached() -> dict[str, set[str]]:
    """Where the hooks of each role went."""
    told = {VARIABLE: json.dumps({"architecture": "Qwen2ForCausalLM"})}
    run = run_program(REACH, *Role, **told)
    assert run.returncode == 0, run.stderr
    places: dict[str, set[str]] = {}
    for line in run.stdout.splitlines():
        if line.startswith("HOOKED "):
            _, role, place = line.split()
            places.setdefault(role, set()).add(place)
    return places


@pytest.mark.parametrize("role", list(Role))
def test_hooks_reach_no_further_than_is_meant(role: Role, reached: dict[str, set[str]]) -> None:
    assert reached[role] == REACHED[role] | EVERYWHERE


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="must be av, ar or source"):
        hooks_for("actor")
