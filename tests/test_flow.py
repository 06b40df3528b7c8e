"""The flow of information against its three measurements, each taken by hand: what `inform` says of both ends of an edge,
attention and patching in a plain Hugging Face model; and the graph's own laws."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor
from transformers import GPT2LMHeadModel

import inversionview as iv
from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.flow.measure import Looks, telling
from inversionview.analyses.flow.result import FLOOR, OTHERS, Edge, Flow, Node
from inversionview.analyses.flow.show import Drawing
from inversionview.bank.store import ActivationBank
from inversionview.core.information import Mean
from inversionview.corpora.contrasts import held_out
from inversionview.corpora.filters import feature_names, parse_filters
from inversionview.corpora.texts import TextInputs
from inversionview.model.sites.site import Site
from inversionview.studies.spec import StudySpec, write_spec
from tests.conftest import sentences
from tests.test_cli import bad, run

QUERIES, LIMIT, SEED = 60, 300, 3
ADDED = ["F1", "F2", "F3", "+", "S1", "S2", "S3", "=", "A1"]


@dataclass(frozen=True)
class Case:
    """A flow, the bank that it was taken from, and the model in plain Hugging Face."""

    study: iv.Study
    bank: ActivationBank
    flow: Flow
    plain: GPT2LMHeadModel

    @property
    def inputs(self) -> Any:
        return self.study.inputs


@pytest.fixture(scope="module")
def bank(addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    return iv.build_bank(addition, tmp_path_factory.mktemp("flow") / "bank", rows=20_000, positions=ADDED)


@pytest.fixture(scope="module")
def added(addition: iv.Study, bank: ActivationBank) -> Case:
    return case(addition, bank, "A2", ("A1=1",))


@pytest.fixture(scope="module")
def counted(counting: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> Case:
    sites = "x0.pre,a0.0,x0.post,a1.0,x1.post"
    bank = iv.build_bank(counting, tmp_path_factory.mktemp("flow") / "bank", rows=30_000, sites=sites)
    return case(counting, bank, None, ())


def case(study: iv.Study, bank: ActivationBank, target: str | None, where: tuple[str, ...]) -> Case:
    flow = iv.flow(study, target, bank=bank, where=where, queries=QUERIES, limit=LIMIT, seed=SEED)
    return Case(study, bank, flow, GPT2LMHeadModel.from_pretrained(study.model_path, attn_implementation="eager").eval())


@pytest.fixture(scope="module", params=["added", "counted"])
def either(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


# -- which features say what a site knows --------------------------------------------------------------------------------

DIGITS = np.array(list(itertools.product(range(10), repeat=3)))
A, B, C = DIGITS.T
PAIR = np.minimum(A, B) * 10 + np.maximum(A, B)


def entropy(*columns: np.ndarray) -> float:
    counts = np.array(list(Counter(zip(*(column.tolist() for column in columns), strict=True)).values()))
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def about(column: np.ndarray, *known: np.ndarray) -> float:
    """I(column; known): the bits about a feature of a site that knows exactly ``known``."""
    return entropy(column) + entropy(*known) - entropy(column, *known)


def told(known: tuple[np.ndarray, ...], answers: tuple[str, ...] = (), **columns: np.ndarray) -> list[str]:
    return telling(Codes(columns), {name: about(column, *known) for name, column in columns.items()}, answers)


def test_what_follows_is_not_named() -> None:
    assert told((A,), half=A // 2, a=A, odd=A % 2, b=B) == ["a"]
    assert told((A // 2,), a=A, half=A // 2, odd=A % 2) == ["half"]


def test_independent_features_are_both_named() -> None:
    assert told((A, B), a=A, b=B, c=C) == ["a", "b"]
    assert told((A, B % 2), c=C, odd=B % 2, a=A) == ["a", "odd"]


def test_a_pair_is_named_and_not_its_parts() -> None:
    assert told((PAIR,), a=A, b=B, pair=PAIR, sum=A + B, carry=A + B >= 10, c=C) == ["pair"]
    assert told((A + B,), a=A, b=B, pair=PAIR, sum=A + B, carry=A + B >= 10) == ["sum"]
    assert told((PAIR, C), a=A, b=B, pair=PAIR, sum=A + B, c=C) == ["pair", "c"]


def test_answers_come_last() -> None:
    both = 10 * A + B
    assert told((A, B), a=A, b=B, both=both) == ["both"]
    assert told((A, B), ("both",), both=both, a=A, b=B) == ["a", "b"]
    assert told((A, B, C), ("a",), a=A, b=B, c=C) == ["b", "c", "a"]


def test_what_is_hardly_known_is_never_named() -> None:
    codes, whole = Codes({"a": A, "b": B}), math.log2(10)
    assert telling(codes, {"a": 0.09 * whole, "b": 0.0}) == []
    assert telling(codes, {"a": 0.11 * whole, "b": 0.0}) == ["a"]
    assert telling(codes, {"a": whole, "b": 0.24 * whole}) == ["a"]
    assert telling(codes, {"a": whole, "b": 0.26 * whole}) == ["a", "b"]
    assert telling(codes, {}) == []


def test_within_a_filter_what_follows_there_is_not_named() -> None:
    """b is independent of a, but the same where the filter holds."""
    same, columns = A == B, {"a": A, "b": B}
    bits = dict.fromkeys(columns, math.log2(10))
    assert telling(Codes(columns), bits) == ["a", "b"]
    assert telling(Codes(columns, same, ["a=b"]), bits) == ["a"]


@given(st.lists(st.sampled_from(["a", "b", "c", "pair", "sum", "odd"]), min_size=1, max_size=3, unique=True))
def test_another_name_for_what_is_named_changes_nothing(known: list[str]) -> None:
    columns = {"a": A, "b": B, "c": C, "pair": PAIR, "sum": A + B, "odd": C % 2}
    held = tuple(columns[name] for name in known)
    named = told(held, **columns)
    assert len(set(named)) == len(named) > 0
    assert told(held, **columns, **{f"{name} again": 7 - columns[name] for name in named}) == named


# -- attention -----------------------------------------------------------------------------------------------------------


def by_hand(case: Case, tokens: np.ndarray, names: list[str], query: str) -> dict[tuple[int, int, str], float]:
    """Mean weights of all heads at a position, input by input, in a plain Hugging Face model; all but names and BOS is rest."""
    total: dict[tuple[int, int, str], list[float]] = {}
    for row in tokens:
        at = {name: int(case.inputs.named_positions(row[None])[name][0]) for name in {*names, query}}
        with torch.no_grad():
            patterns = case.plain(torch.tensor(row[row != case.inputs.pad])[None], output_attentions=True).attentions
        for layer, pattern in enumerate(patterns):
            for head, weights in enumerate(pattern[0, :, at[query]].tolist()):
                for name in names:
                    total.setdefault((layer, head, name), []).append(weights[at[name]])
                rest = sum(w for i, w in enumerate(weights) if i not in {0, *(at[name] for name in names)})
                total.setdefault((layer, head, OTHERS), []).append(rest)
                total.setdefault((layer, head, "BOS"), []).append(weights[0])
    return {key: float(np.mean(values)) for key, values in total.items()}


def test_attention_is_that_of_hugging_face(either: Case) -> None:
    flow, looks_up = either.flow, ["query", ":"] if "query" in either.study.position_names else ADDED[:]
    filters = parse_filters(flow.where, feature_names(either.inputs))
    tokens = held_out(either.inputs, filters, 40, 1)
    looks = Looks(either.study.model, tokens, either.inputs, flow.target, either.study.position_names)
    assert looks.names == looks_up
    assert looks.position == flow.position
    for query in {looks.position, looks.names[0]}:
        wanted = by_hand(either, tokens, looks.names, query)
        for layer, heads in enumerate(either.study.model.shape.heads):
            for head in range(heads):
                found = looks.of(Site(layer, "head", head), query)
                assert list(found) == [*looks.names, OTHERS]
                for name, weight in found.items():
                    assert weight == pytest.approx(wanted[layer, head, name], abs=1e-6)
                assert sum(found.values()) + wanted[layer, head, "BOS"] == pytest.approx(1, abs=1e-5)


def test_edges_hold_the_mean_attention_over_the_held_out_inputs(either: Case) -> None:
    flow = either.flow
    tokens = held_out(either.inputs, parse_filters(flow.where, feature_names(either.inputs)), LIMIT, SEED)
    names = ["query", ":"] if flow.target == "count" else ADDED
    here = [edge for edge in flow.edges if edge.kind == "read" and edge.to.endswith(f"@{flow.position}")]
    wanted = by_hand(either, tokens, names, flow.position)
    for edge in here:
        head = Site.parse(edge.to.partition("@")[0])
        assert edge.attention == pytest.approx(
            wanted[head.layer, head.head or 0, edge.source.partition("@")[2] or OTHERS], abs=1e-5
        )
        assert edge.attention >= flow.least_attention
    assert here
    assert all((edge.attention is None) == (edge.kind != "read") for edge in flow.edges)


def test_a_position_of_two_names_is_looked_at_once(addition: iv.Study) -> None:
    """Before the end of a sum of three digits, A3 and END are the same position."""
    tokens = held_out(addition.inputs, parse_filters("A4=E", ["A4"]), 30, 0)
    assert (addition.inputs.named_positions(tokens)["END"] == addition.inputs.named_positions(tokens)["A3"]).all()
    looks = Looks(addition.model, tokens, addition.inputs, "A4", addition.position_names)
    assert looks.names == [*ADDED, "A2", "A3"]
    assert looks.position == "A3"
    with pytest.raises(iv.errors.SettingError, match="The position that predicts A4 has no name"):
        Looks(addition.model, tokens, addition.inputs, "A4", ADDED)


# -- information -----------------------------------------------------------------------------------------------------------


def test_the_bits_of_an_edge_are_what_both_ends_know(either: Case) -> None:
    flow, study = either.flow, either.study

    @cache
    def table(position: str) -> Any:
        sites = [node.site for node in flow.nodes if node.position == position]
        return iv.inform(study,
            bank=either.bank, queries=QUERIES, sites=sites, positions=[position], fixed=True, where=flow.where, seed=SEED,
            epsilon=flow.epsilon,
        )  # fmt: skip

    def known(end: str, feature: str) -> tuple[float, float]:
        site, _, position = end.partition("@")
        cells = {(c.site, c.feature): c for c in table(position).cells}
        return cells[site, feature].bits.value, cells[site, feature].entropy

    kinds = set()
    for edge in flow.edges:
        if edge.kind == "read":
            ends = [edge.to] if edge.source == OTHERS else [edge.source, edge.to]
        else:
            ends = {"write": [edge.source], "keep": [edge.source, edge.to], "answer": [edge.source]}[edge.kind]
        bits = min(known(end, edge.feature)[0] for end in ends)
        assert edge.bits == pytest.approx(bits, abs=1e-9)
        assert edge.share == pytest.approx(bits / known(ends[0], edge.feature)[1], abs=1e-9)
        kinds.add(edge.kind)
    assert kinds == {"read", "write", "keep", "answer"}
    for node in flow.nodes:
        totals = {t.site: t.bits.value for t in table(node.position).totals} if node.position else {}
        assert node.bits == (pytest.approx(totals[node.site], abs=1e-9) if node.position else None)
    assert flow.inputs == table(flow.position).inputs


# -- patching --------------------------------------------------------------------------------------------------------------


Change = Callable[[Tensor, Site], None]


def last_logits(plain: GPT2LMHeadModel, tokens: Tensor, change: Change | None = None) -> Tensor:
    """Logits after the last token in a plain model; ``change`` may edit each activation in place."""
    width = plain.config.n_embd // plain.config.n_head

    def heads(layer: int) -> Callable[..., None]:
        def hook(module: Any, arguments: tuple[Tensor]) -> None:
            if change is not None:
                for head in range(plain.config.n_head):
                    change(arguments[0][..., head * width : (head + 1) * width], Site(layer, "head", head))

        return hook

    def stream(site: Site) -> Callable[..., None]:
        def hook(module: Any, arguments: tuple[Tensor], *output: Any) -> None:
            if change is not None:
                change((output[0] if isinstance(output[0], Tensor) else output[0][0]) if output else arguments[0], site)

        return hook

    handles = []
    for layer, block in enumerate(plain.transformer.h):
        handles += [
            block.register_forward_pre_hook(stream(Site(layer, "pre"))),
            block.attn.c_proj.register_forward_pre_hook(heads(layer)),
            block.register_forward_hook(stream(Site(layer, "post"))),
        ]
    try:
        with torch.no_grad():
            return plain(tokens).logits[:, -1].double()
    finally:
        for handle in handles:
            handle.remove()


def effects(case: Case, via: str, changes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """For every pair LD_orig − LD_patched and LD_orig − LD_contrast, and which pairs differ in each feature."""
    pairs = iv.pairs(case.study, target=case.flow.target, changes=changes, where=case.flow.where, limit=LIMIT, seed=SEED)
    at, _, short = via.rpartition(":")
    here, there = (case.inputs.named_positions(tokens)[at] for tokens in (pairs.original, pairs.contrast))
    patched, whole = np.empty((2, len(pairs)))
    for key in {*zip(pairs.read.tolist(), pairs.contrast_read.tolist(), here.tolist(), there.tolist(), strict=True)}:
        read, contrast_read, to, source = key
        rows = np.flatnonzero((pairs.read == read) & (pairs.contrast_read == contrast_read) & (here == to) & (there == source))
        found: list[Tensor] = []

        def keep(z: Tensor, site: Site, found: list[Tensor] = found, at: int = source) -> None:
            if site.short == short:
                found.append(z[:, at].clone())

        def put(z: Tensor, site: Site, found: list[Tensor] = found, at: int = to) -> None:
            if site.short == short:
                z[:, at] = found[0]

        runs: list[tuple[np.ndarray, int, Change | None]] = [
            (pairs.original, read, None), (pairs.contrast, contrast_read, keep), (pairs.original, read, put),
        ]  # fmt: skip
        answers = torch.from_numpy(pairs.answers[rows])
        logits = [last_logits(case.plain, torch.from_numpy(tokens[rows, : end + 1]), change) for tokens, end, change in runs]
        own, theirs, new = (torch.sub(*each.gather(1, answers).T).numpy() for each in logits)
        patched[rows], whole[rows] = own - new, own - theirs
    before, after = case.inputs.features(pairs.original), case.inputs.features(pairs.contrast)
    return patched, whole, {name: before[name] != after[name] for name in before}


CHANGES = {"1": ("F1", "S1"), "2": ("F2", "S2"), "3": ("F3", "S3")}


def changes_for(edge: Edge) -> tuple[str, ...]:
    """The digits of the places that a feature names; an answer is made of all; of counting, the string."""
    if edge.feature in ("count", "counts"):
        return ("string",)
    if edge.feature.startswith("A"):
        return ("F1", "F2", "F3", "S1", "S2", "S3")
    return {"C2": CHANGES["2"], "C3": CHANGES["3"]}.get(edge.feature) or CHANGES[re.findall(r"\d", edge.feature)[0]]


def test_the_effect_is_patching_by_hand(either: Case) -> None:
    """Each kind of edge, the strongest and the weakest of it: the mean over pairs, and the interval by a bootstrap."""
    chosen: list[Edge] = []
    for kind in ("read", "write", "keep", "answer"):
        tested = [edge for edge in either.flow.edges if edge.kind == kind and edge.effect is not None]
        tested.sort(key=lambda edge: edge.effect.value if edge.effect else 0)
        chosen += tested[:1] + tested[1:][-1:]
    assert len({edge.kind for edge in chosen}) == (3 if either.flow.target == "count" else 4)
    for edge in chosen:
        check_effect(either, edge)


def check_effect(case: Case, edge: Edge) -> float:
    """Check an edge's effect, from the stream the lesser of its ends'; return the share of the pairs that differ."""
    patched, whole, differ = effects(case, edge.via, changes_for(edge))
    rows = differ[edge.feature]
    if edge.kind in ("read", "keep") and edge.source != OTHERS:
        site, _, position = edge.source.partition("@")
        begun, _, _ = effects(case, f"{position}:{site}", changes_for(edge))
        patched = min(patched, begun, key=lambda found: float(found[rows].mean()))
    assert case.flow.pairs[",".join(changes_for(edge))] == len(rows)
    patched, whole = patched[rows], whole[rows]
    assert edge.effect is not None
    assert edge.effect.value == pytest.approx(patched.mean() / whole.mean(), abs=1e-4)
    picks = np.random.default_rng(17).integers(len(whole), size=(4000, len(whole)))
    low, high = np.quantile(patched[picks].mean(1) / whole[picks].mean(1), [0.025, 0.975])
    assert edge.effect.low == pytest.approx(low, abs=0.15 * (high - low) + 1e-6)
    assert edge.effect.high == pytest.approx(high, abs=0.15 * (high - low) + 1e-6)
    return float(rows.mean())


def test_a_way_on_which_nothing_is_used_is_not_confirmed(added: Case) -> None:
    """F3 acts by what a head at S3 reads of it; the stream that goes on at F3 is read by nothing that matters."""
    assert not [e for e in added.flow.edges if e.source == "x0.post@F3" and e.confirmed]
    steps = [e for e in added.flow.edges if (e.kind, e.source, e.to) == ("keep", "x0.pre@F3", "x0.post@F3")]
    assert steps
    for edge in steps:
        begun, whole, differ = effects(added, "F3:x0.pre", changes_for(edge))
        rows = differ[edge.feature]
        assert begun[rows].mean() / whole[rows].mean() > 0.3
        assert edge.effect is not None
        assert abs(edge.effect.value) < 0.02
        assert not edge.confirmed


def test_only_pairs_that_differ_in_the_feature_count(added: Case) -> None:
    """Without a filter, A2 may change by F2 and S2 while the carry C2 stays."""
    flow = iv.flow(added.study, "A2", bank=added.bank, queries=20, limit=LIMIT, seed=SEED)
    carries = [e for e in flow.edges if (e.kind, e.feature, e.confirmed) == ("write", "C2", True)]
    assert check_effect(replace(added, flow=flow), carries[0]) < 0.9


def test_confirmed_is_what_surely_does_the_least_effect(added: Case) -> None:
    for flow in (added.flow, strict := replace_least(added, 0.5)):
        for edge in flow.edges:
            assert edge.confirmed == (edge.effect is not None and edge.effect.low >= flow.least_effect)
            assert edge.share >= FLOOR or edge.confirmed
    key = {(e.source, e.to, e.feature): e for e in added.flow.edges}
    assert 0 < sum(e.confirmed for e in strict.edges) < sum(e.confirmed for e in added.flow.edges)
    assert all(replace(key[e.source, e.to, e.feature], confirmed=e.confirmed) == e for e in strict.edges)
    assert any(e.effect and e.effect.value > 0.05 > e.effect.low and not e.confirmed for e in added.flow.edges)


def replace_least(case: Case, least: float) -> Flow:
    return iv.flow(
        case.study,
        case.flow.target,
        bank=case.bank,
        where=case.flow.where,
        queries=QUERIES,
        limit=LIMIT,
        seed=SEED,
        least_effect=least,
    )


def test_what_no_contrast_alters_is_not_tested(counted: Case) -> None:
    letters = [edge for edge in counted.flow.edges if edge.feature not in ("count", "counts")]
    assert {edge.feature for edge in letters} >= {"letter"}
    assert all(edge.effect is None and not edge.confirmed for edge in letters)
    assert counted.flow.pairs.keys() == {"string"}
    assert all(edge.effect is not None for edge in counted.flow.edges if edge.feature == "count")


# -- the graph -------------------------------------------------------------------------------------------------------------


def leading(flow: Flow, edges: list[Edge]) -> list[Edge]:
    """Edges from which a walk over others, and up the stream where the answer is predicted, comes to the answer."""
    on: dict[str, list[str]] = {}
    for edge in edges:
        on.setdefault(edge.source, []).append(edge.to)
    there = {f"x{i}.{kind}@{flow.position}" for i in range(flow.layers) for kind in ("pre", "post")} | {flow.target}

    def leads(node: str) -> bool:
        return node in there or any(map(leads, on.get(node, [])))

    return [edge for edge in edges if leads(edge.to)]


@given(st.floats(0, 1), st.floats(0, 1))
def test_less_is_shown_the_higher_the_threshold(either: Case, one: float, other: float) -> None:
    flow = either.flow
    low, high = (set(map(id, flow.shown(t))) for t in sorted((one, other)))
    assert high <= low
    for threshold in (one, other):
        enough = [e for e in flow.edges if e.share >= threshold or (e.share < FLOOR and e.confirmed) or e.kind == "answer"]
        assert flow.shown(threshold) == leading(flow, enough)


def test_what_patching_confirms_is_shown_though_hardly_known(counted: Case) -> None:
    """The answer hangs on a0.0 at the query, but preimages of its output in 30,000 inputs are of any count."""
    (edge,) = (e for e in counted.flow.edges if (e.kind, e.source) == ("write", "a0.0@query"))
    assert edge.confirmed
    assert edge.share < FLOOR
    assert edge in counted.flow.shown(0.15)


def test_the_graph_is_one(either: Case) -> None:
    flow, order = either.flow, ["query", ":"] if either.flow.target == "count" else ADDED
    assert len({(e.source, e.to, e.feature) for e in flow.edges}) == len(flow.edges) > 0
    ends = [end for edge in flow.edges for end in (edge.source, edge.to)]
    assert {node.name for node in flow.nodes} == set(ends)
    assert len({node.name for node in flow.nodes}) == len(flow.nodes)
    assert list(flow.positions) == [name for name in order if any(end.endswith(f"@{name}") for end in ends)]
    assert leading(flow, list(flow.edges)) == list(flow.edges)
    into = {i: f"x{i - 1}.post" if i else "x0.pre" for i in range(flow.layers + 1)}
    for edge in flow.edges:
        (source, _, here), (to, _, there) = edge.source.partition("@"), edge.to.partition("@")
        if edge.kind == "read":
            assert source in (OTHERS, into[Site.parse(to).layer])
            assert edge.via == f"{there}:{to}"
            assert edge.source == OTHERS or order.index(here) <= order.index(there)
            continue
        assert here == (there or flow.position)
        if edge.kind == "write":
            assert to == into[Site.parse(source).layer + 1]
            assert edge.via == f"{here}:{source}"
        elif edge.kind == "keep":
            assert (source, to) in itertools.pairwise(into.values())
            assert edge.via == f"{here}:{to}"
        else:
            assert (edge.source, edge.to, edge.feature) == (f"{into[flow.layers]}@{flow.position}", flow.target, flow.target)


def test_the_known_flow_of_the_addition_model(addition: iv.Study, bank: ActivationBank) -> None:
    """Huang et al. 2024, Fig. 31, A2 where A1 = 1: at A1, a0.0 takes F1 and S1, and a0.1 the carry from F2 and S2."""
    flow = iv.flow(addition, "A2", bank=bank, where=["A1=1"], limit=500)
    assert (flow.position, flow.target, flow.where) == ("A1", "A2", ("A1=1",))
    shown = flow.shown(0.2)

    def read(head: str) -> set[str]:
        return {e.source for e in shown if e.kind == "read" and e.to == head}

    def confirmed(head: str) -> set[str]:
        return {e.feature for e in shown if e.kind == "write" and e.source == head and e.confirmed}

    assert read("a0.0@A1") == {"x0.pre@F1", "x0.pre@S1"}
    assert confirmed("a0.0@A1") == {"{F1,S1}"}
    assert read("a0.1@A1") == {"x0.pre@F2", "x0.pre@S2"}
    assert "C2" in confirmed("a0.1@A1")
    assert not confirmed("a0.1@A1") & {"{F1,S1}", "F1+S1", "F1", "S1"}
    by = {(e.source, e.feature): e for e in shown if e.kind == "write"}
    assert by["a0.0@A1", "{F1,S1}"].share > 0.95
    assert by["a0.1@A1", "C2"].share > 0.9
    assert all(e.confirmed for e in shown if e.kind == "answer")


# -- what is written ---------------------------------------------------------------------------------------------------------


def revived(value: dict[str, Any]) -> Flow:
    """Make a flow again of its JSON."""
    edges = [{**e, "effect": e["effect"] and Mean(**e["effect"])} for e in value["edges"]]
    return Flow(**{
        **value, "where": tuple(value["where"]), "positions": tuple(value["positions"]),
        "nodes": tuple(Node(**n) for n in value["nodes"]), "edges": tuple(Edge(**e) for e in edges),
    })  # fmt: skip


def test_json_is_all_of_it_and_the_same_again(
    capsys: pytest.CaptureFixture[str], addition: iv.Study, bank: ActivationBank
) -> None:
    command = ("flow", "addition", "--target", "A2", "--where", "A1=1", "--bank", str(bank.folder), "--queries", "8", "--limit",
               "60", "--attention", "0.2", "--threshold", "0.3", "--json", "--seed")  # fmt: skip
    (code, first, err), (_, again, _), (_, other, _) = (run(capsys, *command, seed) for seed in ("1", "1", "2"))
    assert (code, err) == (0, "")
    assert first == again
    value = json.loads(first)
    assert value["edges"] != json.loads(other)["edges"]
    assert value.keys() >= {"nodes", "edges", "target", "where", "position", "pairs"}
    assert (value.pop("threshold"), value["target"], value["where"], value["position"]) == (0.3, "A2", ["A1=1"], "A1")
    found = iv.flow(addition, "A2", bank=bank, where=["A1=1"], queries=8, limit=60, least_attention=0.2, seed=1)
    assert revived(value) == found
    assert all(e.attention >= 0.2 for e in found.edges if e.attention is not None)


def renamed(flow: Flow, **names: str) -> Flow:
    """Call features and positions otherwise, everywhere."""

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {new(key): new(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [new(each) for each in value]
        if not isinstance(value, str):
            return value
        site, at, position = value.partition("@")
        return f"{site}@{names.get(position, position)}" if at else names.get(value, value)

    return revived(new(flow.to_json()))


class _Page(HTMLParser):
    """Collects what a page would load, its elements and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads, self.tags, self.scripts = list[str](), Counter[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


EVIL = {"C2": "<script>alert(1)</script>", "S2": "<i>&", "C3": r"$\frac$", "A2": "<u>$x$"}


def drawn(page: _Page) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return traces and layout that the page gives to plotly."""
    script = next(s for s in page.scripts if "Plotly.newPlot(" in s and len(s) < 2_000_000)
    rest = script[script.index("Plotly.newPlot(") :]
    traces, end = json.JSONDecoder().raw_decode(rest, rest.index("["))
    return traces, json.JSONDecoder().raw_decode(rest, rest.index("{", end))[0]


def test_the_page_needs_nothing_else_and_escapes_names(added: Case, tmp_path: Path) -> None:
    flow = renamed(replace(added.flow, study="<img src=x>"), **EVIL)
    replace(flow, threshold=0.2).save(tmp_path / "flow.html")
    page = _Page((tmp_path / "flow.html").read_text())
    assert page.loads == []
    assert not {"img", "i", "u", "link", "iframe"} & page.tags.keys()
    assert any(len(script) > 1_000_000 for script in page.scripts)
    traces, layout = drawn(page)
    said = json.dumps([[t.get("name"), t.get("text"), t.get("hovertext")] for t in traces] + [layout["title"], layout["xaxis"]])
    assert not re.search(r"<script|<img|<i>|<u>", said)
    for name in ("&lt;script&gt;alert(1)", "&lt;i&gt;&amp;", "&lt;u&gt;$x$", "&lt;img src=x&gt;", "$\\\\frac$"):
        assert name in said
    lines = [t for t in traces if t["mode"] == "lines" and t["x"] != [None]]
    assert len(lines) == len(flow.edges)
    assert [t["visible"] for t in lines].count(True) == len(flow.shown(0.2))
    for step in layout["sliders"][0]["steps"]:
        (change,) = step["args"]
        assert len(change["visible"]) == len(traces)
        assert sum(change["visible"][: len(lines)]) == len(flow.shown(int(step["label"][:-1]) / 100))


def test_the_legend_of_the_page_switches_edges(added: Case, tmp_path: Path) -> None:
    added.flow.save(tmp_path / "flow.html")
    traces, _ = drawn(_Page((tmp_path / "flow.html").read_text()))
    listed = {t["legendgroup"] for t in traces if t.get("showlegend", True) and "legendgroup" in t}
    assert (
        {t["legendgroup"] for t in traces if t["mode"] == "lines" and t["x"] != [None]}
        == listed
        == {e.feature for e in added.flow.edges}
    )


@pytest.mark.parametrize("names", [{}, EVIL], ids=["plain", "evil"])
def test_figures_and_numbers(added: Case, tmp_path: Path, names: dict[str, str]) -> None:
    flow = renamed(added.flow, **names)
    for end in ("png", "svg", "csv"):
        replace(flow, threshold=0.3).save(tmp_path / f"flow.{end}")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    tree = ElementTree.parse(tmp_path / "flow.svg")
    links = [value for element in tree.iter() for name, value in element.attrib.items() if name.endswith(("href", "src"))]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not {"script", "image"} & {element.tag.rpartition("}")[2] for element in tree.iter()}
    frame = pandas.read_csv(tmp_path / "flow.csv")
    assert list(zip(frame["source"], frame["to"], frame["feature"], strict=True)) == [
        (e.source, e.to, e.feature) for e in flow.edges
    ]
    assert frame["bits"].tolist() == pytest.approx([e.bits for e in flow.edges])
    assert frame["effect_low"].tolist() == pytest.approx(
        [e.effect.low if e.effect else math.nan for e in flow.edges], nan_ok=True
    )


def test_the_table_has_a_line_for_each_confirmed_edge(either: Case) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(replace(either.flow, threshold=0.3))
    said = console.export_text()
    lines = {tuple(line.split()[:3]) for line in said.splitlines()}
    shown = either.flow.shown(0.3)
    assert {(e.source, e.to, e.feature) for e in shown if e.confirmed} == {
        x for x in lines if len(x) == 3 and "@" in "".join(x[:2])
    }
    assert f"{sum(not e.confirmed for e in shown)} more are known" in " ".join(said.split())
    assert f"at {either.flow.position}" in said.splitlines()[0]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7])
def test_curves_begin_and_end_at_their_nodes(either: Case, threshold: float) -> None:
    """Features between the same nodes run side by side, in the middle the node."""
    drawing = Drawing(either.flow, threshold)
    lanes: dict[tuple[str, str], list[np.ndarray]] = {}
    for edge in either.flow.shown(threshold):
        lanes.setdefault((edge.source, edge.to), []).append(drawing.curve(edge))
    assert lanes
    for (source, to), curves in lanes.items():
        for name, point in ((source, 0), (to, -1)):
            ends, place = np.array([curve[point] for curve in curves]), drawing.places[name]
            assert ends.mean(0) == pytest.approx([place.x, place.y])
            assert ends[:, 1] == pytest.approx(place.y)
            assert len(set(ends[:, 0].round(6))) == len(curves)
        assert all((np.diff(curve[:, 1]) > 0).all() for curve in curves)
    assert len({(p.x, p.y) for p in drawing.places.values()}) == len(drawing.places)


def test_where_nothing_is_known_the_answer_alone_is_drawn(
    capsys: pytest.CaptureFixture[str], bank: ActivationBank, tmp_path: Path
) -> None:
    """All activations are within ε = 1,000 of each other, so no site knows anything; what patching moves is not followed."""
    files = [tmp_path / f"flow.{end}" for end in ("png", "svg", "html", "csv")]
    command = ("flow", "addition", "--bank", str(bank.folder), "--target", "A2", "--epsilon", "1000", "--queries", "2")
    code, said, _ = run(capsys, *command, "--limit", "40", *(part for file in files for part in ("--out", str(file))))
    assert code == 0
    assert [line.split()[:2] for line in said.splitlines() if "@" in line] == [["x1.post@A1", "A2"]]
    assert all(file.stat().st_size > 0 for file in files)


def test_an_empty_diagram_is_drawn(added: Case, tmp_path: Path) -> None:
    empty = replace(added.flow, edges=(), nodes=())
    for end in ("png", "svg", "html", "csv"):
        empty.save(tmp_path / f"flow.{end}")
        assert (tmp_path / f"flow.{end}").stat().st_size > 0


def test_an_answer_that_is_always_the_same(capsys: pytest.CaptureFixture[str], bank: ActivationBank) -> None:
    code, _, said = run(capsys, "flow", "addition", "--bank", str(bank.folder), "--target", "A1", "--where", "A1=1")
    assert code == 2
    assert "A1 is the same in every input where A1=1" in said


# -- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere"),
        (("addition", "--target", "A5"), "A1, A2, A3, A4"),
        (("addition", "--target", "count"), "no target 'count'"),
        (("counting", "--target", "A1"), "there are count"),
        (("addition", "--where", "F9=1"), "no feature 'F9'"),
        (("addition", "--where", "A1"), "is not a filter"),
        (("addition", "--where", "A4>3"), "are not numbers"),
        (("addition", "--where", "A1=1", "--where", "A1=2"), "None of the"),
        (("counting", "--where", "count=10"), "None of the"),
        (("addition", "--threshold", "0"), "--threshold is a share"),
        (("addition", "--threshold", "1.5"), "--threshold is a share"),
        (("addition", "--threshold", "nan"), "--threshold must be a finite number"),
        (("addition", "--effect", "-0.1"), "--effect is a share"),
        (("addition", "--effect", "1"), "--effect is a share"),
        (("addition", "--attention", "2"), "--attention is a share"),
        (("addition", "--attention", "some"), "--attention"),
        (("addition", "--epsilon", "0"), "ε must be"),
        (("addition", "--queries", "0"), "--queries"),
        (("addition", "--limit", "0"), "--limit"),
        (("addition", "--out", "flow.pdf"), ".png, .svg, .html, .csv, .parquet"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_a_bank_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(iv.Study, "bank", lambda *_, **__: pytest.fail("a bank was asked for"))
    bad(capsys, "flow", *arguments, says=says)


def test_texts_have_no_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_model: Path, tmp_path: Path
) -> None:
    TextInputs.tokenize(sentences(), iv.ProbedModel.from_pretrained(own_model).vocabulary, folder=tmp_path / "corpus")
    write_spec(tmp_path, StudySpec(inputs="texts", model=str(own_model), sites=["x0.post"], site="x0.post"))
    monkeypatch.setattr(iv.Study, "bank", lambda *_, **__: pytest.fail("a bank was asked for"))
    bad(capsys, "flow", str(tmp_path), says="declare no answer")


def test_mistakes_through_the_library(addition: iv.Study, bank: ActivationBank) -> None:
    for options in ({"least_attention": 0.0}, {"least_attention": 1.1}, {"least_effect": 1.0}, {"least_effect": math.nan}):
        with pytest.raises(iv.errors.SettingError, match="are shares"):
            iv.flow(addition, bank=bank, **options)
    with pytest.raises(iv.errors.SettingError, match="satisfies"):
        iv.flow(addition, bank=bank, where=["A1=1", "A1=2"])
    with pytest.raises(iv.errors.SettingError, match="no name"):
        iv.flow(addition, "A4", bank=bank)
