"""A preimage in a notebook: what the kernel sends, what is left where widgets are off, and the widget in JupyterLab itself."""

from __future__ import annotations

import copy
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Page, expect

import inversionview as iv
from inversionview.page import bundle as exported
from inversionview.preimage import widget
from inversionview.preimage.reading import reading
from tests.browser import WATCH, chromium
from tests.test_explorer_page import HOSTILE, handmade, shown

COUNT = "vvzccvczvvvzvcvc|v:8"
LIVE = "application/vnd.jupyter.widget-view+json"
STILL = {"text/html", "text/plain"}
CODE = f"""import inversionview as iv
study = iv.load("counting")
preimage = iv.read(study, study.query("{COUNT}", at=":", site="a1.0"), source="decoder", count=60, each=16)
preimage"""


@pytest.fixture(scope="module")
def preimage(counting: iv.Study) -> iv.Preimage:
    return iv.read(counting, counting.query(COUNT, at=":", site="a1.0"), count=60, each=16, source="decoder")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def formatted(value: Any) -> dict[str, Any]:
    """What a kernel of IPython sends for the last line of a cell."""
    return DisplayFormatter().format(value)[0]


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_a_preimage_is_a_widget_with_a_table_behind_it(preimage: iv.Preimage) -> None:
    data = formatted(preimage)
    assert set(data) == {LIVE, *STILL}
    assert data["text/plain"] == repr(preimage)
    assert data["text/html"] == preimage._repr_html_()
    assert set(data[LIVE]) == {"version_major", "version_minor", "model_id"}


