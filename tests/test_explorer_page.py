"""The exported page, opened from disk in a browser without a network: what it shows is what was measured."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

import inversionview as iv
from inversionview.cli import main
from inversionview.core import information
from inversionview.core.printable import cell
from inversionview.drawing.colours import LESS_LIKELY, LIKELIER
from inversionview.page import bundle as exported
from inversionview.preimage.reading import reading
from tests.browser import LONE, chromium, opened
from tests.conftest import ROWS

COUNT = "vvzccvczvvvzvcvc|v:8"
ADD = "615+861=1476"
HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(2)</script>", "<img src=x onerror=alert(3)>", "&amp;", '"', "'", "",
    "שלום", "\u202eevil\u202c", "مرحبا", "\ud83d", "\udc00", "👩\u200d👩\u200d👧", "\u2028", "\x00", "\x1b[31m", "\n", "\t",
    " the", "`${1}`", "javascript:alert(4)", "{{1}}", "\ufeff",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def three(counting: iv.Study) -> list[dict[str, Any]]:
    """The paper's three readings of counting side by side, two by the decoder and one of the corpus, all inside ε shown."""
    places = (("query", "x0.mid"), ("query", "x0.post"))
    drawn = [
        iv.read(counting, counting.query(COUNT, at=at, site=site), count=200, each=24, source="decoder") for at, site in places
    ]
    searched = iv.search(counting, counting.query(COUNT, at=":", site="a1.0"), count=200)
    assert 20 < len(searched.inside) == searched.inside_count < 200 == len(searched)
    return [reading(counting, preimage).to_json() for preimage in (*drawn, searched)]


@pytest.fixture(scope="module")
def page_of_three(three: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported.to_html(three, tmp_path_factory.mktemp("page") / "three.html").as_uri()


def handmade(tokens: list[list[str]], **more: Any) -> dict[str, Any]:
    """A reading of given tokens, nearest first; the second half is outside ε = 0.1."""
    samples = [
        {
            "tokens": row, "text": "".join(row), "distance": 0.2 * i / max(1, len(tokens)), "position": min(1, len(row) - 1),
            "inside": 0.2 * i / max(1, len(tokens)) <= 0.1, "token_distances": [*[0.5] * (len(row) - 1), None],
            "effect": [(-1) ** k * 0.9 for k in range(len(row))], "source": "decoder", "count": 1 + i % 3,
        }
        for i, row in enumerate(tokens)
    ]  # fmt: skip
    query = {"text": "".join(tokens[0]), "tokens": tokens[0], "position": 1, "site": "a0.0", "model": "<b>model</b>"}
    preimage = {"query": query, "distance": "cosine", "epsilon": 0.1, "seed": 0, "samples": samples, "candidates": 9}
    place = {"text": query["text"], "tokens": tokens[0], "ids": list(range(len(tokens[0]))), "position": 1, "names": {"<i>": 1}}
    features = {
        "names": ["<u>"], "query": {"<u>": "</script>"}, "prior": {"<u>": 0.5}, "entropy": {"<u>": 1.0},
        "values": [["</script>"] if i % 2 else ['"&'] for i in range(len(tokens))],
    }  # fmt: skip
    return {
        "version": 1, "study": "hand", "place": place, "site": "a0.0", "preimage": {**preimage, "source": "decoder", **more},
        "features": features,
    }  # fmt: skip


def shown(text: str) -> str:
    """Tokens as the page shows them; what has no picture is a box or a stand-in."""
    text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    text = LONE.sub("·", text).translate({ord("\n"): "⏎", ord("\t"): "⇥", ord("\r"): "␍"})
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200c\u200e-\u200f\u202a-\u202e\u2060-\u2069\ufeff]", "□", text)


def panel_of(page: Page, number: int = 0) -> Locator:
    return page.locator(".panel").nth(number)


def rows(page: Page, panel: int = 0) -> list[tuple[str, str, int]]:
    """Distance, text and marked position of the rows in sight, in their order."""
    cells = """nodes => nodes.map((n) => [Number(n.getAttribute("aria-rowindex")), n.querySelector(".d").textContent,
        n.querySelector(".x").textContent, Number(n.querySelector(".at")?.dataset.i ?? -1)])"""
    found = panel_of(page, panel).locator(".body .row").evaluate_all(cells)
    return [(d, x, at) for _, d, x, at in sorted(found)]


