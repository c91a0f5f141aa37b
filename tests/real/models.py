"""Pairs of real weights: the verbalizer is a model as it is, the reconstructor its first blocks and a value head.

They are untrained as a pair, so texts say nothing of vectors; what is computed is real all the same. Made once a
machine, which takes a minute.
"""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, GgufConfig

from nla_launch.demo.base import SMALL_FILES, load_tokenizer
from tests.checkpoints import cut
from tests.real.fetch import CACHE, GEMMA3, SMOLLM2, TOKENIZERS, Source
from tests.real.released import GEMMA, Ids, write_sidecar


@dataclass(frozen=True)
class Model:
    """A real model, and what is made of it."""

    name: str
    weights: Source
    tokenizer: Source | None
    """None: the one of the demo, which is of the same file."""
    config: Callable[[], Any]
    """Its, which transformers needs half a minute to read out of a GGUF file."""
    layer: int
    ids: Ids
    scale: float
    """Near the norm of the layer's output."""
    ends: tuple[int, ...]
    """Tokens that end a text, as the model's release has them."""

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.weights, self.tokenizer) if self.tokenizer else (self.weights,)


@dataclass(frozen=True)
class Pair:
    av: Path
    ar: Path
    model: Model


GEMMA3_CONFIG: Final = partial(
    Gemma3TextConfig,
    vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
    num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, sliding_window=512, max_position_embeddings=32768,
)  # fmt: skip
"""As the release has it: the rest are transformers' defaults."""
MODELS: Final = {
    model.name: model
    for model in (
        Model(
            "smollm2-135m",
            SMOLLM2,
            None,
            partial(AutoConfig.from_pretrained, SMALL_FILES),
            20,
            Ids("号", 48980, 46, 9617, (2692, 46, 2067, 18347, 46)),
            240.0,
            (2,),
        ),
        # The GGUF's own tokenizer adds no BOS.
        Model("gemma3-270m", GEMMA3, TOKENIZERS["gemma3"], GEMMA3_CONFIG, 11, GEMMA, 11000.0, (1, 106)),
    )
}


def pair_of(model: Model) -> Pair:
    """The pair's folders, made where they are not there yet; all of the model's sources must be there."""
    folder = CACHE / "pairs" / f"{model.name}-{_stamp(model)}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{model.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of tests may be making it
        if not folder.is_dir():
            for older in folder.parent.glob(f"{model.name}-*"):
                shutil.rmtree(older)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _make(model, Path(scratch) / "pair")
                (Path(scratch) / "pair").rename(folder)
    return Pair(folder / "verbalizer", folder / "reconstructor", model)


def _stamp(model: Model) -> str:
    """Other pins, other code here or another transformers make other folders."""
    parts = [path.read_text() for path in (Path(__file__), Path(__file__).with_name("released.py"))]
    parts += [str(source.folder.name) for source in model.sources] + [transformers.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _make(model: Model, folder: Path) -> None:
    torch.manual_seed(0)
    (gguf,) = model.weights.folder.glob("*.gguf")
    loaded = _load(gguf, model.config())
    loaded.config.eos_token_id = loaded.generation_config.eos_token_id = list(model.ends)
    loaded.save_pretrained(folder / "verbalizer")
    cut(loaded, model.layer + 1)
    kept = {name: value for name, value in loaded.state_dict().items() if name.startswith("model.layers.")}
    kept["model.embed_tokens.weight"] = loaded.model.embed_tokens.weight
    loaded.save_pretrained(folder / "reconstructor", state_dict=kept)
    d_model = loaded.config.hidden_size
    head = torch.eye(d_model) + 0.1 * torch.randn(d_model, d_model) / d_model**0.5
    save_file({"weight": head}, folder / "reconstructor" / "value_head.safetensors")
    for role, path in (("av", folder / "verbalizer"), ("ar", folder / "reconstructor")):
        write_sidecar(path, role, model.ids, d_model=d_model, layer=model.layer, scale=model.scale)
        if model.tokenizer is None:
            load_tokenizer().save_pretrained(path)
        else:
            shutil.copytree(model.tokenizer.folder, path, dirs_exist_ok=True)


def _load(gguf: Path, config: Any) -> Any:
    """Load a GGUF in bfloat16, as models are released, with nothing packed in it."""
    plain = GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, config=config, quantization_config=plain, dtype=torch.bfloat16
    ).eval()
