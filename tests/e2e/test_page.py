"""The page in Chromium, before real engines, as a person uses it: at both widths, in the light and in the dark."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import Access, Share
from tests.browser import WAIT_MS
from tests.gateway.process import gateway, wait_until_ready
from tests.plain import LONG, of_engine, running, verbalize, verbalizer_of
from tests.real.conftest import folder_of
from tests.real.fetch import AXE
from tests.stack import Stack

EVIL: Final = "<img src=x onerror=alert(1)><b>bold</b>"


def options(page: Page) -> Any:
    return page.get_by_role("listbox", name="Tokens").get_by_role("option")


def chosen(page: Page) -> list[int]:
    marked = options(page).and_(page.locator("[aria-selected=true]"))
    return [int(one.get_attribute("data-position")) for one in marked.all()]


def choose_last(page: Page) -> None:
    page.get_by_role("button", name="last", exact=True).click()


def explain(page: Page) -> None:
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_role("button", name="Explain", exact=True)).to_be_enabled()
    # What has come is drawn in the next frames, of which a busy machine has few.
    expect(page.locator("article.writing")).to_have_count(0)
    expect(explanations(page).locator(".text", has_text=re.compile(r"^\s*$"))).to_have_count(0)


def explain_at_length(page: Page) -> None:
    """Begin what takes long, and go on once it has begun."""
    page.get_by_role("spinbutton", name="temperature").fill(str(LONG["temperature"]))
    page.get_by_role("spinbutton", name="samples").fill("8")
    page.get_by_role("spinbutton", name="samples").press("Tab")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(explanations(page)).to_have_count(16)


def explanations(page: Page) -> Any:
    return page.get_by_role("region", name="Explanations").get_by_role("article")


def test_one_click_shows_something(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    expect(options(page).first).to_be_visible()
    before = chosen(page)
    assert len(before) == 16
    explain(page)
    expect(explanations(page)).to_have_count(16)
    expect(page.get_by_role("status", name="Progress")).to_have_text("16 of 16")
    for position in before:
        expect(page.locator(f"#token-{position}")).to_have_attribute("data-fve", re.compile(r"^−?\d\.\d\d$"))
    expect(explanations(page).first).to_contain_text(re.compile(r"fve −?\d"))


def test_a_text_is_tokenized_while_it_is_typed(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    page.get_by_role("textbox", name="Text").fill("Cooking\n and music")
    expect(options(page).first).to_have_text(re.compile("Cooking|Co|C"))
    wanted = toy_with_source.http.post("/tokenize", json={"texts": "Cooking\n and music"}).json()["results"][0][
        "tokens"
    ]
    expect(options(page)).to_have_count(len(wanted))
    page.get_by_role("checkbox", name="show white space").check()
    expect(page.get_by_role("listbox", name="Tokens")).to_contain_text("↵")


def test_what_is_chosen_before_its_tokens_come_is_chosen(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    expect(options(page).first).to_be_visible()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def let_go() -> None:
        while not held:
            page.wait_for_timeout(10)
        held.pop().continue_()

    page.route("**/tokenize", hold)
    page.reload()
    choose_last(page)
    expect(options(page)).to_have_count(0)
    let_go()
    expect(options(page).last).to_have_attribute("aria-selected", "true")
    count = options(page).count()
    assert chosen(page) == [count - 1]
    # Nor is it of the tokens of what was there before.
    page.get_by_role("textbox", name="Text").fill("A text that is longer than the one before, by far. " * 5)
    choose_last(page)
    let_go()
    expect(options(page).nth(count)).to_be_visible()
    expect(options(page).last).to_have_attribute("aria-selected", "true")
    assert chosen(page) == [options(page).count() - 1]


def test_a_chat(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    page.get_by_role("tab", name="Chat").click()
    expect(page.get_by_role("tab", name="Chat")).to_have_attribute("aria-selected", "true")
    page.get_by_role("textbox", name="Message 1").fill("What about cooking?")
    page.get_by_role("button", name="Add a message").click()
    page.get_by_role("textbox", name="Message 2").fill("It is fun.")
    expect(page.locator(".token.template, .token.special").first).to_be_visible()
    expect(page.get_by_role("listbox", name="Tokens")).to_contain_text("fun")
    whole = options(page).count()
    page.get_by_role("button", name="Remove message 2").click()
    expect(page.get_by_role("textbox", name="Message 2")).to_have_count(0)
    expect(options(page)).not_to_have_count(whole)
    choose_last(page)
    explain(page)
    expect(explanations(page)).to_have_count(1)


def test_tokens_are_chosen_by_pointer_and_keyboard(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    expect(options(page).first).to_be_visible()
    options(page).nth(3).click()
    assert chosen(page) == [3]
    options(page).nth(6).click(modifiers=["Shift"])
    assert chosen(page) == [3, 4, 5, 6]
    options(page).nth(9).click(modifiers=["Control"])
    assert chosen(page) == [3, 4, 5, 6, 9]
    options(page).nth(1).hover()
    page.mouse.down()
    options(page).nth(4).hover()
    page.mouse.up()
    assert chosen(page) == [1, 2, 3, 4]
    tokens = page.get_by_role("listbox", name="Tokens")
    tokens.focus()
    for key in ("Home", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert chosen(page) == [1]
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert chosen(page) == [1, 2, 3]
    for word, count in (("last", 1), ("all", options(page).count())):
        page.get_by_role("button", name=word, exact=True).click()
        assert len(chosen(page)) == count


def test_a_card_tells_what_carries_it_and_takes_ones_own_words(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    page.get_by_role("spinbutton", name="samples").fill("3")
    page.get_by_role("spinbutton", name="temperature").fill("1")
    choose_last(page)
    explain(page)
    card = explanations(page).first
    expect(card.locator(".samples > div")).to_have_count(3)
    shown = [float(text.replace("−", "-")) for text in re.findall(r"mse ([\d.]+)", card.inner_text())]
    assert shown == sorted(shown)
    part = card.locator(".part").first  # asked for by itself: somebody may not know that there is something to see
    expect(part).to_have_attribute("title", re.compile("fve without this: "))
    expect(card.locator(".told")).to_contain_text(re.compile(r"Carried most by “.*”: without it fve falls|carries it"))
    part.hover()
    expect(card.locator(".told")).to_have_text(part.get_attribute("title"))
    own = card.get_by_role("textbox", name="Your explanation")
    own.click()
    expect(own).to_have_value("")
    own.fill("Mostly cooking.")
    status = card.get_by_role("status")
    expect(status).to_have_text(re.compile(r"yours: fve .* (better|worse|good) (than|as) the text above"))
    first = status.inner_text()
    own.press_sequentially(" Also a hint of databases.")
    expect(status).not_to_have_text(first)
    card.get_by_role("button", name="Start from the text above").click()
    expect(own).to_have_value(card.locator(".text").first.inner_text())
    expect(status).to_have_text(re.compile("as good as the text above"))


def test_a_setting_that_is_left_by_pressing_explain_does_not_move_it(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source, complaint="status of 400")
    choose_last(page)
    page.get_by_role("spinbutton", name="samples").fill("2")
    explain(page)
    expect(page.get_by_text("At temperature 0 all samples are alike.")).to_be_visible()
    expect(page.get_by_role("status", name="Progress")).to_have_text("2 of 2")
    page.get_by_role("spinbutton", name="temperature").fill("-1")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("#explain-problem")).to_contain_text("temperature")
    page.get_by_role("spinbutton", name="temperature").fill("0")
    page.get_by_role("spinbutton", name="temperature").press("Tab")
    expect(page.locator("#explain-problem")).to_be_hidden()
    page.get_by_role("textbox", name="Text").fill("")
    expect(options(page)).to_have_count(0)
    expect(page.get_by_role("status", name="Progress")).to_have_text("")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_text("There is nothing to explain yet: put in a text.")).to_be_visible()


def test_a_token_that_is_looked_at_shows_its_card(open_page: Any, toy_with_source: Stack, size: str) -> None:
    page = open_page(toy_with_source, has_touch=size == "narrow")
    explain(page)
    token, card = page.locator("#token-30"), page.get_by_role("article", name=re.compile("^Token 30:"))
    before = chosen(page)
    if size == "narrow":
        token.tap()
        expect(card).to_be_in_viewport()
        assert chosen(page) == before
        part = card.locator(".part").first
        part.tap()
        expect(card.locator(".told")).to_have_text(part.get_attribute("title"))
        card.get_by_role("button", name="Back to the tokens").tap()
        expect(token).to_be_in_viewport()
        token.tap()
        assert chosen(page) == [position for position in before if position != 30]
        token.tap()
    else:
        token.click()
        expect(card).to_be_in_viewport()
    expect(card.locator(".told")).not_to_contain_text("Point at")
    page.get_by_role("button", name="Compare").click()  # one that is looked at is no choice: all are compared
    expect(page.get_by_role("region", name="Texts against tokens").get_by_role("cell")).to_have_count(17 * 17 - 32)


def test_texts_against_tokens_and_differences(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    explain(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Texts against tokens").get_by_role("cell")).to_have_count(17 * 17 - 32)
    page.get_by_text("Difference of two").click()
    words = page.get_by_role("button", name="Put it in words")
    words.click()
    result = page.get_by_role("status", name="Difference in words")
    expect(result).to_have_text(re.compile(r"With alpha 1\.00.*about", re.DOTALL))
    page.get_by_role("combobox", name="of", exact=True).select_option("texts")
    words.click()
    expect(page.get_by_text("Write both texts")).to_be_visible()
    page.get_by_role("textbox", name="Before").fill("Mostly cooking.")
    page.get_by_role("textbox", name="After").fill("Mostly databases.")
    words.click()
    expect(result).to_have_text(re.compile(r"With alpha 1\.00.*about", re.DOTALL))


def test_explanations_are_searched_filtered_and_sorted(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    explain(page)
    texts = explanations(page).locator(".text").all_inner_texts()
    word = texts[0].split()[-1]
    page.get_by_role("searchbox", name="Search in explanations").fill(word)
    expect(page.get_by_role("status", name="Found")).to_have_text(f"{sum(word in text for text in texts)} of 16")
    page.get_by_role("searchbox", name="Search in explanations").fill("")
    page.get_by_role("spinbutton", name="fve at least").fill("1")
    expect(page.get_by_role("status", name="Found")).to_have_text("0 of 16")
    page.get_by_role("spinbutton", name="fve at least").fill("")
    page.get_by_role("combobox", name="order").select_option("best first")
    shown = [re.search(r"fve (\S+)", text) for text in explanations(page).all_inner_texts()]
    shares = [float(share[1].replace("−", "-")) for share in shown if share]
    assert len(shares) == 16
    assert shares == sorted(shares, reverse=True)


def test_a_link_restores_everything_and_commands_are_what_was_asked(
    open_page: Any, toy_with_source: Stack, tmp_path: Path
) -> None:
    page = open_page(toy_with_source)
    page.get_by_role("textbox", name="Text").fill("Some music & cooking, 100 %.")
    expect(page.get_by_role("status", name="Choice")).to_contain_text("chosen")
    expect(options(page)).not_to_have_count(38)
    options(page).nth(2).click()
    page.get_by_role("spinbutton", name="seed").fill("7")
    page.get_by_role("button", name="Copy link").click()
    expect(page).to_have_url(re.compile("#"))
    again = open_page(toy_with_source, f"/{page.url.removeprefix(toy_with_source.url).lstrip('/')}")
    expect(again.get_by_role("textbox", name="Text")).to_have_value("Some music & cooking, 100 %.")
    expect(options(again).nth(2)).to_have_attribute("aria-selected", "true")
    assert chosen(again) == [2]
    expect(again.get_by_role("spinbutton", name="seed")).to_have_value("7")
    again.get_by_role("button", name="as curl").click()
    command = again.get_by_label("Command").inner_text()
    body = json.loads(command[command.index("-d '") + 4 : -1])
    assert body["positions"] == [2]
    assert body["seed"] == 7
    explain(again)
    told = toy_with_source.http.post("/explain", json=body).json()["results"][0]["tokens"][0]["samples"][0]["text"]
    expect(explanations(again).first).to_contain_text(told)
    again.get_by_role("button", name="as Python").click()
    script = again.get_by_label("Command").inner_text()
    lines: list[str] = []
    names: dict[str, Any] = {"print": lambda *shown: lines.append(shown[-1])}
    exec(script, names)  # noqa: S102 - the page's own command
    names["nla"].close()
    assert lines == [told]
    with again.expect_download() as download:
        again.get_by_role("button", name="JSON lines").click()
    download.value.save_as(tmp_path / "rows.jsonl")
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (row["position"], row["explanation"]) == (2, told)


def test_vectors_without_a_source(open_page: Any, toy: Stack, toy_vectors: Any, tmp_path: Path) -> None:
    page = open_page(toy)
    expect(page.get_by_role("tab", name="Text")).to_be_disabled()
    np.save(tmp_path / "rows.npy", toy_vectors[:3])
    np.savez_compressed(tmp_path / "rows.npz", vectors=toy_vectors[:4])
    chooser = page.get_by_label("or a file")
    for name, count in (("rows.npy", 3), ("rows.npz", 4)):
        chooser.set_input_files(tmp_path / name)
        expect(options(page)).to_have_count(count)
    explain(page)
    expect(explanations(page)).to_have_count(4)
    told = verbalize(toy, toy_vectors[:4])["results"]
    for card, result in zip(explanations(page).all(), told, strict=True):
        expect(card).to_contain_text(result["samples"][0]["text"])
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<i8'}")
    chooser.set_input_files(tmp_path / "bad.npy")
    expect(page.get_by_text("elements of type <i8")).to_be_visible()


def test_stopping_ends_the_samples_in_the_engine(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source, complaint="/explain$")
    explain_at_length(page)
    engine, ended = verbalizer_of(toy_with_source), aborted(toy_with_source)
    wait(page, lambda: running(engine) > 0)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Explain", exact=True)).to_be_enabled()
    expect(page.get_by_role("status", name="Progress")).to_contain_text("ended after")
    wait(page, lambda: aborted(toy_with_source) > ended)
    wait(page, lambda: running(engine) == 0)


def aborted(stack: Stack) -> float:
    return of_engine(stack, "verbalizer", "num_aborted_requests")


def wait(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until something of the server's is so, as long as for what is on the page."""
    for _ in range(WAIT_MS // 100):
        if condition():
            return
        page.wait_for_timeout(100)
    pytest.fail("it did not come true in time")


def test_what_comes_from_elsewhere_is_text(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source)
    page.route("**/explain", lambda route: route.fulfill(body=evil_events(), content_type="text/event-stream"))
    page.get_by_role("textbox", name="Text").fill(EVIL)
    expect(page.get_by_role("listbox", name="Tokens")).to_contain_text("onerror")
    choose_last(page)
    explain(page)
    card = explanations(page).first
    expect(card.locator(".text")).to_have_text(EVIL)
    card.get_by_role("textbox", name="Your explanation").fill(EVIL)
    expect(card.get_by_role("status")).to_have_text(re.compile("yours: fve"))
    assert page.locator("img, article b, script:not([src])").count() == 0


def evil_events() -> str:
    """A model that writes HTML, at the last token of the text."""
    position = len(EVIL) - 1
    sample = {"text": EVIL, "complete": True, "finish_reason": "stop", "score": {"mse": 1, "cosine": 0.5, "fve": 0.1}}
    events: list[tuple[str, dict[str, Any]]] = [("tokens", {"index": 0, "text": EVIL, "tokens": []})]
    events += [("sample.done", {"index": 0, "position": at, "sample": 0, **sample}) for at in range(position + 1)]
    events.append(("done", {"usage": {}}))
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)


