"""The explorer's API: the numbers of the library, streams, fairness, cancelling, and nothing that a client sends breaks it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import schemathesis
import scipy.stats
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

import inversionview as iv
from inversionview.analyses.heads.result import NamedHead
from inversionview.bank import folders
from inversionview.corpora.texts import TextInputs
from inversionview.explorer.answers import confirm, info, maps
from inversionview.explorer.app import create_app
from inversionview.explorer.command import bound
from inversionview.explorer.connections import Server, settings
from inversionview.explorer.queue import BusyError, StoppedError, Task, TimeUpError, WorkQueue
from inversionview.page import contract
from inversionview.sources import bank_cost
from inversionview.sources.walk import WALK
from inversionview.studies.load import keep
from inversionview.studies.registry import defined, stated
from inversionview.studies.shipped import shipped_path
from inversionview.studies.spec import StudySpec, write_spec
from tests.language import deep_llama
from tests.test_cli import bad, run

ADD, COUNT = "615+861=1476", "vvzccvczvvvzvcvc|v:8"
ROWS = 4000
API = "/api/v1"


@pytest.fixture(scope="module")
def banked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, iv.Study]:
    """Both shipped studies as runs with a small bank each."""
    studies = {}
    for name in ("counting", "addition"):
        folder = tmp_path_factory.mktemp("runs") / name
        shipped = iv.load(name)
        iv.build_bank(shipped, folder / "bank", rows=ROWS)
        keep(shipped, folder)
        studies[name] = iv.load(folder)
    return studies


@pytest.fixture(scope="module")
def client(banked: dict[str, iv.Study]) -> Iterator[TestClient]:
    with TestClient(create_app({name: lambda s=s: s for name, s in banked.items()}), base_url="http://localhost") as made:
        yield made


class Served:
    """The explorer on a real port."""

    def __init__(self, studies: dict[str, iv.Study], queue: WorkQueue, **options: Any) -> None:
        self.queue = queue
        app = create_app({name: lambda s=s: s for name, s in studies.items()}, queue=queue)
        self.socket = bound("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}{API}"
        self.server = Server(settings(app, **options), queue)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)

    def __enter__(self) -> Served:
        self.thread.start()
        httpx.get(f"{self.url}/studies", timeout=60)
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self.thread.join(10)

    def end(self) -> None:
        self.server.should_exit = True

    def idle(self) -> bool:
        work = httpx.get(f"{self.url}/healthz").json()["queue"]
        return work == {"running": 0, "waiting": 0}

    def wait(self, what: Callable[[], bool], seconds: float = 5) -> bool:
        end = time.monotonic() + seconds
        while not what() and time.monotonic() < end:
            time.sleep(0.02)
        return what()


@pytest.fixture(scope="module")
def served(banked: dict[str, iv.Study]) -> Iterator[Served]:
    with Served(banked, WorkQueue()) as made:
        yield made


def get(client: TestClient, path: str, code: int = 200, **parameters: Any) -> Any:
    answer = client.get(f"{API}/{path}", params=parameters)
    assert answer.status_code == code, answer.text
    return answer.json()


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def streamed(client: TestClient, study: str, **parameters: Any) -> list[tuple[str, Any]]:
    with client.stream(
        "GET", f"{API}/studies/{study}/read", params=parameters, headers={"Accept": "text/event-stream"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.iter_lines()))


# -- the same numbers as the library ----------------------------------------------------------------------------------


def test_studies(client: TestClient, banked: dict[str, iv.Study]) -> None:
    found = get(client, "studies")
    assert found["failed"] == []
    for told in found["studies"]:
        study = banked[told["id"]]
        assert told == get(client, f"studies/{told['id']}") == as_json(info.study_info(study, told["id"]).model_dump())
        assert [s["short"] for s in told["sites"]] == [s.short for s in study.sites]
        assert [s["latex"] for s in told["sites"]] == [s.latex for s in study.sites]
        assert told["sources"] == ["corpus", "decoder", "walk"]
        assert (told["layers"], told["heads"]) == (2, list(study.model.shape.heads))
        assert told["positions"] == study.position_names
        assert get(client, f"studies/{told['id']}/place", text=told["default"]["text"])["position"] >= 0
    assert {i["id"]: i["targets"] for i in found["studies"]} == {"counting": ["count"], "addition": ["A1", "A2", "A3", "A4"]}


def test_place_and_random(client: TestClient, addition: iv.Study) -> None:
    found = get(client, "studies/addition/place", text=ADD, at="A2")
    query = addition.query(ADD, at="A2")
    assert (found["text"], found["tokens"], found["ids"]) == (ADD, list(query.tokens), list(query.ids))
    assert found["position"] == query.position == found["names"]["A2"] == 10
    assert found["tokens"][0] == "B"
    drawn = get(client, "studies/addition/random", seed=5)
    row = addition.inputs.draw(1, split="test", seed=(5, 8))[0]
    assert drawn["text"] == addition.model.vocabulary.decode([i for i in row if i != addition.inputs.pad])
    assert drawn["tokens"][drawn["position"]] == "="
    assert drawn == get(client, "studies/addition/random", seed=5) != get(client, "studies/addition/random", seed=6)


def test_attention(client: TestClient, addition: iv.Study) -> None:
    found = get(client, "studies/addition/attention", text=ADD, at="=", site="a0.1")
    assert found == {"site": "a0.1", "position": 8, "weights": list(addition.query(ADD, at="=", site="a0.1").attention or ())}
    assert "head" in get(client, "studies/addition/attention", 422, text=ADD, site="x0.post")["detail"]


def test_decoder_readings_are_the_library_s(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["addition"]
    asked = {"text": ADD, "at": "=", "site": "a0.0"}
    query = study.query(**asked)
    found = get(client, "studies/addition/read", **asked, source="decoder", count=30, seed=2, epsilon=0.2, fixed="=")
    assert found["preimage"] == as_json(
        iv.read(study, query, count=30, seed=2, epsilon=0.2, fixed="=", source="decoder").to_json()
    )
    assert (found["version"], found["study"], found["site"], found["place"]["position"]) == (1, "addition", "a0.0", 8)
    assert contract.Reading.model_validate(found).preimage.samples
    one = get(client, "studies/addition/read", **asked, temperature=0.5, noise=0.1, count=5, distance="cosine")
    setting = [iv.Setting(0.5, 0.1)]
    assert one["preimage"] == as_json(
        iv.read(study, query, settings=setting, each=768, count=5, distance="cosine", source="decoder").to_json()
    )


def test_corpus_readings_are_the_library_s(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["counting"]
    query = study.query(COUNT, at=":", site="a1.0")
    found = get(client, "studies/counting/read", text=COUNT, source="corpus", count=25, seed=1)
    assert found["preimage"] == as_json(iv.search(study, query, count=25, seed=1).to_json())
    assert found["preimage"]["bits"]["inputs"] == ROWS


def test_walks_are_the_library_s(client: TestClient, banked: dict[str, iv.Study], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[iv.Preimage] = []
    walk = WALK.read

    def kept(*arguments: Any, **options: Any) -> iv.Preimage:
        made.append(walk(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(WALK, "read", kept)
    found = get(client, "studies/addition/read", text=ADD, source="walk", count=20, seconds=0.4)
    assert found["preimage"] == as_json(made[0].to_json())
    assert found["preimage"]["source"] == found["preimage"]["samples"][0]["source"] == "walk"
    assert len(found["features"]["values"]) == len(made[0])


def test_all_sources_merge(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["counting"]
    query = study.query(COUNT, at=":", site="a1.0")
    found = get(client, "studies/counting/read", text=COUNT, source="all", count=60, seconds=0.4)["preimage"]
    assert found["source"] == "all"
    assert {s["source"] for s in found["samples"]} == {"decoder", "corpus", "walk"}
    assert len({s["text"] for s in found["samples"]}) == len(found["samples"]) <= 60
    assert [s["distance"] for s in found["samples"]] == sorted(s["distance"] for s in found["samples"])
    decoded = as_json(iv.read(study, query, count=20, source="decoder").to_json()["samples"])
    assert [s for s in found["samples"] if s["source"] == "decoder"] == decoded
    assert found["bits"] == as_json(iv.search(study, query, count=20).to_json()["bits"])


def test_features_are_those_of_the_samples(client: TestClient, counting: iv.Study) -> None:
    found = get(client, "studies/counting/read", text=COUNT, source="corpus", count=40)
    features, samples = found["features"], found["preimage"]["samples"]
    assert (features["query"]["letter"], features["query"]["count"], features["query"]["length"]) == ("v", 8, 16)
    column = {name: [row[i] for row in features["values"]] for i, name in enumerate(features["names"])}
    asked = [re.fullmatch(r"([a-z]+)\|([a-z]):(\d)", s["text"]).groups() for s in samples]
    assert column["letter"] == [letter for _, letter, _ in asked]
    assert column["count"] == [string.count(letter) for string, letter, _ in asked]
    assert column["length"] == [len(string) for string, _, _ in asked]
    every = counting.inputs.features(counting.inputs.corpus(np.arange(20_000)))
    assert features["prior"] == {name: pytest.approx((every[name] == features["query"][name]).mean()) for name in every}
    for name, values in every.items():
        _, counts = np.unique(values, return_counts=True)
        assert features["entropy"][name] == pytest.approx(scipy.stats.entropy(counts, base=2))
    assert features["prior"]["letter"] == pytest.approx(1 / 26, abs=0.01)


def test_features_of_malformed_samples(client: TestClient) -> None:
    """At temperature 100 the decoder writes what is no input of the study."""
    for study, text in (("addition", ADD), ("counting", COUNT)):
        found = get(client, f"studies/{study}/read", text=text, temperature=100, count=200)
        assert len(found["features"]["values"]) == len(found["preimage"]["samples"]) > 50


def test_bits_map(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["counting"]
    found = get(client, "studies/counting/map", text=COUNT, at="query", epsilon=0.2)
    assert (found["kind"], found["position"]) == ("bits", study.query(COUNT, at="query").position)
    assert [c["site"] for c in found["cells"]] == [s.short for s in study.sites]
    for cell in found["cells"]:
        bits = iv.search(study, study.query(COUNT, at="query", site=cell["site"]), count=1, epsilon=0.2).bits
        assert (cell["value"], cell["low"], cell["high"]) == (bits.value, bits.low, bits.high)


def test_ratio_map(client: TestClient, banked: dict[str, iv.Study]) -> None:
    found = get(client, "studies/addition/map", text=ADD, kind="ratio")
    measured = iv.evaluate(banked["addition"], queries=25)["sites"]
    assert {c["site"]: c["value"] for c in found["cells"]} == pytest.approx(measured)
    assert all(c["low"] <= c["value"] <= c["high"] for c in found["cells"])


def test_patch_where_contrasts_lack_the_name(client: TestClient) -> None:
    """A4 of a four-digit sum is the end of a three-digit one: the position is there, its name is not."""
    found = get(client, "studies/addition/patch", text=ADD, at="A4", site="x0.pre", target="A4", count=8)
    assert (found["target"], found["pairs"], found["effect"]["value"]) == ("A4", 8, 0.0)  # it lies behind what predicts A4


def test_patch(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["addition"]
    found = get(client, "studies/addition/patch", text=ADD, at="=", site="a0.0", target="A2", count=40, seed=3)
    query = study.query(ADD, at="=", site="a0.0")
    pairs = confirm.query_pairs(study, query, "A2", count=40, seed=3)
    result = iv.patch(study, ["=:a0.0"], pairs, seed=3)
    assert (found["site"], found["position"], found["target"], found["answer"], found["pairs"]) == ("a0.0", 8, "A2", "4", 40)
    assert (found["ld_orig"], found["ld_contrast"]) == (result.ld_orig.value, result.ld_contrast.value)
    assert found["effect"] == vars(result.together)
    assert found["share"] == pytest.approx(result.together.value / result.total)
    assert len(found["examples"]) == 8
    for example in found["examples"]:
        first, second, total = map(int, re.split(r"[+=]", example["contrast"]))
        assert first + second == total
        assert example["answer"] == str(total)[1:2] or (example["answer"], total < 1000) == ("E", True)
        assert example["answer"] != "4"
    assert get(client, "studies/addition/patch", text=ADD, at="A2")["target"] == "A3"  # what comes behind can still change
    assert "no input" in get(client, "studies/addition/patch", 422, text="12+12=24", at="=")["detail"]
    assert "A9" in get(client, "studies/addition/patch", 422, text=ADD, target="A9")["detail"]


def test_complete(client: TestClient, banked: dict[str, iv.Study]) -> None:
    study = banked["addition"]
    found = get(client, "studies/addition/complete", text=ADD, at="A1", site="x1.post", limit=600, epsilon=0.5, seed=4)
    (result,) = iv.complete(study, [study.query(ADD, at="A1", site="x1.post")], limit=600, epsilon=0.5, seed=4)
    texts = iv.texts(study, result, np.arange(600))
    expected = zip(result.distance, result.log_p(), result.inside, texts, strict=True)
    by_text = {text: (pytest.approx(float(d)), pytest.approx(float(p), abs=1e-3), int(i)) for d, p, i, text in expected}
    assert len(found["points"]) == 600
    assert all(by_text[text] == (d, p, i) for d, p, i, text in found["points"])
    assert (found["recall"], found["epsilon"]) == (result.variants[0].recall, 0.5)
    assert found["percentile"] == pytest.approx(result.variants[0].percentile, abs=1e-3)


def test_a_model_alone_and_a_run_on_texts(addition: iv.Study, tmp_path: Path) -> None:
    texts = [f"{a}+{b}={a + b}" for a in range(300, 310) for b in range(200, 210)]
    TextInputs.tokenize(texts, addition.model.vocabulary, folder=tmp_path / "run" / "corpus")
    write_spec(
        tmp_path / "run", StudySpec(inputs="texts", model=str(addition.model_path), sites=["a0.0", "x0.post"], site="a0.0")
    )
    run, bare = iv.load(tmp_path / "run"), iv.load(model=addition.model_path)
    iv.build_bank(run, tmp_path / "run" / "bank", rows=100, positions=["END"])
    with TestClient(create_app({"run": lambda: run, "bare": lambda: bare, "broken": lambda: iv.load("none")}),
                    base_url="http://localhost") as client:  # fmt: skip
        both = get(client, "studies")
        infos = {i["id"]: i for i in both["studies"]}
        assert "no study 'none'" in both["failed"][0]["detail"]
        assert "no study 'none'" in get(client, "studies/broken", 422)["detail"]
        assert (infos["run"]["sources"], infos["run"]["features"], infos["run"]["enumerable"]) == (
            ["corpus", "walk"], ["length"], False,
        )  # fmt: skip
        assert (infos["bare"]["sources"], infos["bare"]["features"]) == (["walk"], [])
        found = get(client, "studies/run/read", text="303+204=507", count=10)
        assert found["features"]["query"] == {"length": 13}
        assert [row[0] for row in found["features"]["values"]] == [len(s["tokens"]) for s in found["preimage"]["samples"]]
        alone = get(client, "studies/bare/read", text="303+204=507", source="all", seconds=0.3, count=5)
        assert alone["features"] is None
        assert "decoder" in get(client, "studies/bare/read", 422, text="303+204=507", source="decoder")["detail"]
        assert "without a corpus" in get(client, "studies/bare/random", 422)["detail"]
        for path in ("map", "patch", "complete"):
            assert "without a corpus" in get(client, f"studies/bare/{path}", 422, text="303+204=507")["detail"]


# -- language models --------------------------------------------------------------------------------------------------

MARY = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """``ioi`` of a small model with 270 heads, in whose run lies a bank of some of them."""
    study = iv.load("ioi", model=deep_llama(tmp_path_factory.mktemp("deep") / "llama"))
    study.folder = tmp_path_factory.mktemp("runs") / "ioi"
    return study


def test_a_long_bank_is_not_begun_by_a_click(deep: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how long it takes and which command builds it; a walk reads by default; with a bank the corpus does."""
    monkeypatch.setattr(bank_cost, "QUICK", 0.0)
    monkeypatch.setattr(folders, "cache", lambda: deep.folder / "cache")
    built: list[int] = []
    monkeypatch.setattr("inversionview.studies.first_bank.harvest_bank", lambda *a, **k: built.append(1))
    with TestClient(create_app({"ioi": lambda: deep}), base_url="http://localhost") as client:
        info = get(client, "studies/ioi")
        assert info["sources"] == ["walk", "corpus"]
        assert re.search(rf"`inversionview bank ioi --inputs 20000 --model {deep.model.name}` builds one", info["lacking"])
        size = 20_000 * 270 * 3 * 8 * 2 / 1e9  # inputs × heads × positions × d_head × two bytes
        assert re.search(rf"about \d+.* here, {size:.1f} GB", info["lacking"])
        assert get(client, "studies/ioi/map", 422, text=MARY)["detail"] == info["lacking"]
        assert streamed(client, "ioi", text=MARY, source="corpus")[-1][1]["detail"] == info["lacking"]
        every = get(client, "studies/ioi/read", text=MARY, source="all", seconds=0.2, count=5)
        assert {s["source"] for s in every["preimage"]["samples"]} <= {"walk"}
        assert built == []
        monkeypatch.undo()
        monkeypatch.setattr(bank_cost, "QUICK", 0.0)
        iv.build_bank(deep, deep.folder / "bank", rows=60, sites="a3.*,a20.*")
        info = get(client, "studies/ioi")
        assert (info["sources"], info["lacking"]) == (["corpus", "walk"], None)


