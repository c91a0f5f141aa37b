"""What the clients return: lists that are tables, the best of several samples; and whether vectors fit the layer."""

import copy
import math
import pickle
import re
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nla_client import (
    Info,
    InvalidArgumentError,
    InvalidVectorError,
    Sample,
    Score,
    Scores,
    Spread,
    Verbalization,
    Verbalizations,
    check_layer,
)
from nla_client.showing.display import SHOWN_ROWS
from nla_client.wire import PairInfo
from nla_data.api import Verbalize
from tests.client.conftest import INFO

COLUMNS = ["explanation", "complete", "finish_reason", "mse", "cosine", "fve", "samples"]


def told(*mses: float | None, text: str = "a text", fve: float | None = 0.5) -> Verbalization:
    """A verbalization whose samples have such scores."""
    scores = [None if mse is None else Score(mse=mse, cosine=1 - mse / 2, fve=fve) for mse in mses]
    samples = [
        Sample(text=f"{text} {k}", complete=True, finish_reason="stop", score=score) for k, score in enumerate(scores)
    ]
    return Verbalization(tuple(samples))


def rows_of(html: str) -> list[str]:
    return re.findall(r"<tr>.*?</tr>", html, re.DOTALL)[1:]


def test_a_batch_is_a_list_that_knows_what_it_cost(faces: Any) -> None:
    batch = faces.nla(batch_size=2).verbalize([[float(k), 1.0] for k in range(5)])
    assert isinstance(batch, Verbalizations)
    assert isinstance(batch, list)
    assert all(isinstance(one, Verbalization) for one in batch)
    assert batch.model == "m"
    assert batch.usage.model_dump() == {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 3}
    assert [one.text for one in batch[1:3]] == ["1", "2"]
    scores = faces.critic(batch_size=2).score(["1", "2", "3"], [[1.0], [2.0], [3.0]])
    assert isinstance(scores, Scores)
    assert (scores.model, scores.usage.prompt_tokens) == ("m", 2)