def test_the_servers_own_sentence_is_shown_where_it_failed(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source, complaint="status of 400")
    explain(page)
    page.get_by_role("spinbutton", name="temperature").fill("-1")
    page.get_by_role("spinbutton", name="temperature").press("Tab")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("#explain-problem")).to_contain_text("temperature")
    expect(explanations(page)).to_have_count(16)
    expect(explanations(page).first).to_contain_text("fve")


def test_a_tab_that_was_left_while_it_was_explained_is_whole(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source, complaint="/explain$")
    explain_at_length(page)
    page.get_by_role("tab", name="Chat").click()
    expect(explanations(page)).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.get_by_role("status", name="Progress")).to_have_text("")
    page.get_by_role("tab", name="Text").click()
    expect(explanations(page)).to_have_count(16)
    expect(explanations(page).first.get_by_role("textbox", name="Your explanation")).to_be_visible()
    expect(page.locator("article.writing")).to_have_count(0)


def test_a_lost_connection_keeps_what_is_there(open_page: Any, toy_with_source: Stack) -> None:
    page = open_page(toy_with_source, complaint="/explain$|/tokenize$|ERR_")
    explain(page)
    expect(explanations(page).first.locator(".told")).not_to_contain_text("Point at")
    before = explanations(page).all_inner_texts()
    for path in ("explain", "tokenize"):
        page.route(f"**/{path}", lambda route: route.abort())
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_text("The server cannot be reached")).to_be_visible()
    assert explanations(page).all_inner_texts() == before
    page.unroute_all()
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_text("The server cannot be reached")).to_be_hidden()
    page.get_by_role("tab", name="Chat").click()
    page.get_by_role("tab", name="Text").click()
    expect(explanations(page)).to_have_count(16)


