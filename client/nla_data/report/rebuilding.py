"""The run's reconstructor, asked once more: texts that no run has scored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from nla_client import NLACritic
from nla_data.errors import UsageError
from nla_data.report.likeness import Floats, unit
from nla_data.writing.manifest import Served

_ELSEWHERE: Final = dict.fromkeys(("verbalizer", "base_model", "layer", "predict_mean_mse"))
"""What does not matter for texts to vectors."""


class Rebuilder:
    """Texts to units."""

    def __init__(self, critic: NLACritic) -> None:
        self._critic = critic

    def units(self, texts: Sequence[str]) -> Floats:
        """The rebuilt vectors, scaled to norm 1 [n, d]; equal texts are sent once.

        Raises:
            NLAError: the server does not answer as it should.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        found = self._critic.reconstruct(list(places), dtype="float32")
        return np.asarray(unit(found)[[places[text] for text in texts]])


@contextmanager
def rebuilder(url: str, api_key: str | None, model: str | None, served: Served) -> Iterator[Rebuilder]:
    """The server's reconstructor, which must be the run's.

    Raises:
        UsageError: it serves none, or another.
        NLAError: it cannot be asked.
    """
    with NLACritic(url, api_key=api_key, model=model) as critic:
        now = Served.of(critic.info())
        if now.reconstructor is None:
            raise UsageError(f"{url} serves no reconstructor (nla-serve --only?)")
        difference = served.model_copy(update=_ELSEWHERE).difference(now.model_copy(update=_ELSEWHERE))
        if difference:
            raise UsageError(f"{url} serves another reconstructor than the run had: {difference}")
        yield Rebuilder(critic)