def same(row: tuple[str, str, int], wanted: tuple[str, str, int]) -> bool:
    """Whether a row is that sample: the whole of it or, with an ellipsis where it is cut, at least 20 letters of it.

    A line takes 24 letters at least, four of which go to ellipses and parentheses.
    """
    (distance, text, at), (own, whole, position) = row, wanted
    part = text.removeprefix("…").removesuffix("…")
    if (not text.startswith("…") and not whole.startswith(part)) or (not text.endswith("…") and not whole.endswith(part)):
        return False
    return (distance, at) == (own, position) and part in whole and len(part) >= min(20, len(whole))


def common(reading: dict[str, Any], epsilon: float) -> dict[str, tuple[float, float | None]]:
    """What is common by its definition: the share of the inputs inside with the query's value, and the bits that means.

    As in the feature information of a sample: log2 of that share, the prior counted as one more row, over the prior. The rows
    are all the inputs inside.
    """
    features, samples = reading["features"], reading["preimage"]["samples"]
    inside = [row for row, s in zip(features["values"], samples, strict=True) if s["distance"] <= epsilon]
    found = {}
    for f, name in enumerate(features["names"]):
        agree, prior = sum(str(row[f]) == str(features["query"][name]) for row in inside), features["prior"][name]
        share, bits = (
            agree / max(1, len(inside)),
            log2((agree + prior) / (len(inside) + 1) / prior) if agree and prior else None,
        )
        found[name] = (share if inside else None, bits)
    return found


def assert_common(page: Page, reading: dict[str, Any], epsilon: float, panel: int = 0) -> None:
    cells = "nodes => nodes.map(n => ['.name', '.share', '.bits'].map(s => n.querySelector(s).textContent))"
    told = panel_of(page, panel).locator(".feature").evaluate_all(cells)
    if reading["preimage"]["source"] == "decoder":  # its samples are not draws from the preimage
        assert all(share == "–" or share.startswith("≠") or said.startswith("KL") for _, share, said in told)
        assert all(said == "–" or said.startswith("KL") for _, _, said in told)
        inside = reading["features"]["inside"]
        if inside is not None and inside.get("weighed"):  # but weighed ones tell its shares, at the study's ε
            expect(panel_of(page, panel).locator(".basis")).to_contain_text("Shares are told at ε")
            return
        expect(panel_of(page, panel).locator(".basis")).to_contain_text("Samples near z, not draws")
        expect(panel_of(page, panel).locator(".notes")).to_contain_text("are not draws from the preimage")
        return
    wanted = common(reading, epsilon)
    bits = [wanted[name][1] for name, _, _ in told]
    assert bits == sorted(bits, key=lambda b: -(float("-inf") if b is None else b))
    for name, share, said in told:
        one, at = wanted[name][1], wanted[name][0]
        if at is None:
            assert (share, said) == ("–", "–")
            continue
        shown, low, high = map(float, re.fullmatch(r"([\d.]+) % \[([\d.]+)–([\d.]+)\]", share).groups())
        assert abs(shown - 100 * at) <= 0.5 + 1e-9
        assert low <= shown <= high
        if one is None or one <= -0.05:
            assert said == ("–" if one is None else "less common")
        else:
            assert abs(float(said.removesuffix(" bits")) - max(0.0, one)) <= 0.05 + 1e-9


