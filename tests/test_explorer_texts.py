"""Natural text in the explorer: any sentence, any token, any site; and nothing long is begun by a click."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Locator, Page, expect

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import SettingError
from inversionview.explorer.app import create_app
from inversionview.explorer.command import studies_to_serve
from inversionview.explorer.queue import WorkQueue
from inversionview.page import bundle
from inversionview.preimage.reading import reading
from tests.browser import chromium, opened
from tests.language import deep_llama
from tests.test_contexts import QUERY, TEXTS
from tests.test_explorer_api import Served

API = "/api/v1/studies/texts"
WIDE = {"width": 1400, "height": 1000}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model and a file of texts."""
    folder = tmp_path_factory.mktemp("explored")
    (folder / "mine.txt").write_text("\n".join(TEXTS * 2), encoding="utf-8")
    return deep_llama(folder / "model", layers=2), folder / "mine.txt"


@pytest.fixture(scope="module")
def study(source: tuple[Path, Path]) -> iv.Study:
    made = iv.load(model=source[0], texts=iv.TextSource(str(source[1]), context=24))
    iv.build_bank(made, rows=made.inputs.placed(["all"]).size, sites="x1.post")
    return made


@pytest.fixture(scope="module")
def client(study: iv.Study) -> Iterator[TestClient]:
    with TestClient(create_app({"texts": lambda: study}), base_url="http://localhost") as made:
        yield made


def get(client: TestClient, path: str, code: int = 200, **asked: Any) -> Any:
    answer = client.get(f"{API}{path}", params=asked)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_a_site_that_a_bank_holds_is_read_from_the_corpus(client: TestClient, study: iv.Study) -> None:
    info = get(client, "")
    assert info["texts"] == "mine.txt"
    assert info["default"]["site"] == "x1.post"
    assert info["lacking"] is None
    told = get(client, "/read", text=QUERY, at=" drink", site="x1.post", epsilon=0.5, count=100)["preimage"]
    query = study.query(QUERY, at=" drink", site="x1.post")
    searched = iv.search(study, query, epsilon=0.5, count=100, per_window=1).to_json()
    assert told["corpus"]["occurrences"] == searched["corpus"]["occurrences"] == study.inputs.placed(["all"]).size
    assert told["source"] == "corpus"
    assert [s["ids"] for s in told["samples"]] == [list(s["ids"]) for s in searched["samples"]]
    assert told["bits"] == searched["bits"]
    assert told["per_window"] == 1


def test_a_site_that_none_holds_is_walked_and_the_command_that_is_named_lets_it_be_searched(
    client: TestClient, study: iv.Study
) -> None:
    asked = {"text": QUERY, "at": " drink", "site": "m0", "seconds": 0.3}
    walked = get(client, "/read", **asked)["preimage"]
    assert walked["source"] == "walk"
    note = walked["notes"][0]
    assert note.startswith("No bank of these texts holds m0 yet.")
    assert "seconds here" in note
    assert get(client, "/read", 422, **asked, source="corpus")["detail"] == note
    command = shlex.split(note.split("`")[1])
    main(command[1:])
    assert get(client, "/read", **asked)["preimage"]["source"] == "corpus"


def test_the_map_tells_the_sites_that_banks_hold_as_a_reading_does(client: TestClient) -> None:
    cells = {cell["site"]: cell for cell in get(client, "/map", text=QUERY, at=" drink", epsilon=0.5)["cells"]}
    bits = get(client, "/read", text=QUERY, at=" drink", site="x1.post", epsilon=0.5)["preimage"]["bits"]
    assert {name: cells["x1.post"][name] for name in ("value", "low", "high", "hits")} == {
        name: bits[name] for name in ("value", "low", "high", "hits")
    }
    assert cells["a0.0"]["value"] is None
    assert "BOS" in get(client, "/map", 422, text=QUERY, at="#0")["detail"]


def test_every_answer_is_there_or_says_in_a_sentence_why_not(client: TestClient) -> None:
    here = {"text": QUERY, "at": " drink", "site": "x1.post"}
    assert get(client, "/random", seed=3)["text"]
    assert get(client, "/place", text=QUERY, at=" drink")["position"] == QUERY.split().index("drink") + 1
    assert len(get(client, "/attention", **{**here, "site": "a1.0"})["weights"]) > 3
    both = get(client, "/read", **here, source="all", seconds=0.3, epsilon=0.5)["preimage"]
    assert both["source"] == "all"
    assert both["corpus"]["texts"] == 2 * len(TEXTS)
    for path in ("/interpret", "/patch", "/complete", "/attention"):
        assert get(client, path, 422, **here)["detail"].endswith(".")
    assert get(client, "/map", 422, text=QUERY, kind="ratio")["detail"].endswith(".")
    assert get(client, "/read", 422, **here, source="decoder")["detail"].endswith(".")
    walked = get(client, "/read", text=QUERY, at="#0", site="x1.post", seconds=0.3)
    assert walked["preimage"]["source"] == "walk"  # BOS is no occurrence


