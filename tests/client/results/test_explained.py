"""What is returned for texts: tables, pictures for notebooks, and that nothing in a text is taken for HTML."""

import pickle
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from nla_client import Ablation, Explanation, Info, Score
from nla_client.results.explained import Extraction
from nla_client.showing import shaded
from nla_client.showing.shaded import Patch
from nla_client.wire import AblatedPart, ExplainedToken, PairInfo, ReadToken, Sample
from tests.client.conftest import INFO
from tests.client.source import token

EVIL = """<script>alert("1")</script> & ' " onmouseover="x" <img src=x onerror='y'>\n</span></div>"""


class Seen(HTMLParser):
    """What a browser would make of it: tags, and the texts of each kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.text, self.spans = list[str](), list[str](), "", list[dict[str, Any]]()
        self.feed(html)
        self.close()
        assert self.open == [], "unbalanced"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "span":
            self.spans.append({**dict(attrs), "text": ""})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "small" not in self.open and "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "span":
            self.spans[-1]["text"] += data


def score(mse: float, baseline: float | None = 1.0) -> Score:
    return Score(mse=mse, cosine=1 - mse / 2, fve=None if baseline is None else 1 - mse / baseline)


def explained(start: int, text: str, said: str, scored: Score | None = None, **changes: Any) -> ExplainedToken:
    sample = Sample(text=said, complete=True, finish_reason="stop", score=scored)
    fields = token(start, text, start, norm=2.0, remark=None, samples=[sample.model_dump()]) | changes
    return ExplainedToken.model_validate(fields)


def explanation(text: str, *tokens: ExplainedToken) -> Explanation:
    return Explanation(text, tokens, 3, "av", "src")


def test_a_text_is_coloured_by_fve_with_the_explanation_on_hover() -> None:
    tokens = [
        explained(0, "ab", "first", score(0.1)),
        explained(2, "cd", "second", score(0.9)),
        explained(6, "gh", "third"),
    ]
    seen = Seen(explanation("abcdefgh", *tokens)._repr_html_())
    assert seen.text == "abcdefgh"
    assert [span["text"] for span in seen.spans] == ["ab", "cd", "gh"]
    assert [span["title"].split("\n")[0] for span in seen.spans] == ["first", "second", "third"]
    assert "fve 0.900" in seen.spans[0]["title"]
    shades = [re.findall(r"--nla-(\w+)\),([\d.]+)\)", span["style"])[0] for span in seen.spans]
    assert [kind for kind, _ in shades] == ["more", "more", "none"]
    assert float(shades[0][1]) > float(shades[1][1])


def test_fve_below_zero_and_above_one_has_a_shade_too() -> None:
    seen = Seen(
        explanation("abcd", explained(0, "ab", "x", score(3.0)), explained(2, "cd", "y", score(-1)))._repr_html_()
    )
    assert ["0.08" in seen.spans[0]["style"], "0.60" in seen.spans[1]["style"]] == [True, True]
    assert "--nla-more" in seen.spans[0]["style"]
    none = Seen(explanation("ab", explained(0, "ab", "x", score(0.5, None)))._repr_html_())
    assert "--nla-none" in none.spans[0]["style"]


def test_both_light_and_dark_are_there_and_no_script() -> None:
    html = explanation("ab", explained(0, "ab", "x"))._repr_html_()
    for part in ("prefers-color-scheme:dark", 'data-jp-theme-light="false"', "--jp-content-font-color1"):
        assert part in html
    assert "script" not in html


def test_what_reads_badly_is_marked() -> None:
    seen = Seen(
        explanation(
            "abcd", explained(0, "ab", "x", remark="among the first ten"), explained(2, "cd", "y")
        )._repr_html_()
    )
    assert [span.get("class") for span in seen.spans] == ["nla-marked", None]
    assert seen.spans[0]["title"].endswith("among the first ten")


def test_pieces_of_one_character_are_one_patch() -> None:
    pieces = [explained(0, "é", f"piece {k}", position=k) for k in range(3)]
    seen = Seen(explanation("éa", *pieces)._repr_html_())
    assert (seen.text, len(seen.spans)) == ("éa", 1)
    assert re.findall(r"piece \d", seen.spans[0]["title"]) == ["piece 0", "piece 1", "piece 2"]


def test_patches_that_overlap_show_the_text_once() -> None:
    for places in ([(0, 2), (1, 3)], [(0, 3), (1, 2)], [(0, 0), (0, 2)], [(2, 2), (1, 2)], [(3, 9)]):
        seen = Seen(shaded.text("abcd", [Patch(start, end, 0.5, "told") for start, end in places], ""))
        assert seen.text.replace("·", "") == "abcd"
        assert len(seen.spans) <= len(places)


@pytest.mark.parametrize("said", [EVIL, "plain"])
def test_nothing_of_a_text_is_html(said: str) -> None:
    half = len(EVIL) // 2
    tokens = [explained(0, EVIL[:half], said, remark=EVIL), explained(half, EVIL[half:], said)]
    html = explanation(EVIL, *tokens)._repr_html_()
    seen = Seen(html)
    assert "<script" not in html
    assert set(seen.tags) == {"style", "div", "span", "small"}
    assert seen.text == EVIL
    assert seen.spans[0]["title"].startswith(said)
    assert EVIL in seen.spans[0]["title"]


def ablation(*lost: float, baseline: float | None = 1.0, text: str = "aa bb cc") -> Ablation:
    places = [(3 * k, 3 * k + 2) for k in range(len(lost))]
    parts = [
        AblatedPart(text=text[a:b], start=a, end=b, without=score(0.2 + more, baseline), upto=score(0.5, baseline))
        for (a, b), more in zip(places, lost, strict=True)
    ]
    return Ablation(text, score(0.2, baseline), score(1.5, baseline), tuple(parts))


@pytest.mark.parametrize("baseline", [None, 0.5])
def test_what_parts_carry(baseline: float | None) -> None:
    told = ablation(0.3, 0.0, -0.1, baseline=baseline)
    assert told.carried == pytest.approx(np.array([0.3, 0, -0.1]) / (baseline or 1))
    seen = Seen(told._repr_html_())
    assert (seen.text, [span["text"] for span in seen.spans]) == ("aa bb cc", ["aa", "bb", "cc"])
    shades = [re.findall(r"--nla-(\w+)\),([\d.]+)\)", span["style"])[0] for span in seen.spans]
    assert [kind for kind, _ in shades] == ["more", "more", "less"]
    assert shades[0][1] == "0.60"
    assert shades[1][1] == "0.08"
    assert ("fve" if baseline else "mse") in told._repr_html_()
    assert [row["carried"] for row in told.rows()] == list(told.carried)


def test_an_ablation_of_odd_texts_is_safe() -> None:
    seen = Seen(ablation(0.1, 0.2, text=EVIL)._repr_html_())
    assert seen.text == EVIL
    assert Seen(ablation()._repr_html_()).text == "aa bb cc"
    assert Seen(ablation(0.0, 0.0)._repr_html_()).text == "aa bb cc"


def extraction(norm: float = 1.0, text: str = EVIL) -> Extraction:
    read = ReadToken.model_validate(token(0, text, 0, norm=norm, remark=None))
    return Extraction(text, (read,), np.array([[norm, 0]], np.float32), 3, text)


def test_an_extraction_is_a_small_table() -> None:
    html = extraction()._repr_html_()
    assert "<script" not in html
    assert "2 wide, block 3 of &lt;script" in html
    assert re.findall(r"<th>(\w+)</th>", html) == ["token", "token_id", "position", "norm"]
    assert repr(extraction(text="a")) == "Extraction(text='a', vectors=<[1, 2]>, layer=3, model='a')"


def test_an_extraction_is_checked_against_the_layer() -> None:
    pair = PairInfo(model="m", role="av", checkpoint_dtype="bfloat16", injection_scale=100.0)
    info = Info.model_validate(INFO).model_copy(update={"verbalizer": pair})
    assert extraction(100.0).check_layer(info) is None
    assert "median norm is 1" in str(extraction(1.0).check_layer(info))


def test_tables(faces: Any, server: Any) -> None:
    server.baseline = 2.0
    nla, texts = faces.nla(), ["one two", "three"]
    told = nla.explain(texts, positions="content", n=2, score=True)
    frame = told.to_pandas()
    assert frame["index"].tolist() == [0, 0, 1]
    assert frame["explanation"].tolist() == [token.explanation for one in told for token in one.tokens]
    assert frame["fve"].tolist() == [0.75] * 3
    assert told.to_arrow()["samples"].to_pylist()[0][1]["text"].endswith("sample 1")
    assert told.to_arrow()["remark"].to_pylist() == [None] * 3
    read = nla.extract(texts, positions="all")
    assert read.to_arrow()["activation_vector"].to_pylist()[0] == read[0].vectors[0].tolist()
    assert read.to_arrow()["remark"].to_pylist() == ["a template token", None, None, "a template token", None]
    assert len(read.to_pandas()) == 5
    parts = faces.critic().ablate(["ab c", "d"], [[1.0], [2.0]])
    assert parts.to_pandas()["text"].tolist() == ["ab", "c", "d"]
    assert parts.to_arrow().column_names == ["index", "text", "start", "end", "carried", "mse", "cosine", "fve"]
    for batch in (told, read, parts):
        assert "<table>" in batch._repr_html_()
        assert 'class="tex2jax_ignore mathjax_ignore"' in batch._repr_html_()  # dollars of a text are no maths
        assert pickle.loads(pickle.dumps(batch)).model == batch.model  # noqa: S301 - our own bytes
        empty = type(batch)()
        assert empty.to_arrow().schema == batch.to_arrow().schema
        assert list(empty.to_pandas().columns) == list(batch.to_pandas().columns)


def test_tokens_are_a_table(faces: Any) -> None:
    html = faces.nla().tokenize("<b> x")._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