def test_a_key_is_asked_for(open_page: Any) -> None:
    with gateway(GatewayLimits(), access=Access(api_keys={"me": "secret"})) as locked:
        page = open_page(locked, complaint="status of 401|status of 503")
        field = page.get_by_label("API key")
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_text("The server does not know this key.")).to_be_visible()
        field.fill("secret")
        field.press("Enter")
        expect(field).to_be_hidden()
        expect(page.get_by_text("There is no verbalizer")).to_be_visible()


def test_limits_of_ones_own_are_told(open_page: Any, toy_with_source: Stack) -> None:
    """What is left, when to ask again; and one's own words are scored once that may be, without being typed anew."""
    access = Access(api_keys={"me": "secret"}, shares={"me": Share(requests_per_minute=6)})
    with gateway(GatewayLimits(), access=access, pairs=toy_with_source.settings().pairs) as limited:
        wait_until_ready(limited)
        page = open_page(limited, complaint="status of 401|status of 429")
        page.get_by_label("API key").fill("secret")
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_text(re.compile(r"Left for this minute: \d+ of 6 requests\."))).to_be_visible()
        choose_last(page)
        explain(page)
        card = explanations(page).first
        own, status = card.get_by_role("textbox", name="Your explanation"), card.get_by_role("status")
        # What its key may ask for is used up elsewhere.
        headers = {"authorization": "Bearer secret"}
        while httpx.post(f"{limited.url}/critic", json={}, headers=headers, trust_env=False).status_code != 429:
            continue
        own.fill("Words of one's own.")
        expect(status).to_contain_text(
            re.compile(r"6 requests a minute, and these are used up: wait \(again in \d+ s\)")
        )
        expect(status).to_contain_text("yours: fve")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Any, toy_with_source: Stack, scheme: str) -> None:
    axe = folder_of(AXE) / "axe.min.js"
    page = open_page(toy_with_source, bypass_csp=True, color_scheme=scheme)
    explain(page)
    for summary in page.locator("summary").all():
        summary.click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Texts against tokens")).to_be_visible()
    page.add_script_tag(path=str(axe))
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_a_long_text(open_page: Any, toy_with_source: Stack) -> None:
    """Chips come some at a time; all of them can be chosen, up to what is said to be the limit."""
    page = open_page(toy_with_source)
    text = "Cooking and music, with rain. " * 400
    whole = toy_with_source.http.post("/tokenize", json={"texts": text}).json()["results"][0]["tokens"]
    page.get_by_role("textbox", name="Text").fill(text)
    expect(options(page)).to_have_count(len(whole))
    page.get_by_role("button", name="all", exact=True).click()
    limit = toy_with_source.http.get("/v1/info").json()["limits"]["max_samples"]
    expect(page.get_by_role("status", name="Choice")).to_contain_text(f"{limit} of {len(whole)} chosen")
    expect(options(page).last).to_have_attribute("aria-selected", "true")
    page.get_by_role("listbox", name="Tokens").focus()
    for key, place in (("Home", "first"), ("End", "last")):
        page.keyboard.press(key)
        expect(getattr(options(page), place)).to_have_class(re.compile(r"\bat\b"))
