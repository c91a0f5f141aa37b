"""What plain transformers makes of one prompt: `python -m nla_engine.reference`, in float32 on the CPU.

Asked once before an engine starts whose architecture was never run, and compared in its self-test. Computes without
SGLang and without our classes; only adapters are merged, and the head is read, as the engine does it.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from nla_engine.adapters.files import AdapterError
from nla_engine.adapters.merging import Merge
from nla_engine.checkpoint import Checkpoint, Injection
from nla_engine.classes.decoder import DECODERS, LAYERS, NORMS, find
from nla_engine.classes.reconstructor import load_head

logger = logging.getLogger(__name__)

TOP: Final = 20
"""Likeliest tokens told of each place."""


class Asked(BaseModel):
    """What is to be computed; JSON on stdin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["av", "ar", "source"]
    folder: Path
    """Of weights and config.json."""
    changed: dict[str, Any]
    """What is to be read instead of config.json's."""
    trust_remote_code: bool
    served: Checkpoint
    ids: list[int]
    """The prompt."""
    position: int = 0
    """Where a vector gets in."""
    vector: list[float] = []
    """What gets in, [d_model], scaled."""
    places: int = 1
    """So many of the last places of which tokens are told."""


@torch.no_grad()
def rebuilt(asked: Asked) -> list[float]:
    """Compute a reconstructor's vector [d_model] of a prompt, or a source's at its end.

    Raises:
        ValueError: it has not the form that is known, or a weight is missing.
    """
    model, ids = _load(asked), torch.tensor([asked.ids])
    hidden = model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    head = asked.served.value_head
    if head is not None:
        linear = nn.Linear(len(hidden), len(hidden), bias=head.bias is not None)
        load_head(linear, head)
        hidden = linear(hidden)
    return [float(value) for value in hidden]


@torch.no_grad()
def likeliest(asked: Asked) -> list[dict[int, float]]:
    """Compute the log-probabilities of the likeliest tokens behind each of a verbalizer's last places.

    Raises:
        ValueError: it has not the form that is known, or a weight is missing.
    """
    model, ids = _load(asked), torch.tensor([asked.ids])
    decoder = getattr(model, find(model, DECODERS))
    _inject(getattr(decoder, find(decoder, LAYERS)), asked.served.injection, asked.position, torch.tensor(asked.vector))
    logits = model(input_ids=ids, use_cache=False).logits[0, -asked.places :]
    values, tokens = logits.float().log_softmax(-1).topk(min(TOP, logits.shape[-1]))
    return [dict(zip(*place, strict=True)) for place in zip(tokens.tolist(), values.tolist(), strict=True)]


def _inject(layers: nn.ModuleList, injection: Injection, position: int, vector: torch.Tensor) -> None:
    """Have a vector get in between the blocks: transformers' inputs_embeds may be scaled once more."""

    def replace(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = named["hidden_states"] if "hidden_states" in named else arguments[0]
        hidden[0, position] = vector

    def add(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        row = (output[0] if isinstance(output, tuple) else output)[0, position]
        row += row.norm() * vector / vector.norm()

    if injection.rule == "replace":
        layers[0].register_forward_pre_hook(replace, with_kwargs=True)
    else:
        layers[injection.block].register_forward_hook(add)


def _load(asked: Asked) -> Any:
    """Load a verbalizer, or the first blocks of a model.

    Raises:
        ValueError: a weight is missing, or an adapter does not fit.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    trust = asked.trust_remote_code
    config = AutoConfig.from_pretrained(asked.folder, trust_remote_code=trust)
    for name, value in asked.changed.items():
        setattr(config, name, value)
    kind = AutoModelForCausalLM if asked.role == "av" else AutoModel
    model, told = kind.from_pretrained(
        asked.folder,
        config=config,
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=trust,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = set(told["missing_keys"])
    if asked.role != "av" and not asked.served.final_norm:
        norm = find(model, NORMS)
        setattr(model, norm, nn.Identity())
        missing = {name for name in missing if norm not in name.split(".")}
    if missing:
        raise ValueError(f"transformers finds no {', '.join(sorted(missing)[:3])} in {asked.folder}")
    if asked.served.adapters:
        _merge(model, asked.served)
    return model.eval()


def _merge(model: nn.Module, served: Checkpoint) -> None:
    merge = Merge(served.adapters, served.blocks)
    parameters = dict(model.named_parameters())
    for name, tensor in merge.stream(parameters.items()):
        parameters[name].data = tensor.data
    merge.finish()


def main() -> int:
    """Compute what stdin asks for; JSON on stdout, or one line there of what is wrong, and exit code 1."""
    asked = Asked.model_validate_json(sys.stdin.read())
    try:
        answer = {"logprobs": likeliest(asked)} if asked.role == "av" else {"vector": rebuilt(asked)}
    except (AdapterError, ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        logger.debug("no reference", exc_info=True)
        sys.stdout.write(f"{' '.join(str(error).split())[:300]}\n")
        return 1
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
