"""Texts by the base model itself: `python -m nla_launch.demo.generate FOLDER`. Seeded; minutes on two cores."""

import argparse
import json
import logging
import random
import sys
from pathlib import Path
from typing import Any, Final

import torch

from nla_launch.demo.base import load_model, load_tokenizer
from nla_launch.demo.corpus import GENERATED

logger = logging.getLogger(__name__)

ASKED: Final = {
    "a story": "Write the beginning of a short story in which {} matters.",
    "a news report": "Write a news report about {}.",
    "a letter": "Write a letter to a friend about {}.",
    "a recipe": "Write a recipe or a set of steps that has to do with {}.",
    "an explanation": "Explain {} to somebody who has never heard of it.",
}
TEXTS: Final = 480
BATCH: Final = 96
TOKENS: Final = 160
COMMON: Final = 3
"""Senses that a noun must have: those with many are words that people use."""


def main() -> int:
    """Write them."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of unpacked packages, where the texts go, too")
    folder: Path = parser.parse_args().corpus
    model, tokenizer = load_model(torch.bfloat16), load_tokenizer()
    chosen, nouns = random.Random(0), _nouns(folder)  # noqa: S311 - what is asked for
    torch.manual_seed(0)
    half = folder / f"{GENERATED}.half"
    with half.open("w") as out:
        for start in range(0, TEXTS, BATCH):
            kinds = [chosen.choice(list(ASKED)) for _ in range(BATCH)]
            texts = _answers(model, tokenizer, [ASKED[kind].format(chosen.choice(nouns)) for kind in kinds])
            for kind, text in zip(kinds, texts, strict=True):
                out.write(json.dumps({"kind": kind, "text": text}) + "\n")
            logger.info("%d of %d texts", start + BATCH, TEXTS)
    half.rename(folder / GENERATED)
    return 0


def _nouns(folder: Path) -> list[str]:
    """WordNet's nouns of several senses."""
    (path,) = folder.glob("**/wordnet/index.noun")
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith(" ")]
    return [row[0] for row in rows if row[0].isalpha() and int(row[2]) >= COMMON]


@torch.no_grad()
def _answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    chats = [[{"role": "user", "content": question}] for question in questions]
    tokenizer.padding_side = "left"
    given = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(
        **given, max_new_tokens=TOKENS, do_sample=True, temperature=0.9, top_k=40, pad_token_id=tokenizer.eos_token_id
    )
    answers: list[str] = tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


if __name__ == "__main__":
    sys.exit(main())
