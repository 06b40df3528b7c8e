"""The live page while answers are awaited, fail, come late or are asked wrongly: nothing of another reading looks current."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, Locator, Page, Route, expect

import inversionview as iv
from inversionview.core.errors import StorageError
from inversionview.explorer.app import create_app
from inversionview.explorer.command import bound
from inversionview.studies.load import keep
from tests.browser import chromium, opened

ADD, OTHER = "615+861=1476", "111+222=333"
ROWS = 1500
EXPECTED = r"status of (404|422|429|500)|ERR_FAILED"
DIM = 0.5
"""What is dimmed is less opaque than this."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of addition with a small bank, of the same as another study, and of one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("runs") / "addition"
    shipped = iv.load("addition")
    iv.build_bank(shipped, folder / "bank", rows=ROWS, positions=["=", "A1", "F1"])
    keep(shipped, folder)
    run = iv.load(folder)

    def broken() -> iv.Study:
        raise StorageError("broken/study.json is damaged.")

    listening = bound("127.0.0.1", 0)
    app = create_app({"addition": lambda: run, "copy": lambda: run, "broken": broken})
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


class Held:
    """Holds back what the page asks of a kind, until it is let go."""

    def __init__(self, page: Page, what: str) -> None:
        self.page, self.routes, self.open = page, list[Route](), False
        page.route(re.compile(rf"/api/v1/studies/[^/]+/{what}\?"), self._take)

    def _take(self, route: Route) -> None:
        if self.open:
            return route.continue_()
        self.routes.append(route)

    def wait(self, count: int) -> None:
        while len(self.routes) < count:
            self.page.wait_for_timeout(20)

    def let_go(self, number: int = -1) -> None:
        """Let the answer come; a request that the page has given up needs none."""
        self.routes[number].continue_()

    def stop(self) -> None:
        """Hold back nothing that is asked from now on."""
        self.open = True


@contextmanager
def reading(browser: Browser, url: str, panels: int = 1, **state: str) -> Iterator[Page]:
    state = {"study": "addition", "source": "corpus", "at": "=", "site": "a0.0", **state}
    with opened(
        browser, f"{url}#{urlencode(state)}", offline=False, expected=EXPECTED, viewport={"width": 1300, "height": 900}
    ) as page:
        settled(page, panels)
        yield page


def panel(page: Page, number: int = 0) -> Locator:
    return page.locator(".panel").nth(number)


def settled(page: Page, panels: int = 1) -> None:
    expect(page.locator(".panel.read:not(.stale):not([aria-busy=true])")).to_have_count(panels, timeout=60_000)
    expect(page.locator(".map:not(.waiting)")).to_have_count(1, timeout=60_000)


def opacity(where: Locator) -> float:
    """How much of it is seen, by the opacity of itself and of all around it."""
    around = """n => { let seen = 1; for (; n instanceof Element; n = n.parentNode) seen *= Number(getComputedStyle(n).opacity);
        return seen; }"""
    return float(where.evaluate(around))


def texts(page: Page, number: int = 0) -> list[str]:
    return panel(page, number).locator(".body .row .x").all_text_contents()


def assert_dimmed(page: Page, number: int = 0) -> None:
    """All that is shown of the last reading is dimmed and cannot be used, and what its bits were is gone."""
    one = panel(page, number)
    for part in (".common", ".distances", ".tools", ".query-row", ".rows", ".save"):
        assert opacity(one.locator(part).first) < DIM, part
        assert one.locator(part).first.evaluate("n => n.closest('[inert]') !== null"), part
    assert one.locator("header .bits").text_content() == ""
    expect(one).to_contain_text("The rows below are of the last reading.")


def click(page: Page, name: str) -> None:
    page.get_by_role("button", name=re.compile(rf"^position \d+, {re.escape(name)}:")).click()