def test_a_batch_of_none_costs_nothing(faces: Any) -> None:
    for batch in (faces.nla().verbalize(np.empty((0, 4)), best=True), faces.critic().score([], [])):
        assert (batch, batch.model, batch.usage.prompt_tokens) == ([], "", 0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301
def test_copies_keep_all(copied: Any) -> None:
    batch = Verbalizations([told(0.2, 0.1).with_best()], "m")
    assert copied(batch) == batch
    assert (copied(batch).model, copied(batch).usage, copied(batch)[0].chosen) == ("m", batch.usage, 1)


def test_best_of_one_vector(faces: Any, server: Any) -> None:
    best = faces.nla().verbalize([2.0, 0.0], n=4, best=True)
    assert (best.text, best.chosen, best.score.mse) == ("2 sample 2", 2, 0)
    assert [sample.text for sample in best.samples] == [f"2 sample {k}" for k in range(4)]
    assert server.bodies[0]["score"] is True
    assert "best" not in server.bodies[0]


def test_best_of_a_batch(faces: Any) -> None:
    nla = faces.nla(batch_size=2)
    firsts = [3.0, 0.0, 1.0, 2.0, 9.0]
    best = nla.verbalize([[first, 1.0] for first in firsts], n=4, best=True)
    assert isinstance(best, Verbalizations)
    assert [one.chosen for one in best] == [3, 0, 1, 2, 3]
    assert (best.model, best.usage.prompt_tokens) == ("m", 3)
    scored = nla.verbalize([[first, 1.0] for first in firsts], n=4, score=True)
    assert [one.chosen for one in scored] == [0] * 5
    assert [one.samples for one in scored] == [one.samples for one in best]


def test_best_does_not_go_with_stream(faces: Any, server: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="does not go with stream=True"):
        faces.nla().verbalize([1.0], best=True, stream=True)
    assert server.requests == []


def test_of_equal_samples_and_of_unscored_ones_the_first_is_best() -> None:
    assert told(0.3, 0.1, 0.1).with_best().chosen == 1
    assert told(None, None).with_best().chosen == 0
    assert told(None, 0.4, 0.2).with_best().chosen == 2


def test_spread() -> None:
    spread = told(0.1, 0.3, 0.2).spread
    assert isinstance(spread, Spread)
    assert spread == pytest.approx((0.1, 0.2, 0.3, math.sqrt(0.02 / 3)))
    assert told(0.5).spread == Spread(0.5, 0.5, 0.5, 0.0)
    assert told(None).spread is None
    assert told(0.1, None).spread is None


def test_to_pandas() -> None:
    frame = Verbalizations([told(0.4, 0.2).with_best(), told(0.3)]).to_pandas()
    assert list(frame.columns) == COLUMNS
    assert frame["explanation"].tolist() == ["a text 1", "a text 0"]
    assert frame["mse"].tolist() == [0.2, 0.3]
    assert [len(samples) for samples in frame["samples"]] == [2, 1]
    assert frame["samples"][0][0]["text"] == "a text 0"
    scores = Scores([Score(mse=0.5, cosine=0.75, fve=None)]).to_pandas()
    assert (list(scores.columns), scores["mse"][0]) == (COLUMNS[3:6], 0.5)


def test_to_arrow() -> None:
    table = Verbalizations([told(0.4, 0.2).with_best(), told(0.3)]).to_arrow()
    assert table.column_names == COLUMNS
    assert table["explanation"].to_pylist() == ["a text 1", "a text 0"]
    assert table["samples"].to_pylist()[0][1] == {
        "text": "a text 1", "complete": True, "finish_reason": "stop", "mse": 0.2, "cosine": 0.9, "fve": 0.5
    }  # fmt: skip
    assert Scores([Score(mse=0.5, cosine=0.75, fve=None)]).to_arrow().to_pylist() == [
        {"mse": 0.5, "cosine": 0.75, "fve": None}
    ]


@pytest.mark.parametrize("batch", [[], [told(None)], [told(0.1, fve=None)], [told(0.1), told(None)]])
def test_types_do_not_depend_on_values(batch: list[Verbalization]) -> None:
    usual = Verbalizations([told(0.1)])
    table, frame = Verbalizations(batch).to_arrow(), Verbalizations(batch).to_pandas()
    assert table.schema == usual.to_arrow().schema == usual.schema()
    assert list(table.schema)[:7] == list(Verbalize().output(4))[:7]
    assert frame.dtypes.to_dict() == usual.to_pandas().dtypes.to_dict()
    assert frame["fve"].isna().tolist() == [one.score is None or one.score.fve is None for one in batch]


@pytest.mark.parametrize("batch", [[], [Score(mse=1, cosine=0.5, fve=None)]])
def test_types_of_scores_do_not_depend_on_values(batch: list[Score]) -> None:
    assert Scores(batch).to_arrow().schema == pa.schema([(name, pa.float64()) for name in COLUMNS[3:6]])
    assert set(Scores(batch).to_pandas().dtypes) == {pd.Series([0.5]).dtype}


def test_html_of_a_verbalization_marks_the_chosen_sample() -> None:
    html = told(0.4, 0.25, text="<b>&").with_best()._repr_html_()
    assert "<b>" not in html
    first, second = rows_of(html)
    assert "&lt;b&gt;&amp; 0" in first
    assert "<th" not in first
    assert second.count("<th") == second.count("</th>") == 6
    assert "0.2500" in second
    assert "<th style" not in told(0.4)._repr_html_()  # one alone is not marked


def test_html_shows_the_chosen_sample_of_many() -> None:
    mses = [0.5] * (SHOWN_ROWS + 5)
    mses[-2] = 0.1
    html = told(*mses).with_best()._repr_html_()
    assert len(rows_of(html)) == SHOWN_ROWS + 1
    assert f"a text {SHOWN_ROWS + 3}" in rows_of(html)[-1]
    assert "<th style" in rows_of(html)[-1]
    assert html.endswith("<p>and 4 more</p></div>")


def test_html_of_a_batch_is_cut_and_leaves_empty_columns_out() -> None:
    batch = Verbalizations([told(None, text="<i>")] * (SHOWN_ROWS + 3))
    html = batch._repr_html_()
    assert len(rows_of(html)) == SHOWN_ROWS
    assert html.endswith("<p>and 3 more</p></div>")
    assert "<i>" not in html
    assert re.findall(r"<th>(\w+)</th>", html) == ["explanation", "complete", "finish_reason"]
    assert "more" not in Verbalizations([told(None)] * SHOWN_ROWS)._repr_html_()
    assert rows_of(Verbalizations()._repr_html_()) == []


def test_html_of_scores() -> None:
    score = Score(mse=0.5, cosine=0.75, fve=None)
    assert re.findall(r"<th>(\w+)</th>", score._repr_html_()) == ["mse", "cosine"]
    assert "0.7500" in score._repr_html_()
    html = Scores([score, Score(mse=0.1, cosine=0.95, fve=0.9)])._repr_html_()
    assert len(rows_of(html)) == 2
    assert "None" not in html


def served(scale: float | None) -> Info:
    pair = PairInfo(model="m", role="av", checkpoint_dtype="bfloat16", injection_scale=scale)
    return Info.model_validate(INFO | {"layer": 20}).model_copy(update={"verbalizer": pair})


@pytest.mark.parametrize("norm", [26.0, 100.0, 390.0])
def test_vectors_near_the_scale_are_not_remarked_on(norm: float) -> None:
    batch = np.eye(3) * norm
    batch[0] *= 1000  # one such as a BOS token's does not matter
    assert check_layer(batch, served(100.0)) is None
    assert check_layer(batch.astype(ml_dtypes.bfloat16), served(100.0)) is None
    assert check_layer(batch[1], served(100.0)) is None


@pytest.mark.parametrize("norm", [0.0, 1.0, 24.0, 410.0])
def test_vectors_far_from_the_scale_are(norm: float) -> None:
    message = check_layer(np.eye(3) * norm, served(100.0))
    assert message is not None
    assert f"median norm is {norm:g}, but base has about 100 at layer 20" in message
    assert "output of decoder block 20" in message
    assert "hidden_states[21]" in message


def test_where_nothing_can_be_said() -> None:
    assert check_layer(np.ones((2, 4)), served(None)) is None
    assert check_layer(np.ones((2, 4)), Info.model_validate(INFO)) is None
    assert check_layer(np.empty((0, 4)), served(100.0)) is None
    with pytest.raises(InvalidVectorError):
        check_layer([[np.nan]], served(100.0))