def test_the_command_serves_a_model_with_texts_and_a_run(source: tuple[Path, Path], tmp_path: Path) -> None:
    model, texts = map(str, source)
    openers, last = studies_to_serve([], model, "cpu", iv.TextSource(texts, context=24))
    assert last == "model"
    assert openers[last]().inputs.every_token
    for runs, named in ([], None), (["counting"], model):
        with pytest.raises(SettingError, match="--texts are read with a model alone"):
            studies_to_serve(runs, named, "cpu", iv.TextSource(texts))
    main(["bank", "--model", model, "--texts", texts, "--context", "24", "--sites", "x0.post", "--out", str(tmp_path / "run")])
    openers, last = studies_to_serve([str(tmp_path / "run")], None, "cpu")
    with TestClient(create_app({"texts": openers[last or ""]}), base_url="http://localhost") as served:
        assert get(served, "")["default"]["site"] == "x0.post"
        assert get(served, "/read", text=QUERY, epsilon=0.5)["preimage"]["source"] == "corpus"
        note = get(served, "/read", text=QUERY, site="a1.0", seconds=0.3)["preimage"]["notes"][0]
        assert f"`inversionview bank {tmp_path / 'run'} --sites a1.0`" in note


# -- the page ---------------------------------------------------------------------------------------------------------


def left(where: Locator) -> float:
    box = where.bounding_box()
    assert box is not None
    return box["x"]


def aligned(page: Page) -> None:
    """Every matched token begins at the same place, the query's too; no row breaks."""
    words = page.locator(".contexts .row .t.at .word").all()
    assert len(words) > 3
    assert max(map(left, words)) - min(map(left, words)) < 1
    heights = {round(box["height"]) for row in page.locator(".body .row").all() if (box := row.bounding_box())}
    assert heights == {23}


@pytest.mark.parametrize("width", [400, 1400])
def test_matched_tokens_stand_below_one_another(study: iv.Study, tmp_path: Path, width: int) -> None:
    found = iv.search(study, study.query(QUERY, at=" drink", site="x1.post"), epsilon=0.5, count=40)
    address = bundle.to_html([reading(study, found).to_json()], tmp_path / "page.html").as_uri()
    with chromium() as browser, opened(browser, address, viewport={"width": width, "height": 1000}) as page:
        page.wait_for_selector(".body .row")
        aligned(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sample = found.samples[0]
        row = page.locator(".body .row").first
        row.click()
        detail = page.locator(".detail")
        for i in (0, sample.position, len(sample.tokens) - 1):
            expect(detail.locator(f'.t[data-i="{i}"]')).to_have_count(1)  # all of its window
        expect(detail.locator(".t.at")).to_have_attribute("data-i", str(sample.position))
        assert detail.locator(".behind").count() == len(sample.tokens) - 1 - sample.position
        first = detail.text_content()
        page.keyboard.press("ArrowDown")
        expect(page.locator(".row.chosen")).to_have_attribute("aria-rowindex", "2")
        chosen = detail.text_content()
        assert chosen != first
        page.locator(".body .row").nth(2).hover()  # seen while it is pointed at
        expect(detail).not_to_have_text(chosen or "")
        page.locator("h1").hover()
        assert detail.text_content() == chosen
        expect(page.locator(".inside").first).to_contain_text("occurrences inside")
        assert "inputs" not in (page.locator(".panel").text_content() or "")


def test_the_explorer_reads_any_token_and_says_what_a_site_lacks(study: iv.Study) -> None:
    state = "#study=texts&epsilon=0.5&seconds=1"
    with Served({"texts": study}, WorkQueue()) as made, chromium() as browser:
        address = made.url.removesuffix("/api/v1") + "/" + state
        with opened(browser, address, offline=False, expected="status of 4(22|29)", viewport=WIDE) as page:
            page.wait_for_selector(".panel.read:not([aria-busy=true]) .body .row")
            page.get_by_role("textbox", name="Input").fill(QUERY)
            page.keyboard.press("Enter")
            page.locator(".q", has_text="drink").click()
            expect(page.locator(".panel h2")).to_contain_text("drink")
            page.wait_for_selector(".panel.contexts.read:not([aria-busy=true]):not(.stale) .body .row")
            aligned(page)
            page.locator('[data-site="a0.0"]').click()
            expect(page.locator(".panel .notes code")).to_contain_text("inversionview bank --model")
            expect(page.locator(".panel.contexts")).to_have_count(0)