def test_without_anywidget_the_table_is_left(preimage: iv.Preimage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    assert set(formatted(preimage)) == STILL
    assert preimage._display_()._repr_html_() == preimage._repr_html_()
    with pytest.raises(iv.InversionViewError, match=r"pip install 'inversionview\[explore\]'"):
        iv.show(preimage).widget


def test_a_terminal_is_sent_text_alone(preimage: iv.Preimage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        display_formatter = DisplayFormatter(active_types=["text/plain"])

    monkeypatch.setattr("IPython.get_ipython", Shell)
    assert set(formatted(preimage)) == STILL


def test_the_state_is_the_reading(counting: iv.Study, preimage: iv.Preimage) -> None:
    made = iv.show(preimage).widget
    state = made.get_state()
    (sent,) = json.loads(state["readings"])
    assert sent == reading(counting, preimage).to_json()
    assert sent["preimage"] == json.loads(json.dumps(preimage.to_json()))
    assert len(sent["features"]["values"]) == len(preimage)
    assert state["note"] == ""
    assert state["_esm"] == exported.bundle("widget.js")
    assert state["_css"] == (exported.STATIC / "explorer.css").read_text(encoding="utf-8")
    made.set_state({"readings": state["readings"]})
    assert made.readings == [sent]


def test_a_long_preimage_is_cut_and_says_so(preimage: iv.Preimage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widget, "MOST_ROWS", 20)
    made = iv.show(preimage, preimage.choice(10)).widget
    assert [len(one["preimage"]["samples"]) for one in made.readings] == [20, 10]
    assert made.note == "20 of 60 rows were sent to the notebook"


def test_side_by_side(preimage: iv.Preimage) -> None:
    both = iv.show(preimage, preimage.choice(5))
    data = formatted(both)
    assert set(data) == {LIVE, *STILL}
    assert data["text/html"].count("<pre") == 2
    assert [len(one["preimage"]["samples"]) for one in both.widget.readings] == [60, 5]
    for wrong in ([], [preimage] * 5):
        with pytest.raises(iv.InversionViewError, match="give one to 4"):
            iv.show(*wrong)


def test_the_study_goes_along_but_is_not_written(counting: iv.Study, preimage: iv.Preimage, tmp_path: Path) -> None:
    assert preimage.study is preimage.choice(3).study is counting
    assert "study" not in preimage.to_json()
    assert "Study" not in repr(preimage)
    for other in (pickle.loads(pickle.dumps(preimage)), copy.deepcopy(preimage)):
        assert other.study is None
        assert other.to_json() == preimage.to_json()
    page = preimage.to_html(tmp_path / "one.html").read_text(encoding="utf-8")
    (held,) = json.loads(page.split('id="readings">')[1].split("</script>")[0])
    assert held["features"] == reading(counting, preimage).to_json()["features"]
    assert reading(None, replace(preimage, study=None)).features is None


def test_walk_and_search_know_their_study(counting: iv.Study) -> None:
    query = counting.query(COUNT, at=":", site="a1.0")
    assert iv.walk(counting, query, seconds=0.5, count=5).study is counting


# -- notebooks --------------------------------------------------------------------------------------------------------


def notebook(code: str = CODE) -> Any:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    return made


def test_executed_and_converted_notebooks_keep_the_table(preimage: iv.Preimage) -> None:
    made = notebook()
    NotebookClient(made, timeout=60, kernel_name="python3", store_widget_state=False).execute()
    (output,) = made.cells[0].outputs
    assert set(output.data) == {LIVE, *STILL}
    assert output.data["text/html"] == preimage._repr_html_()
    converted, _ = HTMLExporter().from_notebook_node(made)
    (table,) = BeautifulSoup(converted, "html.parser").select(".jp-RenderedHTML pre")
    assert table.get_text() == BeautifulSoup(preimage._repr_html_(), "html.parser").get_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab with nothing of the user's, in its dark theme, and the folder it serves."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lab")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"ip": "127.0.0.1", "port": port, "root_dir": folder, "open_browser": False, "allow_root": True}
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    command = [
        sys.executable, "-m", "jupyterlab", "--IdentityProvider.token=", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", f"--LabApp.user_settings_dir={home}/settings",
        f"--LabApp.workspaces_dir={home}/workspaces", *(f"--ServerApp.{name}={value}" for name, value in options.items()),
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON", "XDG_"))}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**kept, "HOME": str(home)}, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (home / "log").read_text()  # noqa: PT018
                time.sleep(0.1)
        yield address, folder
    finally:
        server.terminate()
        server.wait(20)


def opened_in_lab(browser: Browser, lab: tuple[str, Path], name: str, made: Any) -> Page:
    """A notebook, opened in JupyterLab without any other network; its one cell has been run."""
    address, folder = lab
    nbformat.write(made, folder / name)
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.fetched = []  # type: ignore[attr-defined]
    page.on("request", lambda asked: page.fetched.append(asked.url))  # type: ignore[attr-defined]
    page.on("dialog", lambda dialog: (page.fetched.append(f"dialog: {dialog.message}"), dialog.dismiss()))  # type: ignore[attr-defined]
    context.route(lambda url: not url.startswith((address, "blob:", "data:")), lambda route: route.abort())
    page.add_init_script(WATCH)
    page.goto(f"{address}/doc/tree/{name}")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    page.locator(".jp-Notebook .cm-content").click()
    while page.locator(".jp-InputPrompt").inner_text() == "[ ]:":  # shortcuts come to life late
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(200)
    page.wait_for_selector(".jp-OutputArea-output .iv main", timeout=45_000)
    return page


def test_in_jupyterlab(browser: Browser, lab: tuple[str, Path], preimage: iv.Preimage) -> None:
    page = opened_in_lab(browser, lab, "reading.ipynb", notebook())
    panel = page.locator(".jp-OutputArea-output .iv .panel")
    expect(panel).to_have_count(1)
    panel.get_by_text("show all").click()
    cells = """nodes => nodes.map((n) => [Number(n.getAttribute("aria-rowindex")), n.querySelector(".d").textContent,
        n.querySelector(".x").textContent, Number(n.querySelector(".at").dataset.i)])"""
    found: set[tuple[Any, ...]] = set()
    for key in ("Home", *["PageDown"] * 4):
        panel.get_by_role("grid").press(key)
        page.wait_for_timeout(60)
        found |= {tuple(row) for row in panel.locator(".body .row").evaluate_all(cells)}
    wanted = [(i + 1, f"{s.distance:.3f}", "".join(s.tokens), s.position) for i, s in enumerate(preimage)]
    assert sorted(found) == wanted
    assert panel.locator(".feature").count() > 0
    expect(page.locator(".iv")).to_have_attribute("data-theme", "dark")
    panel.get_by_role("grid").press("b")  # adds a cell where the notebook hears it
    slider, most = panel.get_by_role("slider"), max(1.5 * preimage.epsilon, *(s.distance for s in preimage))
    panel.get_by_text("show 18").click()
    tops = [line_top(panel)]
    for key in ("Home", "PageUp", "End"):
        slider.press(key)
        page.wait_for_timeout(60)
        epsilon = (int(slider.input_value()) / 2000) ** 2 * most
        inside = sum(s.distance <= epsilon for s in preimage)
        expect(panel.locator("output")).to_have_text(f"{inside} of the 60 rows shown inside")
        tops.append(line_top(panel))
    assert tops[1] < tops[0]
    assert tops[1] < tops[3]
    expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(1)
    address, _ = lab
    assert [url for url in page.fetched if not url.startswith((address, "blob:", "data:"))] == []  # type: ignore[attr-defined]
    assert page.evaluate("window.seen") == []
    if "WIDGET_PICTURE" in os.environ:
        page.screenshot(path=os.environ["WIDGET_PICTURE"])
    page.context.close()


def line_top(panel: Any) -> float:
    """Where the line at ε is."""
    return float(panel.locator(".line").bounding_box()["y"])


def test_hostile_tokens_in_jupyterlab(browser: Browser, lab: tuple[str, Path]) -> None:
    made = handmade([["<BOS>", *HOSTILE], *[[token, "</style>", token] for token in HOSTILE]])
    (lab[1] / "hostile.json").write_text(json.dumps([made]))
    code = """import anywidget, json
from inversionview.preimage.widget import _widget
_widget(anywidget)(readings=json.load(open("hostile.json")))"""
    page = opened_in_lab(browser, lab, "hostile.ipynb", notebook(code))
    grid = page.locator(".iv .panel").get_by_role("grid")
    grid.press("Home")
    spelled = page.locator(".iv .detail .t").all_text_contents()
    assert [text.replace("∅", "") for text in spelled] == ["BOS", *map(shown, HOSTILE)]
    assert page.locator(".iv :is(img, script, iframe, object, b, u)").count() == 0
    assert [url for url in page.fetched if not url.startswith((lab[0], "blob:", "data:"))] == []  # type: ignore[attr-defined]
    page.context.close()


def test_hostile_tokens_of_a_preimage(preimage: iv.Preimage) -> None:
    tokens = tuple(token for token in HOSTILE if token.isprintable())
    sample = replace(preimage.samples[0], tokens=tokens, text="".join(tokens), ids=(), position=0, effect=None)
    data = formatted(replace(preimage, samples=(sample,), study=None))
    assert "<script" not in data["text/html"]
    assert "<img" not in data["text/html"]
