"""The live explorer: a real server, a real browser, all that a reader does; then what goes wrong."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

import inversionview as iv
from inversionview.analyses.heads.result import NamedHead
from inversionview.explorer.answers import info
from inversionview.explorer.app import create_app
from inversionview.explorer.command import bound
from tests.browser import LONE, chromium, opened
from tests.language import deep_llama

ADD, COUNT = "615+861=1476", "vvzccvczvvvzvcvc|v:8"
ROWS = 4000
WIDE = {"width": 1300, "height": 1000}
TOKENS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "&amp;", '"', "'", "שלום", "\u202eevil", "\n", "\t", " ",
    "👩\u200d👩\u200d👧", "${1}", "a", "b", "|@",
]  # fmt: skip
HALF = "🙂"
TURNED = r"status of (422|429|503)|ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET|EMPTY_RESPONSE)"
Open = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of bytes and of tokens that a page must not take for its own."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=1100, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=tokenizer.token_to_id("<|end|>"), eos_token_id=tokenizer.token_to_id("<|end|>"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "<b>hostile"
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def environment(user_cache: Path) -> dict[str, str]:
    """That of a user in whose cache both shipped studies have a small bank."""
    return {**os.environ, "XDG_CACHE_HOME": str(user_cache), "HF_HUB_OFFLINE": "1"}


@contextmanager
def exploring(environment: dict[str, str], *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of ``inversionview explore`` and its address, ready to read."""
    command = [sys.executable, "-m", "inversionview.cli", "explore", "--no-browser", "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert url is not None
            while httpx.get(f"{url[0]}api/v1/studies", timeout=60).json()["loading"]:
                time.sleep(0.2)  # a study that loads takes time from readings of the others
            yield process, url[0]
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def url(environment: dict[str, str], hostile_model: Path) -> Iterator[str]:
    with exploring(environment, "--model", str(hostile_model)) as (_, address):
        yield address


@pytest.fixture
def live(browser: Browser, url: str) -> Open:
    """Opens the page in a context of its own, at a state, and waits for its reading."""

    @contextmanager
    def open_page(*, expected: str = "(?!)", ready: bool = True, base: str = url, **state: Any) -> Iterator[Page]:
        options = {"viewport": state.pop("viewport", WIDE), "color_scheme": state.pop("color_scheme", "light")}
        address = f"{base}#{urlencode(state)}" if state else base
        with opened(browser, address, offline=False, expected=expected, **options) as page:
            if ready:
                settled(page)
            yield page

    return open_page


def panel(page: Page, number: int = 0) -> Locator:
    return page.locator(".panel").nth(number)


def settled(page: Page, panels: int = 1) -> None:
    """Wait until that many panels have been read."""
    expect(page.locator(".panel.read:not([aria-busy=true])")).to_have_count(panels, timeout=60_000)
    expect(page.locator(".map.waiting")).to_have_count(0, timeout=60_000)


def state(page: Page) -> dict[str, str]:
    page.evaluate("new Promise(requestAnimationFrame)")
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def rows(page: Page, number: int = 0) -> list[tuple[str, str]]:
    """Distance and text of the rows in sight, in their order."""
    read = """nodes => nodes.map((n) => [Number(n.getAttribute("aria-rowindex")), n.querySelector(".d").textContent,
        n.querySelector(".x").textContent])"""
    return [(d, x) for _, d, x in sorted(panel(page, number).locator(".body .row").evaluate_all(read))]


def in_sight(page: Page, wanted: list[tuple[str, str]]) -> None:
    """Wait until these rows are in sight: as many as fit once the page is laid out."""
    end = time.monotonic() + 15
    while (found := rows(page)) != wanted and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert found == wanted


def title(page: Page, wanted: str, number: int = 0) -> None:
    expect(panel(page, number).locator("h2")).to_have_text(wanted, timeout=60_000)


def ask(url: str, study: str, what: str, **parameters: Any) -> Any:
    answer = httpx.get(f"{url}api/v1/studies/{study}/{what}", params=parameters, timeout=60, headers={"X-Client": "test"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bits_said(cell: dict[str, Any]) -> str:
    """Bits as the map prints them: where one input is inside ε or none, the bound that is left, rounded down."""
    return f"{cell['value']:.1f}" if cell["hits"] > 1 else f"≥ {math.floor(10 * cell['low']) / 10:.1f}"


def idle(url: str) -> bool:
    work = httpx.get(f"{url}api/v1/healthz").json()["queue"]
    return bool(work == {"running": 0, "waiting": 0})


def until(what: Callable[[], bool], page: Page, seconds: float = 5) -> bool:
    for _ in range(int(seconds / 0.05)):
        if what():
            return True
        page.wait_for_timeout(50)
    return what()


# -- what a reader does -----------------------------------------------------------------------------------------------


def test_it_begins_with_a_reading_of_a_shipped_study(live: Open, url: str) -> None:
    with live() as page:
        assert page.get_by_label("Study").locator("option").all_text_contents()[:2] == ["counting", "addition"]
        assert page.get_by_label("Input").input_value() == COUNT
        title(page, "a1.0 at :")
        reading = ask(url, "counting", "read", text=COUNT, at=":", site="a1.0")
        samples = sorted(reading["preimage"]["samples"], key=lambda s: s["distance"])
        assert rows(page)[0][0] == f"{samples[0]['distance']:.3f}"
        assert rows(page)[0][1].replace("□", "") == "".join(samples[0]["tokens"])
        found = reading["preimage"]["inside"]  # the exact source comes first
        expect(panel(page).locator(".origin")).to_contain_text("corpus ·")
        expect(panel(page).locator(".inside")).to_contain_text(f"{found} of {ROWS:,} inputs inside")
        shown = sum(s["inside"] for s in samples)
        expect(panel(page).locator(".choice")).to_contain_text(f"and the {len(samples) - shown} nearest outside")
        told = dict(zip(reading["features"]["names"], reading["features"]["inside"]["features"], strict=True))["letter"]
        letter = panel(page).locator(".feature", has=page.get_by_role("button", name="letter")).locator(".share")
        expect(letter).to_contain_text(
            re.compile(rf"^{100 * told['share']:.0f} % \[{100 * told['low']:.0f}–{100 * told['high']:.0f}\]$")
        )
        page.get_by_label("Study").select_option("addition")
        title(page, "a0.0 at =")
        settled(page)
        assert page.get_by_label("Input").input_value() == ADD
        page.go_back()
        title(page, "a1.0 at :")
        settled(page)


def test_a_click_on_a_token_and_on_a_site(live: Open, url: str) -> None:
    with live(study="addition") as page:
        page.get_by_role("button", name=re.compile("position 1, F1")).click()
        title(page, "a0.0 at F1")
        settled(page)
        assert state(page)["at"] == "F1"
        told = ask(url, "addition", "map", text=ADD, at="F1", epsilon=0.1)
        page.locator(".map .site[data-site='x0.post']").click()
        title(page, "x0.post at F1")
        settled(page)
        shown = {n.get_attribute("data-site"): n.text_content() for n in page.locator(".map .site").all()}
        for cell in told["cells"]:
            assert shown[cell["site"]] == bits_said(cell)
        expect(page.locator(".map .selected")).to_have_attribute("data-site", "x0.post")
        assert page.locator(".q.attended").count() == 0
        page.keyboard.press("ArrowUp")
        page.locator(".map .site[data-site='a0.0']").click()
        settled(page)
        page.get_by_role("button", name=re.compile("position 8, =")).click()
        title(page, "a0.0 at =")
        expect(page.locator(".q.attended").first).to_be_visible()


def test_an_input_typed_or_random(live: Open) -> None:
    with live(expected=TURNED, study="addition") as page:
        field, said = page.get_by_label("Input"), page.locator(".said")
        field.fill("615+86x=1476")
        field.press("Enter")
        expect(said).to_contain_text("vocabulary lacks it")
        assert said.get_by_role("button").count() == 0
        before = rows(page)
        title(page, "a0.0 at =")
        page.get_by_role("button", name=re.compile("position 1, F1")).click()  # of the input that is still shown
        title(page, "a0.0 at F1")
        settled(page)
        assert state(page)["text"] == ADD
        expect(said.get_by_role("status")).to_have_text("")
        assert before
        field.fill("111+222=333")
        page.get_by_role("button", name="Read").click()
        expect(page.locator(".query .q")).to_have_count(13)
        settled(page)
        page.get_by_role("button", name="a random input").click()
        expect(field).not_to_have_value("111+222=333")
        settled(page)
        assert re.fullmatch(r"\d{3}\+\d{3}=\d{3,4}", field.input_value())


def test_a_shorter_input_than_the_position(live: Open) -> None:
    with live(expected=TURNED, study="counting", at="14") as page:
        title(page, "a1.0 at c")
        page.get_by_label("Input").fill("vvv|v:3")
        page.get_by_label("Input").press("Enter")
        title(page, "a1.0 at :")
        settled(page)
        assert (state(page)["text"], state(page)["at"]) == ("vvv|v:3", ":")
        page.get_by_role("button", name="a random input").click()
        expect(page.get_by_label("Input")).not_to_have_value("vvv|v:3")


def test_sources(live: Open) -> None:
    with live(study="counting", seconds=1, count=60) as page:
        for source in ("decoder", "walk", "all", "corpus"):
            page.get_by_label("source").select_option(source)
            expect(panel(page).locator(".origin")).to_contain_text(f"{source} ·", timeout=60_000)
            settled(page)
            assert state(page)["source"] == source
            if source == "all":
                assert len(set(panel(page).locator(".from").all_text_contents())) > 1


def test_epsilon_moves_line_numbers_and_map(live: Open, url: str) -> None:
    with live(study="counting", source="corpus") as page:
        slider, inside = panel(page).get_by_role("slider"), panel(page).locator(".inside")
        distances = [s["distance"] for s in ask(url, "counting", "read", text=COUNT, source="corpus")["preimage"]["samples"]]
        cells = page.locator(".map").text_content()
        box = slider.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 20)
        expect(panel(page).get_by_label("ε", exact=True)).not_to_have_value("0.100")
        epsilon = float(panel(page).get_by_label("ε", exact=True).input_value())
        assert epsilon > 0.1
        expect(panel(page).locator(".line-label")).to_have_text(f"ε = {epsilon:.3f}")
        expect(inside).to_have_text(f"{sum(d <= epsilon for d in distances)} of the {len(distances)} rows shown inside")
        expect(page.locator(".map")).not_to_have_text(cells or "")
        settled(page)
        told = ask(url, "counting", "map", text=COUNT, epsilon=state(page)["epsilon"])
        one = next(cell for cell in told["cells"] if cell["site"] == "a1.0")
        expect(page.locator(".map [data-site='a1.0']")).to_have_text(bits_said(one))
        page.get_by_role("heading", level=1).click()
        for key, sign in (("[", -1), ("]", 1)):
            before = float(state(page)["epsilon"])
            page.keyboard.press(key)
            expect(panel(page).locator(".line-label")).not_to_have_text(f"ε = {before:.3f}")
            assert (float(state(page)["epsilon"]) - before) * sign > 0
        slider.focus()
        page.keyboard.press("Home")
        page.get_by_label("seed").fill("3")
        page.get_by_label("seed").press("Enter")  # ε = 0 is asked for as well
        settled(page)
        expect(page.locator(".failed")).to_have_count(0)


def test_settings_and_the_link(live: Open) -> None:
    with live(study="counting", source="decoder") as page:
        default = rows(page)
        page.get_by_label("seed").fill("7")
        page.get_by_label("seed").press("Enter")
        expect(panel(page).locator(".origin")).to_contain_text("seed 7", timeout=60_000)
        settled(page)
        seeded = rows(page)
        assert seeded != default
        page.get_by_label("temperature", exact=True).fill("2")
        page.get_by_label("noise").fill("0.1")
        page.get_by_label("noise").press("Tab")
        page.locator(".settings").get_by_label("position").select_option(label="the same")
        page.locator(".settings").get_by_label("distance").select_option("cosine")
        expect(panel(page).locator(".origin")).to_contain_text("cosine", timeout=60_000)
        settled(page)
        warm = rows(page)
        assert warm != seeded
        known = state(page)
        assert {name: known[name] for name in ("seed", "temperature", "noise", "fixed", "distance")} == {
            "seed": "7", "temperature": "2", "noise": "0.1", "fixed": "1", "distance": "cosine",
        }  # fmt: skip
        page.reload()
        settled(page)
        in_sight(page, warm)
        assert state(page) == known
        assert page.get_by_label("temperature", exact=True).input_value() == "2"
        address = page.url
    with live(base=address) as page:
        in_sight(page, warm)


def test_arrows_back_and_forward(live: Open) -> None:
    with live(study="addition", source="corpus") as page:
        for key, name in (
            ("ArrowRight", "a0.0 at A1"),
            ("ArrowLeft", "a0.0 at ="),
            ("ArrowDown", "a0.1 at ="),
            ("ArrowUp", "a0.0 at ="),
        ):
            page.keyboard.press(key)
            title(page, name)
            settled(page)
        for name in ("a0.1 at =", "a0.0 at =", "a0.0 at A1"):
            page.go_back()
            title(page, name)
        page.go_forward()
        title(page, "a0.0 at =")
        settled(page)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")  # faster than anything is answered
        title(page, "a0.1 at A2")
        settled(page)
        assert (state(page)["at"], state(page)["site"]) == ("A2", "a0.1")
        assert page.locator(".q.here").get_attribute("aria-label") == "position 10, A2: 4"


def test_going_back_is_not_undone_by_what_arrives(live: Open) -> None:
    """The address changes at once, the event that tells of it comes later: what is written between would undo the step."""
    with live(study="addition", source="corpus") as page:
        page.add_init_script("""
            const hold = (event) => event.stopImmediatePropagation();
            window.addEventListener("hashchange", hold);  // before the page's own
            window.release = () => {
                window.removeEventListener("hashchange", hold);
                window.dispatchEvent(new HashChangeEvent("hashchange"));
            };""")
        page.reload()
        settled(page)
        page.keyboard.press("ArrowDown")
        title(page, "a0.1 at =")
        settled(page)
        page.evaluate("history.back()")
        page.wait_for_url("**site=a0.0**")
        page.get_by_text("theme:").click()  # is kept in the address, too
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        title(page, "a0.1 at =")
        page.evaluate("window.release()")
        title(page, "a0.0 at =")


def test_four_pins_side_by_side(live: Open, url: str) -> None:
    with live(study="counting") as page:
        for site in ("x0.mid", "x0.post", "m0"):
            page.keyboard.press("p")
            page.locator(f".map .site[data-site='{site}']").click()
            title(page, f"{site} at :")
        settled(page, 4)
        page.keyboard.press("p")
        expect(page.locator(".said [role=status]")).to_have_text("Up to 4 readings stand side by side: unpin one first.")
        names = ["m0 at :", "a1.0 at :", "x0.mid at :", "x0.post at :"]
        assert page.locator(".panel h2").all_text_contents() == names
        shown = [rows(page, i) for i in range(4)]
        page.reload()
        settled(page, 4)
        assert page.locator(".panel h2").all_text_contents() == names
        assert [rows(page, i) for i in range(4)] == shown
        page.get_by_label("Input").fill("vvv|v:3")
        page.get_by_label("Input").press("Enter")
        expect(page.locator(".query .q")).to_have_count(9)
        for i in range(4):
            expect(panel(page, i).locator(".query-row .x")).to_contain_text("vvv|v", timeout=60_000)
        settled(page, 4)
        expect(page.locator(".failed")).to_have_count(0)
        panel(page, 2).get_by_role("button", name="unpin").click()
        expect(page.locator(".panel")).to_have_count(3)
        assert state(page)["pins"] == "a1.0@:|x0.post@:"


def test_confirm_and_completeness(live: Open, url: str) -> None:
    with live(study="addition", seed=5) as page:
        page.get_by_text("Confirm: does").click()
        page.get_by_label("Answer token").select_option("A2")
        page.get_by_role("button", name="Patch").click()
        told = ask(url, "addition", "patch", text=ADD, at="=", site="a0.0", target="A2", count=64, seed=5)
        result = page.locator(".more-about", has_text="Confirm: does").locator(".result")
        effect = told["effect"]
        said = f"an effect of {effect['value']:.2f} [{effect['low']:.2f}, {effect['high']:.2f}]".replace("-", "\u2212")
        expect(result).to_contain_text(said, timeout=60_000)
        assert result.locator("tbody tr").count() == len(told["examples"])
        page.get_by_text("Completeness:").click()
        page.get_by_role("button", name="Score 20,000 inputs").click()
        scored = ask(url, "addition", "complete", text=ADD, at="=", site="a0.0", epsilon=0.1, limit=20_000, seed=5)
        share = f"Of the inputs inside ε = 0.100 (euclidean), {100 * scored['recall']:.0f} % are likelier"
        scores = page.locator(".more-about", has_text="Completeness:").locator(".result")
        expect(scores).to_contain_text(share, timeout=30_000)
        painted = (
            """n => new Set(n.getContext("2d").getImageData(0, 0, n.width, n.height).data.filter((_, i) => i % 4 === 3)).size"""
        )
        assert page.locator("canvas").evaluate(painted) > 1
        page.keyboard.press("ArrowRight")
        expect(result).not_to_contain_text("an effect of")


def test_cancel_frees_the_worker(live: Open, url: str) -> None:
    with live(study="addition", source="walk", seconds=50, ready=False) as page:
        expect(panel(page).locator(".body .row").first).to_be_visible(timeout=60_000)
        assert not idle(url)
        panel(page).get_by_role("button", name="cancel").click()
        expect(panel(page).locator(".status")).to_contain_text("Cancelled: what had arrived is shown.")
        assert until(lambda: idle(url), page)
        assert rows(page)
        page.get_by_label("seconds").fill("1")
        page.get_by_label("seconds").press("Enter")
        settled(page)
        expect(panel(page).locator(".status")).to_be_hidden()
        page.get_by_label("seconds").fill("50")
        page.get_by_label("seconds").press("Enter")
        assert until(lambda: not idle(url), page)
        page.keyboard.press("Escape")  # leaves the field
        page.keyboard.press("Escape")
        assert until(lambda: idle(url), page)
        page.get_by_label("seconds").fill("50.5")
        page.get_by_label("seconds").press("Enter")
        assert until(lambda: not idle(url), page)
        page.goto("about:blank")
        assert until(lambda: idle(url), page)
        page.goto(url)


def test_theme_is_kept(live: Open) -> None:
    with live(study="addition", source="corpus") as page:
        page.get_by_text("theme:").click()
        page.get_by_text("theme: light").click()
        expect(page.locator(".iv")).to_have_attribute("data-theme", "dark")
        assert state(page)["theme"] == "dark"
        page.reload()
        settled(page)
        expect(page.locator(".iv")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"study": "nowhere"}, "There is no study 'nowhere' here; there are counting, addition and "),
        ({"study": "addition", "site": "a9.9"}, "a9.9"),
        ({"study": "addition", "at": "Q7"}, "Q7"),
        ({"study": "addition", "epsilon": "abc"}, "epsilon"),
        ({"study": "addition", "source": "magic", "theme": "pink", "pins": "|@||x9.z@=|@@"}, "source is 'magic'"),
    ],
)
def test_links_that_are_wrong(live: Open, wrong: dict[str, str], said: str) -> None:
    with live(expected=TURNED, ready=False, **wrong) as page:
        failed = page.locator(".failed, .note")
        expect(failed.filter(has_text=said).first).to_be_attached(timeout=60_000)
        page.get_by_label("Study").select_option("counting")
        title(page, "a1.0 at :")
        settled(page)


