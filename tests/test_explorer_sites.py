"""The explorer at any site: by name, through files that may be read, in the address, beside the map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import torch
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import save_file

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.explorer.allowed_files import AllowedFiles
from inversionview.explorer.app import create_app
from inversionview.explorer.command import bound, files_for
from inversionview.explorer.queue import WorkQueue
from inversionview.page import contract
from inversionview.studies.load import keep
from tests.browser import chromium, opened
from tests.test_explorer_api import ADD, API, Served
from tests.test_explorer_stale import settled

HERE = {"text": ADD, "at": "="}
LATENT = "x0.post|sae:addition#22"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """Addition with a small bank of its own sites, and one of two others in the cache."""
    folder, shipped = tmp_path_factory.mktemp("runs") / "addition", iv.load("addition")
    iv.build_bank(shipped, folder / "bank", rows=3000)
    keep(shipped, folder)
    study = iv.load(folder)
    iv.build_bank(study, rows=2000, sites=["n0.5", LATENT], positions=["=", "A1"])
    return study


def client_of(study: iv.Study, files: AllowedFiles | None = None) -> TestClient:
    return TestClient(create_app({"addition": lambda: study}, files=files), base_url="http://localhost")


@pytest.fixture(scope="module")
def client(run: iv.Study) -> Iterator[TestClient]:
    with client_of(run) as made:
        yield made


def get(client: TestClient, what: str, **asked: Any) -> Any:
    answer = client.get(f"{API}/studies/addition/{what}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("site", ["q0.1", "k1.0", "v0.3", "z1.2", "z0", "attn1", "n0", "n1.127", "embed", "ln_final", LATENT])
def test_what_is_known_of_a_site_in_every_style(client: TestClient, run: iv.Study, site: str) -> None:
    parsed = iv.Site.parse(site)
    for name in (site, parsed.hook, parsed.latex):
        found = contract.SiteInfo.model_validate(get(client, "site", site=name))
        assert (found.short, found.hook, found.kind, found.head) == (site, parsed.hook, parsed.kind, parsed.head)
        assert found.numbers == parsed.numbers(run.model.shape.widths)


def test_names_of_other_kinds_are_those_of_the_model(client: TestClient, run: iv.Study) -> None:
    """A page completes names from how many layers there are, and how many sites of the kind in each."""
    told = contract.StudyInfo.model_validate(client.get(f"{API}/studies/addition").json())
    made = {
        kind.short.replace("{layer}", str(layer)).replace("{head}", str(head))
        for kind in told.others
        for layer in range(kind.layers)
        for head in range(kind.each or 1)
    }
    sites = run.model.sites
    assert made == {site.short for site in [*sites.others, *sites.of_kind("neuron")]}


@pytest.mark.parametrize("site", ["n0.5", LATENT])
def test_another_site_is_read_as_the_library_reads_it(client: TestClient, run: iv.Study, site: str) -> None:
    found = get(client, "read", site=site, source="corpus", epsilon=0.2, count=30, **HERE)
    made = iv.search(run, run.query(**HERE, site=site), epsilon=0.2, count=30)
    assert [s["text"] for s in found["preimage"]["samples"]] == [s.text for s in made.samples]
    assert found["preimage"]["within"] == made.to_json()["within"]
    assert found["preimage"]["bits"]["value"] == made.bits.value  # type: ignore[union-attr]
    assert get(client, "map", **HERE)["cells"][3]["value"] is not None  # the study's own bank is there still


def test_a_site_that_no_bank_holds_is_walked_to(client: TestClient) -> None:
    found = get(client, "read", site="q1.1", seconds=0.3, **HERE)
    assert found["preimage"]["source"] == "walk"
    assert any("No bank" in note and "holds q1.1 yet" in note for note in found["preimage"]["notes"])


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("q0.9", "layer 0 has heads 0–3"),
        ("n0.128", "neurons 0–127"),
        ("what", "There is no site 'what'"),
        ("x0.post|sae:addition#128", "128"),
    ],
)
def test_what_is_no_site(client: TestClient, site: str, says: str) -> None:
    for what in ("site", "read", "attention", "patch"):
        answer = client.get(f"{API}/studies/addition/{what}", params={**HERE, "site": site})
        assert answer.status_code == 422
        assert says in answer.json()["detail"]
        assert "\n" not in answer.json()["detail"]


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder that may be read, with a link out of it, beside one that may not."""
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.eye(32)[:1]}, tmp_path / name / "w.safetensors")
    (tmp_path / "open" / "link.safetensors").symlink_to(tmp_path / "closed" / "w.safetensors")
    return tmp_path


