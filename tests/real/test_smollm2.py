"""The prompts of the pair in the making, on the model's own tokenizer."""

from transformers import AutoTokenizer

from nla_launch.demo.smollm2.prompts import AR_TEMPLATE, SUFFIX, marker_id, verbalizer_ids
from tests.real.conftest import Needed
from tests.real.models import MODELS


def test_the_marker_stands_once_between_its_neighbours(needed: Needed) -> None:
    model = MODELS["smollm2-135m"]
    (gguf,) = needed(model.weights).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids, marker = verbalizer_ids(tokenizer), marker_id(tokenizer)
    assert (marker, ids.count(marker)) == (model.ids.marker_id, 1)
    at = ids.index(marker)
    assert (ids[at - 1], ids[at + 1]) == (model.ids.left, model.ids.right)
    suffix = tuple(tokenizer(SUFFIX, add_special_tokens=False)["input_ids"])
    assert suffix == model.ids.suffix
    assert tuple(tokenizer(AR_TEMPLATE.format(explanation="Some words."))["input_ids"][-len(suffix) :]) == suffix
