"""What the heads of a circuit encode: against feature information and brute force on a small random model; Markdown."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.analyses.attribute.measure import promotion_rates
from inversionview.analyses.heads import show_circuit
from inversionview.analyses.heads.circuit import EXPECTED, Expected, circuit_table, subject_cases
from inversionview.analyses.heads.result import FEATURES, GROUPS, CircuitTable, NamedHead
from inversionview.analyses.site_positions import draw_queries
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import UnknownSiteError
from inversionview.core.information import entropy, shares
from inversionview.core.scope import OWN, Scope
from inversionview.model.distances.geometry import between
from inversionview.model.sites.site import Site
from tests.test_heads import prompts, saved

HEADS = [
    NamedHead("a1.1", "negative name mover", "END"),
    NamedHead("a0.2", "induction", "S2"),
    NamedHead("a1.0", "none", "END"),
    NamedHead("a0.1", "name mover", "END"),
]
NAMES = ["Mary", "John", "Anna", "Alice", "Bob", "Henry", "Jack", "George", "Emma", "Luke", "Simon", "Tom"]
"""Few, so that a random head moves IO now and then."""
EPSILON, QUERIES = 0.3, 100


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    return iv.load("ioi", model=saved("llama", tmp_path_factory.mktemp("circuit") / "llama"), names=NAMES)


@pytest.fixture(scope="module")
def bank(study: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    return iv.build_bank(study, tmp_path_factory.mktemp("circuit") / "bank", rows=800, precision="float32")


@pytest.fixture(scope="module")
def table(bank: ActivationBank) -> CircuitTable:
    return circuit_table(bank, HEADS, Scope(EPSILON, "cosine", OWN), queries=QUERIES, seed=1)


def test_rows_are_the_feature_information_at_each_heads_own_position(
    study: iv.Study, bank: ActivationBank, table: CircuitTable
) -> None:
    assert [row.head for row in table.rows] == HEADS
    for row in table.rows:
        whole = iv.inform(
            study,
            bank=bank,
            sites=row.head.site,
            positions=[row.head.position],
            epsilon=EPSILON,
            fixed=True,
            queries=QUERIES,
            seed=1,
        )
        assert row.bits == whole.totals[0].bits
        assert {c.feature: c.share for c in whole.cells if c.feature in FEATURES} == pytest.approx(row.shares)


def test_what_is_moved_by_brute_force(study: iv.Study, bank: ActivationBank, table: CircuitTable) -> None:
    every = bank.tokens(np.arange(len(bank)))
    features, ends = study.inputs.features(every), study.inputs.named_positions(every)["END"]
    names, codes = np.unique(features["IO"], return_inverse=True)
    prior = shares(codes, len(names))
    for row, sign in ((table.rows[0], -1), (table.rows[3], 1)):
        z = study.model.harvest(every, [Site.parse(row.head.site)], ends[:, None])[0, :, 0]

        queries, _ = draw_queries(bank, "END", QUERIES, 1)
        gain = study.model.backend.final_norm(torch.ones(1, 36))
        written = study.model.backend.unembed(z * gain)
        rivals = np.unique(
            np.concatenate([every[range(len(every)), study.inputs.named_positions(every)[at]] for at in ("IO", "S1")])
        )
        best = rivals[(sign * written[:, rivals]).argmax(1).numpy()]
        moves = np.array([text.strip() for text in study.inputs.tokenizer.strings(best.tolist())]) == features["IO"]
        among = shares(codes[moves], len(names))
        told, only, same, either, moved = [], [], [], [], 0
        for q in queries:
            if not moves[q]:
                continue
            moved += 1
            near = np.flatnonzero((between("cosine", z[q], z) <= EPSILON).numpy())
            near = near[near != q]
            if len(near):
                own = prior[codes[q]]
                agree = (features["IO"][near] == features["IO"][q]).sum()
                told.append([np.log2((hits + own) / (len(near) + 1) / own) for hits in (agree, len(near))])
                these = near[moves[near]]
                if len(these):
                    own, alike = among[codes[q]], (features["IO"][these] == features["IO"][q]).sum()
                    only.append([np.log2((hits + own) / (len(these) + 1) / own) for hits in (alike, len(these))])
                same.append(agree / len(near))
                either.append(np.mean((features["IO"][near] == features["IO"][q]) | (features["S"][near] == features["IO"][q])))
        assert len(told) > 3
        assert row.moved is not None
        assert (row.moved.queries, row.moved.of) == (moved, QUERIES)
        assert [row.moved.share, row.moved.most] == pytest.approx(np.mean(told, axis=0) / entropy(prior), abs=0.01)
        assert len(only) > 3
        wanted = np.mean(only, axis=0) / entropy(among)
        assert [row.moved.among, row.moved.among_most] == pytest.approx(wanted, abs=0.01)
        assert [row.moved.same, row.moved.either] == pytest.approx([np.mean(same), np.mean(either)], abs=0.01)
        assert row.agrees == (row.moved.share >= 0.9)
    assert table.rows[1].moved is table.rows[2].moved is table.rows[2].agrees is None


def test_expectations_are_met_or_not() -> None:
    assert set(EXPECTED) == set(GROUPS)
    nothing = dict.fromkeys(FEATURES, 0.0)
    assert EXPECTED["induction"].met({**nothing, "order": 0.99})
    assert not EXPECTED["induction"].met({**nothing, "order": 0.99, "S": 0.6})  # it must not know who S is
    assert EXPECTED["S-inhibition"].met({**nothing, "S": 0.6})
    assert EXPECTED["S-inhibition"].met({**nothing, "relative_position": 0.5})
    assert not EXPECTED["S-inhibition"].met({**nothing, "IO": 1.0})
    assert not EXPECTED["name mover"].met({**nothing, "IO": 0.89})
    assert Expected(("IO", "S"), 0.5, ("order",)).met({**nothing, "S": 0.5, "order": 0.4})


def test_a_head_that_the_bank_lacks(bank: ActivationBank) -> None:
    with pytest.raises(UnknownSiteError, match=r"a9\.9"):
        circuit_table(bank, [NamedHead("a9.9", "name mover", "END")], Scope(0.1, "cosine", OWN), queries=5)


def test_rates_of_the_subject(study: iv.Study) -> None:
    cases = subject_cases(study.inputs, 1000)
    features = study.inputs.features(cases.tokens)
    for i in range(0, len(cases), 97):
        said = {study.inputs.tokenizer.strings([token])[0].strip() for token in cases.words[cases.expected[i]]}
        assert said == {features["S"][i]}


def test_markdown(study: iv.Study, table: CircuitTable) -> None:
    kept = iv.heads(study, prompts=30, anyway=True)
    some = prompts(study, 20)
    where = [f"{head.position}:{head.site}" for head in HEADS]
    patched = iv.patch(study, where, some.pairs(study.inputs), cumulative="forward")
    io = iv.rates(study, "a1.0,a1.1", target="IO", limit=20)
    made = {
        show_circuit.heads_markdown(kept): len(kept.found),
        show_circuit.contents_markdown(table): len(HEADS),
        show_circuit.moved_markdown(table): 2,
        show_circuit.rates_markdown(
            io,
            promotion_rates(study.model, subject_cases(study.inputs, 1000), "a1.0,a1.1"),
            {"a1.0": "none", "a1.1": "name mover"},
        ): 2,
        show_circuit.patching_markdown(patched, HEADS): len(HEADS),
    }
    for text, rows in made.items():
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == rows + 2
        assert len({line.count("|") for line in lines}) == 1
    last = show_circuit.patching_markdown(patched, HEADS).splitlines()[1 + len(HEADS)]
    assert f" {patched.together.value:z.2f} [".replace("-", "−") in last


# -- the document -----------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "ioi_tables.py"
    spec = importlib.util.spec_from_file_location("ioi_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DOCUMENT", tmp_path / "document.md")
    monkeypatch.setattr(module.iv, "load", lambda name: name)
    return module


def test_tables_go_into_the_document_one_by_one(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(script.STEPS)
    text = "Before.\n" + "".join(f"<!-- {name} -->\n<!-- end of {name} -->\nBetween.\n" for name in names)
    script.DOCUMENT.write_text(text)
    made: list[str] = []

    def step(name: str) -> str:
        if len(made) == 2 and name == names[2]:
            raise KeyboardInterrupt
        made.append(name)
        return f"{name} {len(made)}\n"

    monkeypatch.setattr(script, "STEPS", {name: lambda study, bank, name=name: step(name) for name in names})
    with pytest.raises(KeyboardInterrupt):
        script.main([])
    made.append("interrupted")
    script.main([])  # goes on with what is lacking
    assert made == [*names[:2], "interrupted", *names[2:]]
    script.main([])
    script.main([names[0]])
    assert made[-1] == names[0]
    written = script.DOCUMENT.read_text()
    assert written.startswith(f"Before.\n<!-- {names[0]} -->\n\n{names[0]} 6\n<!-- end of {names[0]} -->\nBetween.\n")
    assert written.count("Between.") == len(names)
    with pytest.raises(SystemExit, match="no table"):
        script.main(["another"])


def test_the_document_has_a_place_for_every_table(script: ModuleType) -> None:
    text = (Path(script.__file__ or "").parent / "language-models.md").read_text()
    for name in script.STEPS:
        assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- end of {name} -->") == 1