def test_rows_are_those_of_the_reading(browser: Browser, three: list[dict[str, Any]], page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        for panel, reading in enumerate(three):
            wanted = [
                (f"{s['distance']:.3f}", "".join(s["tokens"]), s["position"])
                for s in sorted(reading["preimage"]["samples"], key=lambda s: s["distance"])
            ]
            assert all(any(same(row, each) for each in wanted) for row in rows(page, panel))
            assert len(rows(page, panel)) == 18
            article = panel_of(page, panel)
            article.get_by_text("show all").click()
            grid = article.get_by_role("grid")
            assert grid.get_attribute("aria-rowcount") == str(len(wanted))
            seen = rows(page, panel)
            assert all(map(same, seen, wanted))
            grid.press("End")
            page.wait_for_timeout(60)
            seen = rows(page, panel)
            assert 20 < len(seen) < 60  # no more than are in sight
            assert all(map(same, seen, wanted[-len(seen) :]))


def test_epsilon_moves_line_split_and_numbers(browser: Browser, three: list[dict[str, Any]], page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        assert_common(page, three[2], 0.1, 2)
        found = three[2]["preimage"]["inside"]
        expect(panel_of(page, 2).locator("output")).to_contain_text(f"{found} of {ROWS:,} inputs inside")
        expect(panel_of(page, 2).locator(".choice")).to_have_text(
            f"Rows: all {found} inside and the {200 - found} nearest outside."
        )
        drawn = three[0]["preimage"]
        expect(panel_of(page).locator("output")).to_contain_text(f"{drawn['inside']} of {12 * 24} candidates inside")
        for epsilon in (0.09, 0.105):
            page.get_by_label("ε", exact=True).nth(2).fill(str(epsilon))
            page.keyboard.press("Enter")
            page.wait_for_timeout(60)
            assert_common(page, three[2], epsilon, 2)
        before = page.locator(".line").nth(2).bounding_box()
        page.get_by_label("ε", exact=True).nth(2).fill("0.01")
        page.keyboard.press("Enter")
        page.wait_for_timeout(60)
        after = page.locator(".line").nth(2).bounding_box()
        assert before is not None
        assert after is not None
        assert after["y"] < before["y"]
        for panel, reading in enumerate(three):  # the others follow
            assert_common(page, reading, 0.01, panel)
            inside = sum(s["distance"] <= 0.01 for s in reading["preimage"]["samples"])
            expect(panel_of(page, panel).locator("output")).to_have_text(f"{inside} of the 200 rows shown inside")
            measured = {"".join(s["tokens"]): s["distance"] for s in reading["preimage"]["samples"]}
            split = panel_of(page, panel).locator(".body .row:not(.out) .x").all_text_contents()
            assert set(split) == {text for _, text, _ in rows(page, panel) if measured[text] <= 0.01}
            tops = "n => [...n.querySelectorAll('.line, .body .row')].map(e => [e.className, e.getBoundingClientRect().top])"
            places = panel_of(page, panel).evaluate(tops)
            line = next(top for name, top in places if name == "line")
            assert sum(top < line for _, top in places) == len(split)


def test_slider_by_keyboard(browser: Browser, three: list[dict[str, Any]], page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        slider = page.get_by_role("slider").first
        most = max(0.15, *(s["distance"] for s in three[0]["preimage"]["samples"]))
        for key in ("Home", "PageUp", "PageUp", "PageUp", "ArrowRight", "PageUp", "PageUp"):
            slider.press(key)
            page.wait_for_timeout(40)
            epsilon = (int(slider.input_value()) / 2000) ** 2 * most
            inside = sum(s["distance"] <= epsilon for s in three[0]["preimage"]["samples"])
            assert f"{inside} of the 200 rows shown inside" in str(slider.get_attribute("aria-valuetext"))
            if inside:
                assert_common(page, three[0], epsilon)


def test_rows_are_not_made_again(browser: Browser, page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        panel_of(page).get_by_text("show all").click()
        page.evaluate("window.kept = [...document.querySelectorAll('.panel:first-of-type .body .row')]")
        for key in ("]", "]", "[", "[", "["):
            page.keyboard.press(key)
            page.wait_for_timeout(30)
        now = "[...document.querySelectorAll('.panel:first-of-type .body .row')]"
        assert page.evaluate(f"{now}.filter(n => window.kept.includes(n)).length") >= page.evaluate(f"{now}.length") - 2


def test_keyboard(browser: Browser, page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        epsilon = page.get_by_label("ε", exact=True).first
        page.keyboard.press("]")
        expect(epsilon).not_to_have_value("0.100")
        assert float(epsilon.input_value()) > 0.1
        page.keyboard.press("[")
        expect(epsilon).to_have_value("0.100")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("/")
        page.keyboard.type("letter=v zz")
        expect(page.locator(".count").first).to_contain_text("outside, of 200")
        page.wait_for_timeout(60)  # the frame that draws what was typed last
        texts = [text for _, text, _ in rows(page)]
        assert texts
        assert all("zz" in text and "|v" in text for text in texts)
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowRight")
        focus = "document.activeElement.closest('.panel').getAttribute('aria-label')"
        assert page.evaluate(focus) == "x0.post at query"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        chosen = panel_of(page, 1).locator(".row.chosen .x").text_content()
        spelled = panel_of(page, 1).locator(".detail .t").all_text_contents()
        assert "".join(spelled) == chosen


def test_groups_and_the_feature_beside_rows(browser: Browser, three: list[dict[str, Any]], page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        page.get_by_label("Group rows by").nth(2).select_option("count")
        page.get_by_label("Feature beside each row").nth(2).select_option("count")
        values = [str(row[1]) for row in three[2]["features"]["values"]]
        most = max(set(values), key=values.count)
        heading = panel_of(page, 2).locator(".heading").first
        inside = [str(s["distance"] <= 0.1) for s in three[2]["preimage"]["samples"]]
        both = sum(v == most and i == "True" for v, i in zip(values, inside, strict=True))
        expect(heading).to_have_text(f"count = {most} · {both} of {values.count(most)} rows inside")
        assert panel_of(page, 2).locator(".body .f").first.text_content() == most


def test_hostile_tokens_are_text(browser: Browser, tmp_path: Path) -> None:
    long = [f"t{i}<" for i in range(1000)]
    tokens = [["<BOS>", *HOSTILE], [*HOSTILE, "x"], *[[token, "</style>", token] for token in HOSTILE], long]
    reading = handmade(tokens)
    path = exported.to_html([reading, handmade([long, *tokens])], tmp_path / "<hostile>.html")
    with opened(browser, path.as_uri(), viewport={"width": 1000, "height": 900}) as page:
        panel_of(page).get_by_text("show all").click()
        seen = rows(page)
        assert len(seen) >= 20
        for (_, text, _), sample in zip(seen, reading["preimage"]["samples"], strict=False):
            whole = "".join(map(shown, sample["tokens"])).replace("<BOS>", "BOS", 1)
            assert text.removesuffix("…").removeprefix("…").replace("∅", "") in whole
        panel_of(page).get_by_role("grid").press("Home")
        spelled = panel_of(page).locator(".detail .t").all_text_contents()
        assert [text.replace("∅", "") for text in spelled] == ["BOS", *map(shown, HOSTILE)]
        panel_of(page, 1).get_by_role("grid").press("Home")
        assert panel_of(page, 1).locator(".detail .t").count() == 1000
        assert page.locator("img, iframe, object, b, i:not(.there):not(.told):not(:empty)").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000


def test_colours_of_effects_and_their_legend(browser: Browser, tmp_path: Path) -> None:
    """Orange where the activation made a token likelier, light blue where less; the legend beside rows that have effects."""
    tokens = [["<BOS>", "a", "b"], ["<BOS>", "a", "c"]]
    plain = handmade(tokens)
    for sample in plain["preimage"]["samples"]:
        sample["effect"] = None
    path = exported.to_html([handmade(tokens), plain], tmp_path / "effects.html")
    with opened(browser, path.as_uri(), viewport={"width": 1000, "height": 900}) as page:
        one, other = panel_of(page), panel_of(page, 1)
        expect(one.locator(".effects")).to_have_text("less likely  likelier by the activation")
        expect(other.locator(".effects")).to_be_hidden()
        shade = "n => getComputedStyle(n).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map((c) => Math.round(255 * c))"
        shades = [one.locator(f".body .row .t[data-i='{i}']").first.evaluate(shade) for i in (0, 1)]
        assert shades == [list(bytes.fromhex(each[1:])) for each in (LIKELIER, LESS_LIKELY)]
        bar = str(one.locator(".effects i").evaluate("n => getComputedStyle(n).backgroundImage"))
        assert bar.startswith("linear-gradient(to right")
        for number, known in ((0, True), (1, False)):
            with page.expect_download() as download:
                panel_of(page, number).get_by_role("button", name="Save as SVG").click()
            assert ("likelier by the activation" in Path(download.value.path()).read_text(encoding="utf-8")) == known


def test_words_of_a_language_model(browser: Browser, tmp_path: Path) -> None:
    """A space before a word is a space, any other a dot; BOS and EOS are short, exact on hover; rows fill their line."""
    words = [" Mary", " and", " John", " went", " to", " the", " store", ",", " John", " gave", " it", " to"]
    query = ["<|im_start|>", "When", *words, "<|im_end|>"]
    odd = ["<|im_start|>", " ", " a", "  b", "c ", "\n", " <|im_end|>", "<|im_start|>", "x"]
    long = ["<|im_start|>", *words * 12, "<|im_end|>"]
    made = handmade([query, odd, long, query])
    made["preimage"]["query"]["position"] = made["place"]["position"] = 13
    made["preimage"]["samples"][2]["position"] = 130
    path = exported.to_html([made], tmp_path / "words.html")
    with opened(browser, path.as_uri(), viewport={"width": 1440, "height": 900}) as page:
        said = "When Mary and John went to the store, John gave it to"
        assert page.locator(".query").text_content() == f"BOS{said}EOS"
        assert page.locator(".query-row .x").text_content() == f"BOS{said}EOS"
        exact = page.locator(".query-row .t").first.get_attribute("title") or ""
        assert json.loads(exact.split(" · ")[0]) == "<|im_start|>"
        texts = [text for _, text, _ in rows(page)]
        assert texts[:2] == [f"BOS{said}EOS", "BOS· a··bc·⏎ <|im_end|><|im_start|>x"]
        cut = "n => [n.clientWidth, n.scrollWidth, n.textContent.length]"
        room, wide, letters = page.locator(".body .row .x").nth(2).evaluate(cut)
        assert wide <= room  # the matched token and what stands around it, in full
        assert letters * 8 > 0.8 * room
        assert texts[2].startswith("…")
        assert rows(page)[2][2] == 130
        page.locator(".body .row").first.click()
        first = page.locator(".detail .t").nth(2)
        assert (first.text_content(), json.loads(first.get_attribute("title") or "")) == (" Mary", " Mary")
        lefts = page.locator(".body .row .d").evaluate_all("nodes => nodes.map((n) => n.getBoundingClientRect().right)")
        assert max(lefts) - min(lefts) < 1
        page.set_viewport_size({"width": 420, "height": 900})
        expect(page.locator(".body .row").first.locator(".x")).not_to_have_text(f"BOS{said}EOS")
        room, wide, _ = page.locator(".body .row .x").first.evaluate(cut)
        assert wide <= room
        assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_saved_files(browser: Browser, three: list[dict[str, Any]], page_of_three: str, tmp_path: Path) -> None:
    made = {}
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        for kind in ("SVG", "PNG", "CSV", "JSON"):
            with page.expect_download() as waited:
                page.get_by_label(f"Save as {kind}").first.click()
            assert waited.value.suggested_filename == f"reading-x0.mid-18.{kind.lower()}"
            waited.value.save_as(tmp_path / kind)
            made[kind] = (tmp_path / kind).read_bytes()
    samples = sorted(three[0]["preimage"]["samples"], key=lambda s: s["distance"])
    assert json.loads(made["JSON"]) == json.loads(json.dumps(exported.lighter(three[0])))
    table = list(csv.DictReader(io.StringIO(made["CSV"].decode())))
    assert [(float(row["distance"]), row["text"]) for row in table] == [(s["distance"], s["text"]) for s in samples]
    assert [row["inside"] == "true" for row in table] == [s["distance"] <= 0.1 for s in samples]
    assert [int(row["count"]) for row in table if row["letter"] == "v"]
    assert made["PNG"].startswith(b"\x89PNG")
    assert int.from_bytes(made["PNG"][16:20]) == 1120
    drawn = "".join(ElementTree.fromstring(made["SVG"]).itertext())
    assert "x0.mid at query" in drawn
    assert "ε = 0.100, euclidean" in drawn


def test_saved_cells_are_no_formulas(browser: Browser, tmp_path: Path) -> None:
    texts = ["=1+1", " +cmd|'/c calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\n@x", "＝1", "-5", "+1e5", "a=b", "\x1b[31m\u202ex",
             'say "x", y', "="]  # fmt: skip
    value = handmade([["B", text, "E"] for text in texts])
    for sample, text in zip(value["preimage"]["samples"], texts, strict=True):
        sample["text"] = text
    page = exported.to_html([value], tmp_path / "page.html")
    with opened(browser, page.as_uri()) as shown_page:
        with shown_page.expect_download() as waited:
            shown_page.get_by_label("Save as CSV").first.click()
        saved = waited.value.path().read_text(encoding="utf-8")
    table = list(csv.DictReader(io.StringIO(saved, newline="")))
    assert [row["text"] for row in table] == [cell(text) for text in texts]
    assert [row["text"] for row in table] == [
        "'=1+1", "' +cmd|'/c calc'!A0", "'-2+3", "'@SUM(A1)", "'⇥=1", "'⏎@x", "'＝1", "-5", "+1e5", "a=b", "·[31m·x",
        'say "x", y', "'=",
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(browser: Browser, page_of_three: str, scheme: str) -> None:
    with opened(browser, page_of_three, color_scheme=scheme) as page:
        bright = "parseInt(getComputedStyle(document.querySelector('.iv')).backgroundColor.match(/\\d+/)[0]) > 128"
        assert page.evaluate(bright) is (scheme == "light")
        for theme in ("light", "dark"):
            page.get_by_text("theme:").click()
            expect(page.get_by_text(f"theme: {theme}")).to_be_visible()
            assert page.evaluate(bright) is (theme == "light")


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_no_page_scrolls_sideways(browser: Browser, page_of_three: str, width: int) -> None:
    with opened(browser, page_of_three, viewport={"width": width, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".panel .x").first.evaluate("n => n.clientWidth") > 120


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 1300), ("light", 360)])
def test_axe_finds_nothing_serious(browser: Browser, page_of_three: str, scheme: str, width: int) -> None:
    with opened(browser, page_of_three, color_scheme=scheme, viewport={"width": width, "height": 900}) as page:
        panel_of(page).get_by_role("grid").press("ArrowDown")
        found = Axe().run(page).response["violations"]
        told = [(v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"]) for v in found]
        assert [t for t, v in zip(told, found, strict=True) if v["impact"] in ("serious", "critical")] == []


def test_layout_does_not_jump(browser: Browser, page_of_three: str) -> None:
    with opened(browser, page_of_three, viewport={"width": 1300, "height": 1000}) as page:
        top = "n => n.getBoundingClientRect().top + scrollY"
        before = page.locator(".legend").evaluate(top)
        for key in ["["] * 30 + ["]"] * 40:
            page.keyboard.press(key)
        panel_of(page, 1).get_by_text("show all").click()
        page.get_by_label("Group rows by").nth(2).select_option("count")
        panel_of(page).locator(".row").first.click()
        page.locator(".filter").first.fill("nothing has this")
        expect(page.get_by_text("No row matches “nothing has this”.")).to_be_visible()
        assert page.locator(".legend").evaluate(top) == before


def test_a_preimage_alone(browser: Browser, addition: iv.Study, tmp_path: Path) -> None:
    preimage = iv.read(addition, addition.query(ADD, at="=", site="a0.0"), count=30, source="decoder")
    with opened(browser, preimage.to_html(tmp_path / "known.html").as_uri()) as page:
        expect(page.locator(".common")).to_be_visible()
    with opened(browser, replace(preimage, study=None).to_html(tmp_path / "alone.html").as_uri()) as page:
        assert page.locator(".panel h2").text_content() == "a0.0 at ="
        assert page.locator(".query-row .attended").count() >= 1
        expect(page.locator(".common")).to_be_hidden()
        assert page.locator(".query .marked").text_content() == "="


def test_empty_and_bits(browser: Browser, tmp_path: Path, addition: iv.Study) -> None:
    preimage = iv.read(addition, addition.query(ADD, at="=", site="a0.0"), count=30, source="decoder")
    searched = replace(preimage, bits=information.bits(25, 100_000), source="corpus")
    readings = [reading(None, replace(preimage, samples=())).to_json(), reading(None, searched).to_json()]
    path = exported.to_html(readings, tmp_path / "empty.html")
    with opened(browser, path.as_uri(), viewport={"width": 1000, "height": 900}) as page:
        expect(page.get_by_text("No rows yet.")).to_be_visible()
        expect(page.get_by_text("12.0 bits at ε = 0.100")).to_be_visible()
    with opened(browser, exported.to_html([], tmp_path / "none.html").as_uri()) as page:
        expect(page.get_by_text("There is no reading here.")).to_be_visible()


def test_mounts_in_a_shadow_tree(browser: Browser, three: list[dict[str, Any]], tmp_path: Path) -> None:
    """As the notebook's widget does: style and keys stay within the element."""
    script = (
        exported.bundle("mount.js")
        + """
        const host = document.getElementById("host").attachShadow({ mode: "open" });
        const style = document.createElement("style");
        style.textContent = document.getElementById("style").textContent;
        host.append(style);
        mount(host, { readings: JSON.parse(document.getElementById("data").textContent) });
    """
    )
    style = (exported.STATIC / "explorer.css").read_text(encoding="utf-8")
    path = tmp_path / "shadow.html"
    parts = [
        '<!doctype html><meta charset="utf-8"><p class="panel" id="own">own</p><div id="host"></div>',
        f'<script type="text/plain" id="style">{style}</script>',
        f'<script type="application/json" id="data">{exported.embedded(three[:1])}</script>',
        f'<script type="module">{script}</script>',
    ]
    path.write_text("".join(parts), encoding="utf-8")
    with opened(browser, path.as_uri(), viewport={"width": 900, "height": 900}) as page:
        expect(page.locator("#host h2").first).to_have_text("x0.mid at query")
        assert len(rows(page, 1)) == 18
        page.keyboard.press("]")
        epsilon = page.get_by_label("ε", exact=True)
        expect(epsilon).to_have_value("0.100")  # the focus is elsewhere
        page.locator("#host [role=grid]").first.focus()
        page.keyboard.press("]")
        expect(epsilon).not_to_have_value("0.100")
        assert page.evaluate("getComputedStyle(document.getElementById('own')).fontSize") == "16px"


# -- the file ---------------------------------------------------------------------------------------------------------


def test_size_of_500_rows(addition: iv.Study, counting: iv.Study) -> None:
    for study, text, site in ((counting, COUNT, "a1.0"), (addition, ADD, "a0.0")):
        made = reading(study, iv.read(study, study.query(text, site=site), count=500, source="decoder")).to_json()
        assert len(exported.page([made]).encode()) <= 500_000


def test_modules_may_be_put_together() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in exported.STATIC.glob("*.js")}
    names = [
        name
        for source in sources.values()
        for found in re.findall(r"^(?:export )?(?:async )?(?:function\*?|class|const) (\w+|\[[^]]*\])", source, re.MULTILINE)
        for name in re.findall(r"\w+", found)
    ]
    assert sorted(names) == sorted(set(names))
    for source in sources.values():
        imports = re.findall(r'^import \{([\w,\s]+)\} from "\./(\w+\.js)";$', source, re.MULTILINE)
        assert len(imports) == len(re.findall(r"^import\b", source, re.MULTILINE))
        for taken, origin in imports:
            for name in re.findall(r"\w+", taken):
                assert re.search(rf"^export (async )?(function\*?|class|const) {name}\b", sources[origin], re.MULTILINE), name
    script = exported.bundle("page.js")
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    assert "</script" not in script
    assert "innerHTML" not in "".join(sources.values())


def test_the_live_page_asks_for_all_modules_at_once() -> None:
    listed = re.findall(r'modulepreload" href="(.*?)"', (exported.STATIC / "index.html").read_text(encoding="utf-8"))
    entries = {"live.js", "page.js", "widget.js"}
    assert listed == sorted({path.name for path in exported.STATIC.glob("*.js")} - entries)


def test_embedded_json_ends_no_script() -> None:
    value = {"a": ["</script>", "<!--", "\u2028\u2029", "\ud83d", "é"]}
    text = exported.embedded(value)
    assert not set("<\u2028\u2029") & set(text)
    assert text.encode("utf-8")
    assert json.loads(text) == value


def test_export_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.html"
    main(["export", "addition", ADD, "--at", "=", "--site", "a0.0", "--site", "a0.1", "--count", "20", "--out", str(path)])
    held = re.search(r'id="readings">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert held is not None
    readings = json.loads(held[1])
    assert [reading["site"] for reading in readings] == ["a0.0", "a0.1"]
    assert readings[0]["features"]["query"]["F1"] == 6
    assert len(readings[0]["features"]["values"]) == len(readings[0]["preimage"]["samples"]) == 20
    assert readings[0]["place"]["names"]["="] == 8
    assert "a0.0 at 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "reading.pdf"], "name a file that ends in .html"),
        (["--site", "a0.0", "--site", "a0.1", "--at", "=", "--at", "A1", "--at", "A2"], "do not go with"),
        (["--source", "magic"], "choose decoder, corpus or walk"),
        (["--out", "/proc/none/reading.html"], "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "addition", ADD, *options])
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


# -- modules of their own ---------------------------------------------------------------------------------------------


def module(browser: Browser, name: str, code: str, argument: Any = None) -> Any:
    """Run code on a module that imports nothing, as ``m``."""
    page = browser.new_page()
    source = (exported.STATIC / name).read_text(encoding="utf-8")
    run = f"async ([source, x]) => {{ const m = await import('data:text/javascript,' + encodeURIComponent(source)); {code} }}"
    try:
        return page.evaluate(run, [source, argument])
    finally:
        page.close()


def test_statistics(browser: Browser) -> None:
    rows = [{"sample": {"distance": d, "text": t}, "values": v} for d, t, v in
            [(0.0, "aB", [7, "x"]), (0.1, "ab", [8, "y"]), (0.1, "c", [9, "x"]), (0.5, "d", ["8", "z"])]]  # fmt: skip

    def run(code: str, x: Any = rows) -> Any:
        return module(browser, "stats.js", f"return {code};", x)

    assert run("[-1, 0, 0.0999, 0.1, 0.4, 0.5].map(e => m.insideCount(x, e))") == [0, 1, 1, 3, 3, 4]
    counts = [[7, 5], [8, 4], [9, 3]]
    assert [run(f"m.spread(x.slice(0, {k}), 3, {n})", counts) for k, n in ((0, 0), (1, 5), (2, 9), (3, 12))] == [
        "–",
        "7",
        "7–8",
        "7–9",
    ]
    assert run("m.spread([['x', 2], ['y', 1], ['z', 1]], 3, 4)") == "x, y, z"
    assert run("m.spread([['x', 2], ['y', 1]], 40, 90)") == "40 values"
    assert run("m.histogram(x, 0.5, 4)") == [1, 2, 0, 1]  # √(0.1 / 0.5) = 0.447 of the axis
    held = "x.map(r => m.holds(r, m.conditions(%s, ['n', 'n+k'])))"
    assert run(held % "'AB'") == [True, True, False, False]
    assert run(held % "'n=8'") == [False, True, False, True]
    assert run(held % "'n!=8 n+k=x'") == [True, False, True, False]
    assert run("m.choice(100, 50, 18).length") == 18
    assert run("m.choice(100, 50, 18).filter(i => i < 50).length") == 12
    assert run("m.choice(20, 2, 18)") == [0, 1, *range(2, 18)]
    assert run("m.choice(5, 5, 18)") == [0, 1, 2, 3, 4]
    assert [len(g["members"]) for g in run("m.grouped([0, 1, 2, 3], x, 0)")] == [2, 1, 1]
    features = {"names": ["n"], "query": {"n": 8}, "prior": {"n": 0.25}}
    code = "return m.common({preimage: {source: 'corpus'}, features: x[1]}, x[0], m.agreeing(x[0], x[1]), 4, 0.6).entries[0];"
    told = module(browser, "stats.js", code, [rows, features])
    assert (told["share"], told["most"]) == (0.5, 2.0)
    assert told["bits"] == pytest.approx(log2((2 + 0.25) / 5 / 0.25))
    assert (told["low"], told["high"]) == pytest.approx(information.wilson(2, 4))
    assert told["bits_low"] <= told["bits"] <= told["bits_high"] <= told["most"]
    drawn = code.replace("corpus", "decoder")  # of samples whose bias is not known nothing is said
    assert module(browser, "stats.js", drawn, [rows, features])["share"] is None
    for hits, trials in ((0, 3), (3, 3), (1, 50), (240, 1932)):
        assert run(f"m.wilson({hits}, {trials})") == pytest.approx(information.wilson(hits, trials))
    assert run("m.amount({epsilon: 1, inside: 3, candidates: 200000, source: 'corpus'}, 1, 2, 9)") == (
        "3 of 200,000 inputs inside (0.0015 %)"
    )
    assert (
        run("m.amount({epsilon: 1, inside: 3, candidates: 9, source: 'decoder'}, 0.5, 2, 9)") == "2 of the 9 rows shown inside"
    )
    wanted = ["–", "less common", "less common", "0.0 bits", "0.0 bits", "2.3 bits"]
    assert run("x.map(m.inBits)", [None, -3.2, -0.06, -0.04, 0.04, 2.26]) == wanted


def test_events_of_a_stream(browser: Browser) -> None:
    code = """
      const bytes = new TextEncoder().encode(x);
      const body = new ReadableStream({ start(c) { for (const b of bytes) c.enqueue(new Uint8Array([b])); c.close(); } });
      const found = [];
      for await (const event of m.events(body)) found.push(event);
      return found;
    """
    text = ': hello\n\nevent: rows\ndata: {"é":\ndata: 1}\n\nevent: done\r\ndata: []\r\n\r\nevent: cut\ndata: 1'
    assert module(browser, "sse.js", code, text) == [{"event": "rows", "data": {"é": 1}}, {"event": "done", "data": []}]