def test_a_map_of_many_sites_is_one_pass(deep: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that the bank lacks have no value and are not read; the others have the bits that a search tells."""
    if deep.known_bank() is None:
        iv.build_bank(deep, deep.folder / "bank", rows=60, sites="a3.*,a20.*")
    asked: list[list[str]] = []
    activations = iv.ProbedModel.activations

    def counted(self: iv.ProbedModel, tokens: Any, sites: Any, positions: Any = None) -> Any:
        asked.append([site.short for site in sites])
        return activations(self, tokens, sites, positions)

    monkeypatch.setattr(iv.ProbedModel, "activations", counted)
    found = maps.bits_map(deep, MARY, "END", epsilon=0.5)
    held = [f"a{layer}.{head}" for layer in (3, 20) for head in range(9)]
    assert asked == [held]
    assert [cell.site for cell in found.cells] == [site.short for site in deep.sites]
    assert {cell.site for cell in found.cells if cell.value is not None} == set(held)
    for cell in found.cells:
        if cell.site in ("a3.4", "a20.3"):
            bits = iv.search(deep, deep.query(MARY, at="END", site=cell.site), epsilon=0.5, count=1).bits
            assert bits is not None
            assert (cell.value, cell.low, cell.high) == (bits.value, bits.low, bits.high)


def test_heads_of_a_circuit_are_named(deep: iv.Study, counting: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = [NamedHead("a20.3", "name mover", "END"), NamedHead("a9.1", "induction", "S2")]
    assert info.study_info(counting).heads_named == []
    monkeypatch.setattr(info, "named_heads", lambda study: heads)
    told = [(head.site, head.position, head.group) for head in info.study_info(deep).heads_named]
    assert told == [("a20.3", "END", "name mover"), ("a9.1", "S2", "induction")]


def test_a_study_that_loads_slowly_keeps_nobody_waiting(banked: dict[str, iv.Study]) -> None:
    go = threading.Event()

    def slowly() -> iv.Study:
        go.wait(30)
        return banked["counting"]

    openers = {"slow": slowly, "addition": lambda: banked["addition"], "broken": lambda: iv.load("none")}
    with TestClient(create_app(openers), base_url="http://localhost") as client:
        assert get(client, "studies/addition/place", text=ADD)["position"] == 8  # while the first is being loaded
        assert get(client, "studies/addition/read", text=ADD, count=5)["study"] == "addition"
        known = get(client, "studies", wait=False)
        assert "slow" in known["loading"]
        assert "addition" in [info["id"] for info in known["studies"]]
        go.set()
        assert get(client, "studies/slow")["id"] == "slow"
        known = get(client, "studies")
        assert ([info["id"] for info in known["studies"]], known["loading"]) == (["slow", "addition"], [])
        assert [failed["id"] for failed in known["failed"]] == ["broken"]


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["decoder", "corpus"])
def test_streams_end_with_the_reading(client: TestClient, source: str) -> None:
    asked = {"text": ADD, "at": "=", "site": "a0.1", "source": source, "count": 20, "seed": 7}
    found = streamed(client, "addition", **asked)
    names = [name for name, _ in found]
    assert (names[0], names[-1], names.count("place"), names.count("done")) == ("place", "done", 1, 1)
    assert set(names[1:-1]) <= {"rows", "progress"}
    assert found[-1][1] == get(client, "studies/addition/read", **asked)
    place = found[0][1]
    assert (place["site"], place["position"], len(place["attention"])) == ("a0.1", 8, len(place["tokens"]))
    rows = next(value for name, value in found if name == "rows")
    assert 0 < len(rows["samples"]) == len(rows["values"]) <= 20
    assert all(s["source"] == source for s in rows["samples"])
    contract.Rows.model_validate(rows)


def test_streamed_rows_are_true_samples(client: TestClient, addition: iv.Study) -> None:
    for source in ("decoder", "corpus", "walk"):
        found = streamed(client, "addition", text=ADD, at="A1", site="x1.post", source=source, seconds=0.5, count=10)
        rows = [s for name, value in found if name == "rows" for s in value["samples"]]
        assert 0 < len(rows) <= 10
        for sample in rows[:3]:
            if sample["tokens"][-1] == "E":
                z = addition.query(sample["text"], at=sample["position"], site="x1.post").z
                query = addition.query(ADD, at="A1", site="x1.post").z
                assert sample["distance"] == pytest.approx(float((z - query).norm() / query.norm()), abs=1e-4)


def test_a_mistake_ends_a_stream(client: TestClient) -> None:
    assert [name for name, _ in streamed(client, "addition", text=ADD, site="a9.9")] == ["failed"]
    failed = streamed(client, "addition", text=ADD, site="x0.post", source="corpus", fixed="nowhere")[-1]
    assert failed[0] == "failed"
    assert "nowhere" in failed[1]["detail"]


def test_a_bank_is_built_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "cache", lambda: tmp_path)
    monkeypatch.setattr(defined("addition").spec, "rows", 20_000)
    monkeypatch.setattr("inversionview.explorer.events.PROGRESS", 0.0)
    with TestClient(create_app({"addition": lambda: iv.load("addition")}), base_url="http://localhost") as client:
        found = streamed(client, "addition", text=ADD, source="corpus", count=5)
        notes = [value["note"] for name, value in found if name == "progress"]
        assert any("building a bank" in note and "20,000" in note for note in notes)
        assert found[-1][0] == "done"
        assert not any(
            "bank" in v["note"] for n, v in streamed(client, "addition", text=ADD, source="corpus") if n == "progress"
        )


# -- the queue --------------------------------------------------------------------------------------------------------


def held(queue: WorkQueue) -> Callable[[], None]:
    """Occupy the worker; return what lets it go on."""
    go, begun = threading.Event(), threading.Event()
    queue.submit(lambda task: (begun.set(), go.wait(10)), client="holder")
    begun.wait(5)
    return go.set


def test_clients_take_turns() -> None:
    queue, order = WorkQueue(patience=100), []
    release = held(queue)
    tasks = [
        queue.submit(lambda task, name=name: order.append(name), client=name[0])
        for name in ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    ]
    release()
    for task in tasks:
        task.future.result(5)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    queue.close()


def test_what_would_wait_too_long_is_turned_away() -> None:
    queue = WorkQueue(patience=1.2, most=3)
    release = held(queue)  # half a second, as is guessed of what was never seen
    queue.submit(lambda task: None, client="a")
    queue.submit(lambda task: None, client="b")
    with pytest.raises(BusyError) as error:
        queue.submit(lambda task: None, client="c")
    assert error.value.retry_after >= 1
    release()
    assert wait_for(lambda: queue.waiting == queue.running == 0)
    queue.patience, release = 1000, held(queue)
    for _ in range(3):
        queue.submit(lambda task: None, client="a")
    with pytest.raises(BusyError):
        queue.submit(lambda task: None, client="a")
    queue.submit(lambda task: None, client="b")
    release()
    queue.close()
    with pytest.raises(BusyError):
        queue.submit(lambda task: None)


def wait_for(what: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def test_jobs_are_dropped_stopped_and_limited() -> None:
    queue = WorkQueue(patience=100)

    def busy(task: Task) -> None:
        while True:
            time.sleep(0.005)
            task.report(0.0)

    running = queue.submit(busy)
    assert wait_for(lambda: queue.running == 1)
    waiting = queue.submit(busy)
    queue.cancel(waiting)
    assert waiting.future.cancelled()
    assert queue.waiting == 0
    queue.cancel(running)
    with pytest.raises(StoppedError):
        running.future.result(5)
    with pytest.raises(TimeUpError):
        queue.submit(busy, limit=0.03).future.result(5)
    with pytest.raises(ZeroDivisionError):
        queue.submit(lambda task: 1 // 0).future.result(5)
    assert queue.submit(lambda task: 1).future.result(5) == 1  # the worker lives on
    queue.close()


def test_a_request_may_take_so_long_and_no_longer(banked: dict[str, iv.Study]) -> None:
    queue = WorkQueue(limit=0.2)
    with TestClient(create_app({"addition": lambda: banked["addition"]}, queue=queue), base_url="http://localhost") as client:
        get(client, "studies")
        detail = get(client, "studies/addition/read", 504, text=ADD, source="walk", seconds=30)["detail"]
        assert "too long" in detail
        assert get(client, "healthz")["queue"] == {"running": 0, "waiting": 0}


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_who_goes_away_frees_the_worker(served: Served, accept: str) -> None:
    address, asked = served.url.removeprefix("http://").split("/")[0].split(":"), f"text={ADD.replace('+', '%2B')}"
    path = f"{API}/studies/addition/read?{asked}&source=walk&seconds=50"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"
    sockets = []
    for _ in range(2):  # one that runs, and one that waits
        each = socket.create_connection((address[0], int(address[1])))
        each.sendall(request.encode())
        sockets.append(each)
        assert served.wait(lambda: served.queue.running == 1)
    for each in reversed(sockets):
        each.close()
    assert served.wait(served.idle)
    assert httpx.get(f"{served.url}/studies/addition/random", timeout=5).status_code == 200


def test_two_clients_at_once_are_served_in_turn(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks eight times at once, then the other once: the other is not last."""
    release, done, drawn = held(served.queue), [], info.random_place
    monkeypatch.setattr(info, "random_place", lambda *arguments: (time.sleep(0.1), drawn(*arguments))[1])

    def ask(client: str) -> int:
        code = httpx.get(f"{served.url}/studies/counting/random", headers={"X-Client": client}, timeout=30).status_code
        done.append(client)
        return code

    served.queue.patience, patience = 100, served.queue.patience
    with ThreadPoolExecutor(9) as pool:
        many = [pool.submit(ask, "greedy") for _ in range(8)]
        assert served.wait(lambda: served.queue.waiting == 8)
        other = pool.submit(ask, "modest")
        assert served.wait(lambda: served.queue.waiting == 9)
        release()
        assert {f.result() for f in [*many, other]} == {200}
    served.queue.patience = patience
    assert done.index("modest") <= 4


def burst(served: Served, clients: int, at_once: int | None = None) -> list[tuple[int, float, str]]:
    """Ask once for each client, all at once unless told otherwise; four requests in a row ask all that differs."""

    def ask(number: int) -> tuple[int, float, str]:
        began = time.monotonic()
        asked = {
            "text": ADD,
            "site": f"a{number % 2}.{number % 4}",
            "source": ("corpus", "decoder")[number % 2],
            "seed": number,
        }
        answer = client.get(f"{served.url}/studies/addition/read", params=asked, headers={"X-Client": str(number)}, timeout=60)
        return answer.status_code, time.monotonic() - began, answer.headers.get("retry-after", "")

    with httpx.Client(limits=httpx.Limits(max_connections=None)) as client, ThreadPoolExecutor(at_once or clients) as pool:
        return list(pool.map(ask, range(clients)))


def test_a_burst_of_fifty(served: Served) -> None:
    assert {code for code, _, _ in burst(served, 4, at_once=1)} == {200}  # nothing is left to load that a refusal might skip
    burst(served, 10)
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    found = burst(served, 50)
    answered = [seconds for code, seconds, _ in found if code == 200]
    print(f"answered {len(answered)} of 50, p95 {np.quantile(answered, 0.95):.2f} s")
    assert {code for code, _, _ in found} <= {200, 429}
    assert all(1 <= int(after) <= 60 for code, _, after in found if code == 429)
    assert answered
    assert served.wait(served.idle)
    assert process.memory_info().rss - before < 150e6


# -- what a client may send -------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>", "a & b", "\"'`", "שלום עולם", "🙂", "\ud83d",
    "\0", "\u202e1+1", "x" * 4001, "%00", " ", "9" * 300,
    "1+1=2", "PPP", "BE", "E", "=", "615+861=1476E", "B615+861=1476E", "|:8", "a|a:1", ":|:", "||||", "::",
]  # fmt: skip