def test_what_was_read_last_is_dimmed_at_once(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        before, reads, maps = texts(page), Held(page, "read"), Held(page, "map")
        click(page, "F1")
        expect(panel(page)).to_have_attribute("aria-busy", "true")
        assert_dimmed(page)
        assert texts(page) == before
        assert opacity(page.locator(".map .site").first) < DIM
        expect(page.locator(".map")).to_have_attribute("aria-busy", "true")
        expect(page.locator(".map .site").first).to_have_attribute("title", re.compile("being read$"))
        expect(panel(page).locator("h2")).to_have_text("a0.0 at F1")
        expect(panel(page).locator(".status")).to_contain_text(re.compile(r"reading … \d+ s\."), timeout=20_000)
        assert page.locator(".q.attended").count() == 0
        page.keyboard.press("p")  # what is pinned is read, not copied from what is dimmed
        expect(panel(page, 1).locator("h2")).to_have_text("a0.0 at F1")
        assert texts(page, 1) == []
        reads.stop()
        for number in range(len(reads.routes)):
            reads.let_go(number)
        maps.let_go()
        settled(page, 2)
        assert texts(page) != before
        assert opacity(panel(page).locator(".rows")) == 1
        assert panel(page).locator("[inert]").count() == 0
        expect(panel(page)).not_to_contain_text("last reading")
        expect(panel(page)).not_to_contain_text("reading …")


@pytest.mark.parametrize("how", ["500", "cancelled"])
def test_what_fails_leaves_nothing_that_looks_current(browser: Browser, url: str, how: str) -> None:
    with reading(browser, url) as page:
        before, reads, maps = texts(page), Held(page, "read"), Held(page, "map")
        click(page, "A1")
        reads.wait(1)
        maps.wait(1)
        if how == "cancelled":
            page.keyboard.press("Escape")
        else:
            for route in (reads.routes[0], maps.routes[0]):
                route.fulfill(status=500, json={"detail": "The server stumbled."})
        said = {"500": "The server stumbled.", "cancelled": "Cancelled."}[how]
        expect(panel(page).locator(".status.failed")).to_contain_text(said)
        expect(panel(page)).to_have_attribute("aria-busy", "false")
        expect(panel(page).locator("h2")).to_have_text("a0.0 at A1")
        assert texts(page) == before
        assert_dimmed(page)
        expect(page.locator(".map.waiting")).to_have_count(0)
        assert set(page.locator(".map .site").all_text_contents()) == {""}  # nothing of another position
        reads.stop()
        maps.stop()
        panel(page).get_by_role("button", name="try again").click()
        expect(page.locator(".panel.stale")).to_have_count(0)
        assert texts(page) != before


def test_a_place_that_cannot_be_asked(browser: Browser, url: str) -> None:
    """The page goes back to the last place, whose rows are current again; those of another input than the field's are not."""
    with reading(browser, url) as page:
        before, places = texts(page), Held(page, "place")
        told = panel(page).locator("header .bits").text_content()
        click(page, "A1")
        places.wait(1)
        assert_dimmed(page)
        places.routes[0].fulfill(status=500, json={"detail": "The server stumbled."})
        expect(page.locator(".said.failed")).to_contain_text("The server stumbled.")
        expect(panel(page).locator("h2")).to_have_text("a0.0 at =")
        settled(page)
        assert (texts(page), panel(page).locator("header .bits").text_content()) == (before, told)
        assert page.locator(".map [data-site='a0.0']").text_content() != ""
        places.stop()
        page.get_by_label("Input").fill("615+86x=1476")
        page.get_by_label("Input").press("Enter")
        expect(page.locator(".said.failed")).to_contain_text("vocabulary lacks it")
        expect(panel(page)).to_contain_text("Not read.")
        assert_dimmed(page)
        assert opacity(page.locator(".query-holder")) < DIM


def test_what_comes_late_is_dropped(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        reads, maps = Held(page, "read"), Held(page, "map")
        click(page, "F1")
        reads.wait(1)
        maps.wait(1)
        click(page, "A1")
        reads.wait(2)
        maps.wait(2)
        for held in (reads, maps):
            held.stop()
            held.let_go(1)
        settled(page)
        current, shades = texts(page), page.locator(".map .site").all_text_contents()
        for held in (reads, maps):
            held.let_go(0)
        page.wait_for_load_state("networkidle")
        assert (texts(page), page.locator(".map .site").all_text_contents()) == (current, shades)
        expect(panel(page).locator("h2")).to_have_text("a0.0 at A1")
        randoms = Held(page, "random")
        page.get_by_role("button", name="a random input").click()
        randoms.wait(1)
        click(page, "F1")
        settled(page)
        randoms.let_go()
        page.wait_for_load_state("networkidle")
        assert page.get_by_label("Input").input_value() == ADD


def test_pins_and_findings_are_of_the_new_input_or_dimmed(browser: Browser, url: str) -> None:
    with reading(browser, url, panels=2, pins="a0.1@A1") as page:
        page.get_by_text("Confirm: does").click()
        page.get_by_role("button", name="Patch").click()
        expect(page.get_by_text("an effect of")).to_be_visible(timeout=60_000)
        reads = Held(page, "read")
        page.get_by_label("Input").fill(OTHER)
        page.get_by_role("button", name="Read", exact=True).click()
        reads.wait(1)
        for number in (0, 1):
            assert_dimmed(page, number)
            expect(panel(page, number)).to_have_attribute("aria-busy", "true")
        expect(page.get_by_text("an effect of")).to_have_count(0)
        reads.stop()
        reads.let_go(0)
        settled(page, 2)
        for number in (0, 1):
            expect(panel(page, number).locator(".query-row .x")).to_contain_text("111+222")


def test_epsilon_moves_while_the_map_is_read(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        maps, field = Held(page, "map"), panel(page).get_by_label("ε", exact=True)
        for number, epsilon in enumerate(("0.5", "2"), 1):
            field.fill(epsilon)
            field.press("Enter")
            expect(page.locator(".map")).to_have_attribute("aria-busy", "true")
            maps.wait(number)
        maps.stop()
        maps.let_go(1)
        settled(page)
        expect(page.locator(".map-part")).to_contain_text("ε = 2.000, euclidean")
        field.fill("-1")
        field.press("Enter")
        expect(field).to_have_value("2.000")


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_bound_is_written_as_one(browser: Browser, url: str) -> None:
    """Where the bank holds one input inside ε or none, the map says the lower end of the exact interval, in its definition:
    P(as few hits ∣ share) = 2.5 %."""
    with reading(browser, url, epsilon="0.02") as page:
        answer = page.request.get(
            f"{url}api/v1/studies/addition/map", params={"text": ADD, "at": "=", "epsilon": "0.02"}
        ).json()
        assert (answer["epsilon"], answer["distance"]) == (0.02, "euclidean")
        few = [cell for cell in answer["cells"] if cell["hits"] < 2]
        assert {cell["hits"] for cell in few} >= {0}
        for cell in answer["cells"]:
            node, n, p = page.locator(f".map [data-site='{cell['site']}']"), cell["inputs"], 2 ** -cell["low"]
            if cell in few:
                tail = (1 - p) ** n + cell["hits"] * n * p * (1 - p) ** (n - 1)
                assert tail == pytest.approx(0.025, rel=1e-6)
            said = f"{cell['value']:.1f}" if cell not in few else f"≥ {math.floor(10 * cell['low']) / 10:.1f}"
            expect(node).to_have_text(said)
            assert f"{cell['site']}: {said} bits" in str(node.get_attribute("aria-label"))
            assert ("repeating" in str(node.evaluate("n => getComputedStyle(n).backgroundImage"))) == (cell in few)
        most = max(cell["low"] if cell in few else cell["value"] for cell in answer["cells"])
        for said in (f"0  {most:.1f} bits", "ε = 0.020, euclidean", "≥: hardly any input inside"):
            expect(page.locator(".map-part")).to_contain_text(said)
        site = few[0]["site"]
        page.locator(f".map [data-site='{site}']").click()
        expect(panel(page).locator("h2")).to_have_text(f"{site} at =")
        settled(page)
        said = f"≥ {math.floor(10 * few[0]['low']) / 10:.1f} bits at ε = 0.020 (euclidean)"
        expect(panel(page).locator("header .bits")).to_have_text(said)


# -- addresses --------------------------------------------------------------------------------------------------------


def fragment(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("<b>x</b>", "There is no study '<b>x</b>' here; there are addition and copy."),
        ("broken", "broken could not be loaded: broken/study.json is damaged."),
    ],
)
def test_a_study_that_is_missing(browser: Browser, url: str, study: str, said: str) -> None:
    with opened(browser, f"{url}#study={quote(study)}&at=%3D", offline=False, expected=EXPECTED) as page:
        expect(page.locator(".said.failed [role=status]")).to_have_text(said)
        assert fragment(page) == {"study": study, "at": "="}
        for part in (".panel", ".map", ".query", ".input"):
            assert not page.locator(part).first.is_visible(), part
        for key in ("ArrowDown", "ArrowLeft", "]", "p", "r"):
            page.keyboard.press(key)
        assert fragment(page) == {"study": study, "at": "="}
        page.get_by_label("Study").select_option("addition")
        settled(page)
        assert fragment(page)["study"] == "addition"
        before = texts(page)
        page.evaluate("name => { location.hash = `#study=${encodeURIComponent(name)}`; }", study)
        expect(page.locator(".said.failed [role=status]")).to_have_text(said)
        assert not panel(page).is_visible()
        assert before
        page.go_back()
        settled(page)
        expect(page.locator(".said.failed")).to_have_count(0)
        assert texts(page) == before


WRONG = [
    ("site", "a9.9", "There is no site 'a9.9'"),
    ("source", "magic", "source is 'magic', but must be "),
    ("distance", "manhattan", "distance is 'manhattan'"),
    ("epsilon", "abc", "epsilon is 'abc'"),
    ("epsilon", "-1", "epsilon is '-1'"),
    ("epsilon", "NaN", "epsilon is 'NaN'"),
    ("epsilon", "Infinity", "epsilon is 'Infinity'"),
    ("seed", "1.5", "seed is '1.5'"),
    ("seed", str(2**64), f"seed is '{2**64}'"),
    ("count", "0", "count is '0'"),
    ("seconds", "1e9", "seconds is '1e9'"),
    ("temperature", "<i>", "temperature is '<i>'"),
    ("fixed", "7", "fixed is '7'"),
    ("at", "Q7", "Q7"),
]


def test_addresses_that_say_what_is_not(browser: Browser, url: str) -> None:
    """Told, the address kept, and nothing read in its place; a right address brings the reading."""
    right = {"study": "addition", "source": "corpus"}
    with opened(browser, f"{url}#{urlencode({**right, 'site': '?'})}", offline=False, expected=EXPECTED) as page:
        asked = list[str]()
        page.on("request", lambda request: asked.append(urlsplit(request.url).path.rpartition("/")[2]))
        for name, value, said in WRONG:
            page.evaluate("hash => { location.hash = hash; }", urlencode({**right, name: value}))
            expect(page.locator(".said.failed [role=status]")).to_contain_text(said)
            assert fragment(page) == {**right, name: value}
            assert page.locator(".panel .body .row").count() == 0
            assert set(page.locator(".map .site").all_text_contents()) == {""}
        assert "read" not in asked
        page.evaluate("hash => { location.hash = hash; }", urlencode(right))
        settled(page)
        expect(page.locator(".said.failed")).to_have_count(0)


def test_what_an_address_says_besides(browser: Browser, url: str) -> None:
    """A theme, pins and names that mean nothing are told; the reading itself can be made."""
    with reading(browser, url, panels=2, theme="pink", pins="x9.z@=|a0.1@A1", sight="a0.0") as page:
        said = page.locator(".said.failed [role=status]")
        for part in ("theme is 'pink'", "pins has 'x9.z@='", "The address has 'sight'"):
            expect(said).to_contain_text(part)
        assert page.locator(".panel h2").all_text_contents() == ["a0.0 at =", "a0.1 at A1"]


def test_a_field_that_says_what_is_not(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        page.get_by_role("spinbutton", name="rows").fill("5000")
        page.get_by_role("spinbutton", name="rows").press("Enter")
        expect(page.locator(".said.failed")).to_contain_text("count is '5000', but must be a whole number from 1 to 2,000.")
        assert_dimmed(page)
        page.get_by_role("spinbutton", name="rows").fill("20")
        page.get_by_role("spinbutton", name="rows").press("Enter")
        settled(page)
        expect(page.locator(".said.failed")).to_have_count(0)


def test_another_study_while_it_loads(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        places = Held(page, "place")
        page.get_by_label("Study").select_option("copy")
        places.wait(1)
        assert_dimmed(page)
        assert opacity(page.locator(".query-holder")) < DIM
        places.routes[0].continue_()
        settled(page)
        answers: Any = fragment(page)
        assert answers["study"] == "copy"