def test_a_server_for_others_reads_what_it_was_started_with(run: iv.Study, files: Path) -> None:
    refused = [
        f"@{files}/closed/w.safetensors", f"@{files}/open/../closed/w.safetensors", f"@{files}/open/link.safetensors",
        f"@{files}/closed/none.npy", f"|sae:{files}/closed#3", f"|sae!:{files}/closed", "|sae:some/name#3", "@/etc/passwd",
        f"@{files}/open/none.safetensors", "|sae:open/hub-name",
    ]  # fmt: skip
    with client_of(run, AllowedFiles(paths=[files / "open"])) as client:
        for what in ("site", "read", "attention", "patch", "complete", "interpret"):
            for through in refused:
                answer = client.get(f"{API}/studies/addition/{what}", params={**HERE, "site": f"x0.post{through}"})
                assert answer.status_code == 422
                assert answer.json()["detail"] == (
                    "This server can be reached by others and reads no file that a page names, unless it was started with it: "
                    "--allow-file PATH."
                )
        assert get(client, "site", site=f"x0.post@{files}/open/w.safetensors:w")["numbers"] == 1
        assert get(client, "site", site=LATENT)["numbers"] == 1
    with client_of(run) as client:
        answer = client.get(f"{API}/studies/addition/site", params={"site": f"x0.post@{files}/open/w.safetensors"})
        assert answer.status_code == 422
    with client_of(run, AllowedFiles(every=True)) as client:
        assert get(client, "site", site=f"x0.post@{files}/closed/w.safetensors")["numbers"] == 1


@pytest.mark.parametrize(
    ("host", "proxies", "every"), [("127.0.0.1", [], True), ("127.0.0.1", ["hub.example.org"], False), ("0.0.0.0", [], False)]
)
def test_who_may_name_any_file(host: str, proxies: list[str], every: bool) -> None:
    with bound(host, 0) as listening:
        assert files_for(listening, proxies, []).every is every
        with pytest.raises(SettingError, match="--allow-file /none is not there"):
            files_for(listening, proxies, [Path("/none")])


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def url(run: iv.Study) -> Iterator[str]:
    with Served({"addition": run}, WorkQueue()) as served:
        yield served.url.removesuffix(API) + "/"


@contextmanager
def reading(browser: Browser, url: str, panels: int = 1, **state: str) -> Iterator[Page]:
    state = {"study": "addition", "source": "corpus", "site": "a0.0", **HERE, **state}
    with opened(browser, f"{url}#{urlencode(state)}", offline=False, expected=r"status of 422") as page:
        settled(page, panels)
        yield page


def address(page: Page) -> dict[str, str]:
    return {name: one for name, (one,) in parse_qs(urlsplit(page.url).fragment).items()}


def test_a_site_is_typed_and_completed(browser: Browser, url: str, run: iv.Study) -> None:
    with reading(browser, url) as page:
        box = page.get_by_label("Any site, by its name")
        for typed, wanted in (("q1", [f"q1.{h}" for h in range(4)]), ("n0.12", ["n0.12", *(f"n0.12{i}" for i in range(8))])):
            box.fill(typed)
            expect(page.locator("#iv-sites option")).to_have_count(len(wanted))
            assert [each.get_attribute("value") for each in page.locator("#iv-sites option").all()] == wanted
        box.fill("blocks.0.mlp.hook_post[5]")
        box.press("Enter")
        expect(page.locator(".panel h2")).to_have_text("n0.5 at =")
        settled(page)
        assert address(page)["site"] == "n0.5"
        q, found = run.query(**HERE, site="n0.5"), iv.search(run, run.query(**HERE, site="n0.5"))
        expect(page.locator(".panel header")).to_contain_text(f"of the spread: {q.z[0]:.3g} ± {found.within:.3g}")
        chip = page.locator(".chip")
        expect(chip).to_have_text("n0.5")
        expect(chip).to_have_attribute("aria-pressed", "true")
        page.locator(".map .site[data-site='a0.1']").click()
        expect(page.locator(".panel h2")).to_have_text("a0.1 at =")
        expect(chip).to_have_attribute("aria-pressed", "false")
        settled(page)
        chip.click()
        expect(page.locator(".panel h2")).to_have_text("n0.5 at =")


def test_a_name_of_no_site_leaves_all_as_it_is(browser: Browser, url: str) -> None:
    with reading(browser, url) as page:
        for typed, said in (
            ("q0.9", "layer 0 has heads 0–3"),
            ("<b>x</b>", "There is no site '<b>x</b>'"),
            ("x0.post@/etc/passwd", "reads no file that a page names"),
        ):
            page.get_by_label("Any site, by its name").fill(typed)
            page.get_by_label("Any site, by its name").press("Enter")
            said = {"q0.9": "layer 0 has heads 0–3", "<b>x</b>": "There is no site '<b>x</b>'"}
            expect(page.locator(".said.failed [role=status]")).to_contain_text(
                said.get(typed, "reads no file that a page names")
            )
            expect(page.locator(".panel h2")).to_have_text("a0.0 at =")
            expect(page.locator(".panel:not(.stale)")).to_have_count(1)
        assert page.locator("b", has_text="x").count() == 0
        assert page.locator(".chip").count() == 0


def test_the_address_holds_any_site_and_pins_of_them(browser: Browser, url: str) -> None:
    """What divides pins, and stands in names of latents, too, is told apart."""
    with reading(browser, url, site=LATENT) as page:
        expect(page.locator(".panel h2")).to_have_text(f"{LATENT} at =")
        page.locator("footer").get_by_role("button", name="pin", exact=True).click()
        expect(page.locator(".panel.read")).to_have_count(2)
        held = address(page)
    with reading(browser, url, panels=2, **{**held, "site": "n0.5"}) as page:
        assert page.locator(".panel h2").all_text_contents() == ["n0.5 at =", f"{LATENT} at ="]
        assert sorted(page.locator(".chip").all_text_contents()) == ["n0.5", LATENT]
        expect(page.locator(".chip.pinned")).to_have_text(LATENT)
        assert address(page)["pins"] == held["pins"]