# -- language models --------------------------------------------------------------------------------------------------

MARY = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def deep_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of ``ioi`` on a model of 270 heads, some of them named, beside a study that is still being loaded."""
    study = iv.load("ioi", model=deep_llama(tmp_path_factory.mktemp("deep") / "llama"))
    study.folder = tmp_path_factory.mktemp("runs") / "ioi"
    iv.build_bank(study, study.folder / "bank", rows=40)
    go = threading.Event()

    def slowly() -> iv.Study:
        go.wait(120)
        return iv.load("addition")

    heads = [NamedHead("a20.3", "name mover", "END"), NamedHead("a9.1", "induction", "S2")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(info, "named_heads", lambda one: heads if one is study else [])
        app = create_app({"ioi": lambda: study, "addition": slowly})
        listening = bound("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        go.set()
        server.should_exit = True
        thread.join(20)


def test_a_deep_model_on_its_side(live: Open, deep_url: str) -> None:
    """Layers from left to right, heads from top to bottom, no taller than the window; hover and focus tell a site."""
    with live(base=deep_url, study="ioi", site="a20.3", source="corpus", seconds=1) as page:
        title(page, "a20.3 at END")
        grid = page.get_by_role("grid", name="Sites of the model")
        assert grid.get_by_role("columnheader").all_text_contents() == ["layer", *map(str, range(30))]
        assert grid.get_by_role("rowheader").all_text_contents() == [f"head {i}" for i in range(9)]
        assert grid.locator(".site").count() == 270
        cells = {cell["site"]: cell for cell in ask(deep_url, "ioi", "map", text=MARY, epsilon=0.1)["cells"]}
        one, readout = cells["a7.2"], page.locator(".readout")
        grid.locator("[data-site='a7.2']").hover()
        expect(readout).to_contain_text(f"a7.2: {bits_said(one)} bits")
        grid.locator("[data-site='a20.3']").focus()
        page.keyboard.press("ArrowRight")
        expect(readout).to_contain_text("a21.3")
        page.keyboard.press("Enter")
        title(page, "a21.3 at END")
        settled(page)
        for width, height in ((1440, 900), (1200, 700), (800, 900), (360, 740)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            box = page.locator(".map-scroll").bounding_box()
            assert box is not None
            assert box["height"] < 0.7 * height


def test_named_heads_are_a_click_away(live: Open, deep_url: str) -> None:
    with live(base=deep_url, study="ioi", site="a20.3", source="corpus") as page:
        listed = page.get_by_role("group", name="Heads of the circuit")
        assert [p.inner_text().split() for p in listed.locator("p").all()] == [
            ["name", "mover", "20.3", "at", "END"], ["induction", "9.1", "at", "S2"],
        ]  # fmt: skip
        expect(listed.get_by_role("button", name="a20.3")).to_have_attribute("aria-pressed", "true")
        marked = page.locator(".map .named").evaluate_all("nodes => nodes.map((n) => n.dataset.site)")
        assert sorted(marked) == ["a20.3", "a9.1"]
        listed.get_by_role("button", name="a9.1 at S2, induction").click()
        title(page, "a9.1 at S2")
        settled(page)
        assert (state(page)["site"], state(page)["at"]) == ("a9.1", "S2")
        expect(page.locator(".map [data-site='a9.1']")).to_have_attribute("aria-label", re.compile("induction$"))
        found = Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_a_page_does_not_wait_for_a_study_that_loads(live: Open, deep_url: str) -> None:
    with live(base=deep_url, study="ioi", source="corpus") as page:
        assert page.get_by_label("Study").locator("option").all_text_contents() == ["ioi", "addition (loading)"]
        page.get_by_label("Study").select_option("addition")
        expect(page.locator(".said")).to_contain_text("Loading addition")
        page.get_by_label("Study").select_option("ioi")
        settled(page)
        title(page, "a29.8 at END")


# -- hostile ----------------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    text = LONE.sub("·", text).translate({ord("\n"): "⏎", ord("\t"): "⇥"})
    return text.replace("\u202e", "⟨e2 80 ae⟩").replace("\u200d", "⟨e2 80 8d⟩")


def test_hostile_tokens_are_text(live: Open, hostile_model: Path) -> None:
    text = "".join(TOKENS) + HALF
    asked = {"study": hostile_model.name, "text": text, "at": "3", "site": "x0.post", "seconds": 1}
    with live(viewport={"width": 360, "height": 800}, **asked) as page:
        assert page.get_by_label("Study").locator("option").last.text_content() == str(hostile_model)
        tokens = page.locator(".query .q").all_text_contents()
        assert [shown(re.sub(r"⟨#\d+⟩$", "", token)) for token in tokens[1:-5]] == [shown(token) for token in TOKENS]
        assert len({*tokens[1:-5]}) == len(TOKENS)  # a line break of its own is told from the byte
        assert len(tokens) == len(TOKENS) + 2 + 4  # the emoji is four bytes
        panel(page).get_by_role("grid").press("Home")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator(".q").nth(1).click()
        title(page, f"x0.post at {TOKENS[0]}")
        settled(page)
        page.keyboard.press("p")
        expect(page.locator(".panel")).to_have_count(2)
        page.get_by_label("Input").fill(TOKENS[1] + "ab")
        page.get_by_label("Input").press("Enter")
        expect(page.locator(".query .q")).to_have_count(5)
        settled(page, 2)
        for width in (360, 1300):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".iv :is(script, img, iframe, object)").count() == 0


def test_a_thousand_tokens(live: Open, hostile_model: Path) -> None:
    asked = {"study": hostile_model.name, "text": "ab<&" * 250, "at": "500", "site": "a0.0", "seconds": 1, "count": 20}
    with live(viewport={"width": 360, "height": 740}, **asked) as page:
        assert page.locator(".query .q").count() == 1002
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        here = "n => n.getBoundingClientRect().top - n.parentNode.getBoundingClientRect().top"
        assert 0 <= page.locator(".q.here").evaluate(here) < 200


# -- a server that goes away, or is busy ------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_comes_back(live: Open, environment: dict[str, str]) -> None:
    with exploring(environment) as (process, address):
        port = urlsplit(address).port or 0
        asked = {"study": "addition", "source": "walk", "seconds": 30}
        with live(expected=TURNED, base=address, ready=False, **asked) as page:
            expect(panel(page).locator(".body .row").first).to_be_visible(timeout=60_000)
            process.kill()
            status = panel(page).locator(".status.failed")
            expect(status).to_contain_text("The server went away in the middle of the reading: what had arrived is shown.")
            assert rows(page)
            page.get_by_role("button", name=re.compile("position 1, F1")).click()
            expect(page.locator(".said.failed")).to_contain_text("The server cannot be reached")
            assert page.get_by_role("button", name=re.compile("position 8, =")).get_attribute("aria-pressed") == "true"
            process.wait()
            with exploring(environment, port=port):
                page.get_by_label("seconds").evaluate("n => n.value = 1")
                page.locator(".said").get_by_role("button", name="try again").click()
                title(page, "a0.0 at F1")
                expect(page.locator(".said")).not_to_contain_text("reached")
                panel(page).get_by_role("button", name="cancel").click()
                expect(panel(page).get_by_role("button", name="try again")).to_be_visible()
                expect(page.locator(".said.failed")).to_have_count(0)


def test_a_busy_server_is_asked_again(live: Open, url: str) -> None:
    refused: dict[str, int] = {}

    def refuse(route: Route) -> None:
        what = urlsplit(route.request.url).path.rpartition("/")[2]
        refused[what] = refused.get(what, 0) + 1
        said = {"detail": "The server is busy: ask again in 1 s.", "retry_after": 1}
        if refused[what] > 1:
            route.continue_()
        elif what == "read":  # taken, and turned away when its turn came too late
            route.fulfill(content_type="text/event-stream", body=f"event: failed\ndata: {json.dumps(said)}\n\n")
        else:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=said)

    with live(expected=TURNED, study="addition", source="corpus") as page:
        page.route("**/api/v1/**", refuse)
        page.get_by_role("button", name=re.compile("position 1, F1")).click()
        expect(page.locator(".said [role=status]")).to_have_text(re.compile("The server is busy: asking again in 1 s."))
        expect(panel(page).locator(".status")).to_contain_text("The server is busy: asking again in 1 s.", timeout=3000)
        title(page, "a0.0 at F1")
        settled(page)
        expect(page.get_by_text("The server is busy")).to_have_count(0)
        assert refused == {"place": 2, "read": 2, "map": 2}
        refused.clear()
        page.get_by_role("button", name=re.compile("position 2, F2")).click()
        expect(page.locator(".said [role=status]")).to_contain_text("The server is busy")
        page.keyboard.press("Escape")
        expect(page.locator(".said [role=status]")).to_have_text("")
        expect(page.get_by_role("button", name=re.compile("position 1, F1"))).to_have_attribute("aria-pressed", "true")
        assert refused == {"place": 1}


def test_two_clients_at_once(live: Open) -> None:
    with live(study="counting", source="decoder") as one, live(study="addition", source="decoder") as two:
        clients: list[str] = []
        for page, key in ((one, "ArrowDown"), (two, "ArrowRight")):
            page.on("request", lambda request: clients.append(request.headers["x-client"]))
            page.keyboard.press("p")
            page.keyboard.press(key)
        for page, name in ((one, "x1.mid at :"), (two, "a0.0 at A1")):
            title(page, name)
            settled(page, 2)
            expect(page.locator(".failed")).to_have_count(0)
        assert len(set(clients)) == 2


# -- for everyone -----------------------------------------------------------------------------------------------------


def test_axe_finds_nothing_serious(live: Open) -> None:
    with live(study="addition", source="corpus") as page:
        page.keyboard.press("p")
        for name in ("Confirm: does", "Completeness:"):
            page.get_by_text(name).click()
        page.get_by_role("button", name="Patch").click()
        expect(page.get_by_text("an effect of")).to_be_visible(timeout=60_000)
        settled(page, 2)
        for scheme, width in (("light", 1300), ("dark", 1300), ("dark", 360), ("light", 360)):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = Axe().run(page).response["violations"]
            told = [(v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"]) for v in found]
            assert [t for t, v in zip(told, found, strict=True) if v["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_keyboard_alone(live: Open) -> None:
    """Tab reaches every control, each with a visible focus; Enter on a site reads it."""
    with live(study="addition", source="corpus") as page:
        page.locator("details", has_text="Confirm: does").evaluate("n => n.open = true")
        reached = []
        look = """() => { const n = document.activeElement, s = getComputedStyle(n);
            return [n.tagName, n.getAttribute("aria-label") ?? n.textContent.slice(0, 30), n.matches(":focus-visible"),
                    s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1]; }"""
        for _ in range(80):
            page.keyboard.press("Tab")
            tag, name, visible, outlined = page.evaluate(look)
            if tag == "BODY":
                break
            assert visible, name
            assert outlined, name
            reached.append(name)
            if tag == "SPAN":  # a site of the map
                page.keyboard.press("ArrowRight")
                page.keyboard.press("Enter")
                title(page, "a0.1 at =")
                settled(page)
        wanted = {"Study", "Input", "Read", "a random input", "Keys", "pin", "Patch", "Rows by distance", "Save as CSV"}
        wanted |= {"ε, the threshold on distance", "What shades the map", "Filter rows by text or by feature=value"}
        assert wanted <= set(reached)
        assert any(name.startswith("position 8") for name in reached)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
