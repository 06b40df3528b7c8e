"""The explorer says in words what is common, with a score: by its API and in the browser."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

import inversionview as iv
from inversionview.explorer.answers import confirm
from inversionview.explorer.app import create_app
from inversionview.explorer.queue import WorkQueue
from inversionview.studies.load import keep
from tests.browser import chromium, opened
from tests.test_explorer_api import Served, get

ADD = "615+861=1476"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """Addition as a run with a small bank."""
    folder = tmp_path_factory.mktemp("words") / "addition"
    shipped = iv.load("addition")
    iv.build_bank(
        shipped, folder / "bank", rows=20_000, positions=["=", "A1"], sites=[iv.Site.parse("a0.0"), iv.Site.parse("a0.1")]
    )
    keep(shipped, folder)
    return iv.load(folder)


@pytest.fixture(scope="module")
def client(run: iv.Study) -> Iterator[TestClient]:
    with TestClient(create_app({"addition": lambda: run}), base_url="http://localhost") as made:
        yield made


def test_the_api_says_what_the_library_does(client: TestClient, run: iv.Study) -> None:
    told = get(client, "studies/addition/interpret", text=ADD, at="=", site="a0.0")
    made = iv.interpret(run, [ADD], "a0.0", "=")[0]
    assert told["statement"] == made.queries[0].statement
    assert "6 and 8" in told["statement"]
    assert made.score is not None
    assert told["balanced_accuracy"] == made.score.balanced_accuracy.value
    assert told == confirm.interpretation(run, run.query(ADD, at="=", site="a0.0")).to_json()


@pytest.mark.parametrize(
    ("asked", "says"),
    [({"at": "F1"}, "="), ({"at": "="} | {"site": "x0.pre"}, "x0.pre"), ({"at": "=", "epsilon": "0"}, "greater")],
)
def test_mistakes(client: TestClient, asked: dict[str, str], says: str) -> None:
    answer = get(client, "studies/addition/interpret", 422, text=ADD, **{"site": "a0.0", **asked})
    assert says in answer["detail"]


def test_in_the_browser(run: iv.Study) -> None:
    with Served({"addition": run}, WorkQueue()) as served, chromium() as browser:
        address = served.url.removesuffix("/api/v1") + f"/#study=addition&text={quote(ADD)}&at=%3D&site=a0.0"
        with opened(browser, address, offline=False) as page:
            words = page.locator("details", has_text="In words")
            words.locator("summary").click()
            words.locator("p", has_text="The hundreds digits in either order: 6 and 8").wait_for()
            assert "unseen inputs" in words.inner_text()
