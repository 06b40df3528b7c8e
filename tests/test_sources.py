"""A source is one file and its place in the registry: a toy source is read by the library, the API, all and agree alike."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import SettingError
from inversionview.core.scope import Scope
from inversionview.explorer.app import create_app
from inversionview.markov.run import WalkSettings
from inversionview.page import preimages
from inversionview.sources import registry
from inversionview.sources.source import Source
from inversionview.sources.walk import WalkOptions
from inversionview.studies.scope import resolved
from tests.test_explorer_api import events

TEXT = "vvzccvczvvvzvcvc|v:8"


class Echo(Source):
    """Returns the query's own input alone."""

    name = "echo"
    used = "the query is echoed"
    options = ("times",)

    def available(self, study: iv.Study) -> bool:
        return True

    def read(self, study: iv.Study, query: iv.Query, scope: Scope[Any], *, count: int | None = None, seed: int = 0,
             report: Any = None, watch: Any = None, **options: Any) -> iv.Preimage:  # fmt: skip
        sample = iv.Sample(
            tokens=query.tokens, text=query.text, distance=0.0, position=query.position, inside=True,
            token_distances=(None,) * len(query.tokens), effect=None, source=self.name, count=options.get("times", 1),
            ids=query.ids,
        )  # fmt: skip
        if watch is not None:
            watch((sample,))
        return iv.Preimage(query, scope.distance, scope.epsilon, seed, (sample,), 1, source=self.name, study=study)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    made = Echo()
    monkeypatch.setattr(registry, "SOURCES", (*registry.SOURCES, made))
    return made


@pytest.fixture
def query(counting: iv.Study) -> iv.Query:
    return counting.query(TEXT, at=":", site="a1.0")


def test_a_new_source_reads(echo: Echo, counting: iv.Study, query: iv.Query) -> None:
    seen: list[Any] = []
    made = iv.read(counting, query, source="echo", times=3, epsilon=0.25, watch=seen.append)
    assert (made.source, made.epsilon, made.distance) == ("echo", 0.25, "euclidean")
    assert [(sample.text, sample.count) for sample in made] == [(TEXT, 3)]
    assert seen == [made.samples]
    assert [source.name for source in registry.sources(counting)] == ["corpus", "decoder", "walk", "echo"]
    assert registry.first_source(counting, query).name == "corpus"
    with pytest.raises(SettingError, match="choose decoder, corpus, walk, echo or all"):
        iv.read(counting, query, source="nothing")


def test_all_sources_are_merged(echo: Echo, counting: iv.Study, query: iv.Query) -> None:
    seen: list[tuple[iv.Sample, ...]] = []
    every = iv.read(counting, query, source="all", count=40, steps=20, chains=8, exchange=False, times=2, watch=seen.append)
    assert every.source == "all"
    assert len(every) <= 40
    assert {sample.source for sample in every} == {"corpus", "decoder", "walk", "echo"}
    assert {sample.source for samples in seen for sample in samples} == {"corpus", "decoder", "walk", "echo"}
    alone = iv.search(counting, query, count=10)
    assert every.bits == alone.bits
    assert every.walk is not None
    with pytest.raises(SettingError, match="No source has an option 'tempo'"):
        iv.read(counting, query, source="all", tempo=2)


def test_a_new_source_is_in_the_api(echo: Echo, counting: iv.Study) -> None:
    where = {"text": TEXT, "at": ":", "site": "a1.0"}
    path = "/api/v1/studies/counting"
    with TestClient(create_app({"counting": lambda: counting}), base_url="http://localhost") as client:
        assert client.get(path).json()["sources"] == ["corpus", "decoder", "walk", "echo"]
        read = partial(client.get, f"{path}/read")
        one = read(params={**where, "source": "echo"}).json()
        assert one["preimage"]["source"] == "echo"
        assert [sample["text"] for sample in one["preimage"]["samples"]] == [TEXT]
        every = read(params={**where, "source": "all", "count": 40, "seconds": 0.5}).json()
        assert {sample["source"] for sample in every["preimage"]["samples"]} == {"corpus", "decoder", "walk", "echo"}
        streamed = read(params={**where, "source": "echo"}, headers={"accept": "text/event-stream"}).text
        told = dict(events(iter(streamed.splitlines())))
        assert told["place"]["source"] == "echo"
        assert told["rows"]["samples"][0]["source"] == "echo"
        wrong = read(params={**where, "source": "nothing"})
        assert wrong.status_code == 422
        assert wrong.json()["detail"] == "source: input should be 'decoder', 'corpus', 'walk', 'echo' or 'all'."


def test_a_new_source_is_in_the_command_line(echo: Echo, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["read", "counting", TEXT, "--at", ":", "--site", "a1.0", "--source", "echo"]
    main([*where, "--json"])
    assert '"source": "echo"' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*where, "--seconds", "3"])
    assert capsys.readouterr().err == "--seconds does nothing where the query is echoed: leave it out.\n"
    with pytest.raises(SystemExit):
        main(["read", "counting", TEXT, "--source", "nothing"])
    assert "choose decoder, corpus, walk or echo" in capsys.readouterr().err


def test_a_new_source_can_be_compared(echo: Echo, counting: iv.Study, query: iv.Query) -> None:
    told = iv.agree(counting, query, sources=["corpus", "echo"])
    assert list(told.draws) == ["corpus"]  # it keeps no draws
    with pytest.raises(SettingError, match="choose among echo, walk, corpus and decoder and, where inputs can be listed, all"):
        iv.agree(counting, query, sources=["nothing"])


def test_pages_know_the_names() -> None:
    """Which the contract, further down, writes once more."""
    assert tuple(registry.names()) == preimages.SOURCES
    schema = create_app({}).openapi()
    parameters = schema["paths"]["/api/v1/studies/{id}/read"]["get"]["parameters"]
    source = next(one for one in parameters if one["name"] == "source")
    assert source["schema"]["anyOf"][0]["enum"] == [*registry.names(), registry.ALL]


def test_options_of_a_walk_are_its_settings() -> None:
    own = {field.name for field in fields(WalkSettings) if field.init}
    assert own - {"seed"} < set(WalkOptions.__annotations__)
    assert set(WalkOptions.__annotations__) - own == {"prior", "beta", "keep", "longer", "nearest", "guided", "decoder"}


def test_options_of_one_draw_are_given_once(counting: iv.Study, query: iv.Query) -> None:
    warm = iv.read(counting, query, source="decoder", temperature=[2.0], noise=0.1, candidates=20)
    same = iv.read(counting, query, source="decoder", settings=[iv.Setting(2.0, 0.1)], each=20)
    assert warm.to_json() == same.to_json()
    with pytest.raises(SettingError, match="settings are given twice"):
        iv.read(counting, query, source="decoder", temperature=[2.0], settings="auto")


def test_a_scope_is_the_study_s_where_nothing_is_named(counting: iv.Study, query: iv.Query) -> None:
    assert resolved(counting) == resolved(counting, query.site) == Scope(0.1, "euclidean")
    assert resolved(counting, query.site, epsilon=0.3, distance="cosine", at=":") == Scope(0.3, "cosine", ":")
    for wrong in ({"epsilon": 0.0}, {"epsilon": float("nan")}, {"distance": "taxi"}):
        with pytest.raises(SettingError):
            resolved(counting, query.site, **wrong)  # type: ignore[arg-type]