@pytest.mark.parametrize("study", ["counting", "addition"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_answered_with_a_sentence(client: TestClient, study: str, text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    quoted = "".join(f"%{byte:02X}" for byte in raw)
    site = "a0.0"
    for path in (
        "place?", "place?at=A4&", "place?at=query&", f"attention?at=1&site={site}&", f"read?at=1&site={site}&count=3&",
        f"read?at=1&site={site}&source=corpus&count=3&",
        f"read?at=1&site={site}&source=walk&seconds=0.05&count=3&", "map?at=1&",
        f"patch?at=1&site={site}&", f"complete?at=1&site={site}&limit=20&",
    ):  # fmt: skip
        answer = client.get(f"{API}/studies/{study}/{path}text={quoted}")
        assert answer.status_code in (200, 422), (path, answer.status_code, answer.text)
        if answer.status_code == 422:
            assert len(answer.json()["detail"].splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", "0"), ("epsilon", "-1"), ("epsilon", "nan"), ("epsilon", "inf"), ("epsilon", "x"), ("distance", "taxi"),
        ("count", "0"), ("count", "2001"), ("seed", "-1"),
        ("seed", "99999999999999999999"), ("seconds", "61"), ("seconds", "0"),
        ("temperature", "0"), ("temperature", "nan"), ("noise", "-1"),
        ("source", "oracle"), ("site", "a9.9"), ("site", "<b>"),
        ("at", "Q"), ("at", "99"), ("at", "-99999999999999999999999"), ("fixed", "Q"), ("site", "x" * 101), ("at", ""),
    ],
)  # fmt: skip
def test_bad_values_are_told_in_a_sentence(client: TestClient, name: str, value: str) -> None:
    source = {} if name == "source" else {"source": "walk"} if name == "fixed" else {"source": "decoder"}
    detail = get(client, "studies/addition/read", 422, **{"text": ADD, **source, name: value})["detail"]
    assert detail.endswith(".") or "?" in detail
    assert "Traceback" not in detail


def test_names_of_other_hosts_are_turned_away(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8642", "localhost.evil.example", "", "[::2]", "127.0.0.1.evil.example"):
        answer = client.get(f"{API}/healthz", headers={"Host": host})
        assert answer.status_code == 400, host
        assert "detail" in answer.json()
    for host in ("localhost:1", "127.0.0.1", "[::1]:8642", "LOCALHOST"):
        assert client.get(f"{API}/healthz", headers={"Host": host}).status_code == 200


def test_probes_find_it_where_they_look(client: TestClient) -> None:
    assert client.get("/healthz").json() == client.get(f"{API}/healthz").json()


def test_the_page_is_kept_to_itself(client: TestClient) -> None:
    answer = client.get(f"{API}/studies", headers={"Accept-Encoding": "gzip"})
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-encoding"] == "gzip"
    assert "access-control-allow-origin" not in answer.headers
    assert client.get("/../pyproject.toml").status_code == 404


CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.parametrize(
    "path", ["", *["place", "random", "attention", "read", "map", "patch", "complete"], "../../studies", "../../healthz"]
)
def test_nothing_that_openapi_describes_breaks_it(served: Served, path: str) -> None:
    """Requests drawn from the document itself, good and bad; half of them of a study that there is, with a text of digits."""
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    name = path.removeprefix("../../") or "study"
    operation = document.find_operation_by_id(name)

    @drawn(max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(operation.as_strategy(), st.booleans(), st.from_regex(r"[1-9]\d\d\+[1-9]\d\d=\d{3}", fullmatch=True))
    def check(case: schemathesis.Case, real: bool, text: str) -> None:
        case.query = dict(case.query or {})
        if real and case.path_parameters:
            case.path_parameters["id"] = "addition"
            case.query["text"] = text
        case.query |= {"seconds": 0.05} if name == "read" else {"limit": 50} if name == "complete" else {}
        case.call_and_validate(checks=CHECKS)

    check()


# -- the command ------------------------------------------------------------------------------------------------------


def test_explore_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explore", "--help")
    assert code == 0
    assert "inversionview explore" in out


def test_mistakes_of_explore(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        bad(capsys, "explore", "--no-browser", "--port", port, says=f"Port {port} of 127.0.0.1 is in use")
    bad(capsys, "explore", "nowhere", "--no-browser", says="no study 'nowhere'")
    bad(capsys, "explore", "--host", "999.1.1.1", "--no-browser", says="999.1.1.1")
    (tmp_path / "study.json").write_text("{")
    bad(capsys, "explore", str(tmp_path), "--no-browser", says="damaged")
    bad(capsys, "explore", "counting", "addition", "--model", "gpt2", says="at most one")


@pytest.mark.parametrize(
    ("arguments", "opens", "others"),
    [
        ((), None, []),
        (("counting",), "counting", []),
        (("addition",), "addition", []),
        (("{tmp}/b", "counting"), "counting", ["b"]),
        (("counting", "{tmp}/b"), "b", ["b"]),
        (("{tmp}/b", "addition", "counting", "addition"), "addition", ["b"]),
        (("{tmp}/b", "{tmp}/b"), "b", ["b"]),
        (("{tmp}/b", "{tmp}/c/../b/", "{tmp}/c/b"), "b-2", ["b", "b-2"]),
        (("{tmp}/c/b", "{tmp}/b", "{tmp}/c/b"), "b", ["b", "b-2"]),
        (("{tmp}/ioi", "ioi"), "ioi", ["ioi-2", "ioi"]),
        (("ioi", "{tmp}/ioi"), "ioi-2", ["ioi", "ioi-2"]),
        (("counting", "--model", "{shipped}/model"), "counting", []),
        (("--model", "{shipped}/model"), "model", ["model"]),
    ],
)
def test_explore_opens_the_study_that_was_named_last_and_has_each_once(
    arguments: tuple[str, ...], opens: str | None, others: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    served: list[str] = []

    def created(openers: dict[str, Callable[[], iv.Study]], **options: Any) -> Any:
        served.extend(openers)
        return create_app(openers, **options)

    monkeypatch.setattr("inversionview.explorer.app.create_app", created)
    monkeypatch.setattr(Server, "run", lambda *_: None)
    for run_of in ("b", "c/b", "ioi"):
        write_spec(tmp_path / run_of, stated("counting")[0])
    places = {"tmp": str(tmp_path), "shipped": str(shipped_path("counting", "model").parent)}
    code, out, _ = run(capsys, "explore", "--no-browser", "--port", "0", *(word.format(**places) for word in arguments))
    assert code == 0
    address = re.search(r"http://127\.0\.0\.1:\d+/(\S*)", out)
    assert address is not None
    assert address[1] == ("" if opens is None else f"#study={opens}")
    assert served == ["counting", "addition", *others]


def explorer(*ignoring: signal.Signals) -> tuple[subprocess.Popen[str], str]:
    """Begin an explorer, as a script's ``… &`` does where signals are ignored; return it and its address."""
    command = [sys.executable, "-m", "inversionview.cli", "explore", "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "80"},
        preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignoring],
    )  # fmt: skip
    assert process.stdout is not None
    url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    assert url is not None
    return process, url[0]


@pytest.mark.parametrize(
    ("ignored", "survived", "ends"),
    [((signal.SIGINT, signal.SIGHUP), [signal.SIGHUP], signal.SIGINT), ((signal.SIGTERM,), [], signal.SIGHUP)],
)
def test_explore_says_that_it_has_ended_whatever_was_ignored_and_nohup_is_heeded(
    ignored: tuple[signal.Signals, ...], survived: list[signal.Signals], ends: signal.Signals
) -> None:
    process, url = explorer(*ignored)
    for number in survived:
        assert httpx.get(url, timeout=60).status_code == 200
        process.send_signal(number)
    assert httpx.get(url, timeout=60).status_code == 200
    process.send_signal(ends)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "The explorer has ended.\n")


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_explore_serves_until_it_is_interrupted(interrupt: signal.Signals) -> None:
    process, url = explorer()
    answer = httpx.get(f"{url}api/v1/studies", timeout=60)
    assert [study["id"] for study in answer.json()["studies"]] == ["counting", "addition"]
    with httpx.stream(
        "GET", f"{url}api/v1/studies/addition/read", params={"text": ADD, "source": "walk", "seconds": 50},
        headers={"Accept": "text/event-stream"}, timeout=20,
    ) as stream:  # fmt: skip
        assert next(stream.iter_lines()) == "event: place"
        process.send_signal(interrupt)  # while a stream is under way
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "The explorer has ended."
    assert "Traceback" not in err
