"""Patching against plain Hugging Face forward passes with hooks, and what must hold of it whatever the model."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import inversionview as iv
from inversionview.analyses.patch.measure import steps
from inversionview.analyses.patch.result import Patching
from inversionview.core import information
from inversionview.core.errors import InversionViewError, SettingError, UnknownPositionError, UnknownSiteError
from inversionview.corpora.contrasts import Pairs, TextPair
from inversionview.intervene.activations import parse_activations
from inversionview.intervene.patched_runs import Differences, PatchedRuns
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.tokens import character_tokenizer
from tests.plain import Plain, real
from tests.test_cli import bad, run

torch.set_num_threads(1)
TOLERANCE = 1e-4
"""Relative to the largest difference."""
ADDITION_PLACES = {"F1": 1, "F2": 2, "F3": 3, "+": 4, "S1": 5, "S2": 6, "S3": 7, "=": 8, "A1": 9, "A2": 10}


def placed(study: str, at: str, ids: list[int], other: list[int]) -> tuple[list[int], list[int]]:
    """Where a position lies in an original and its contrast, by hand; every position as far as both go."""
    if at == "*":
        both = list(range(min(len(ids), len(other))))
        return both, both
    if study == "addition":
        return [ADDITION_PLACES.get(at, int(at) if at.isdigit() else -1)], [ADDITION_PLACES.get(at, -1)]
    bar, colon = 35, 36
    found = {"query": [x.index(bar) + 1 for x in (ids, other)], ":": [x.index(colon) for x in (ids, other)],
             "END": [x.index(colon) + 1 for x in (ids, other)]}[at]  # fmt: skip
    return [found[0]], [found[1]]


def expected(
    study: iv.Study, plain: Plain, kind: str, pairs: Pairs, activations: list[str], sets: Sequence[Sequence[int]]
) -> Any:
    """LD of originals, contrasts and patched runs, one after the other."""
    pad = study.model.vocabulary.pad
    rows = []
    for i in range(len(pairs)):
        ids, other = real(pairs.original[i], pad), real(pairs.contrast[i], pad)
        parts = [(a.rpartition(":")[2], *placed(kind, a.rpartition(":")[0], ids, other)) for a in activations]
        rows.append(plain.differences(ids, other, pairs.read[i], pairs.contrast_read[i], pairs.answers[i],
                                      [[parts[j] for j in members] for members in sets]))  # fmt: skip
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.array([r[2] for r in rows])


def found(study: iv.Study, pairs: Pairs, activations: Sequence[str], sets: Sequence[Sequence[int]]) -> Differences:
    named = parse_activations(activations, study.model.sites)
    return PatchedRuns(study.model, pairs, named, study.positions).differences(sets)


def agree(a: Any, b: Any) -> None:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= TOLERANCE * max(1.0, np.abs(b).max()), f"{np.abs(a - b).max()} of {np.abs(b).max()}"


def values(means: Sequence[information.Mean]) -> list[float]:
    return [m.value for m in means]


@pytest.fixture(scope="module")
def plain_addition(addition: iv.Study) -> Plain:
    return Plain(GPT2LMHeadModel.from_pretrained(addition.model_path, attn_implementation="eager"))


@pytest.fixture(scope="module")
def plain_counting(counting: iv.Study) -> Plain:
    return Plain(GPT2LMHeadModel.from_pretrained(counting.model_path, attn_implementation="eager"))


ADDITION_SITES = [
    "=:a0.0", "=:a0.3", "=:a1.2", "=:x0.pre", "=:x0.mid", "=:x0.post", "=:m0", "=:m1", "=:x1.pre", "=:x1.mid", "=:x1.post",
    "F1:embed", "F1:pos_embed", "F1:x0.pre", "S1:m0", "+:x0.post", "F2:a0.1", "*:embed", "*:pos_embed", "*:x0.pre", "*:x1.pre",
    "*:a0.1", "*:m0", "F1:x1.pre", "S1:a1.0",
]  # fmt: skip


@pytest.mark.parametrize("target", ["A1", "A2", "A4"])
def test_every_kind_of_site_alone(addition: iv.Study, plain_addition: Plain, target: str) -> None:
    pairs = iv.pairs(addition, target=target, limit=8, seed=1)
    sets = [[i] for i in range(len(ADDITION_SITES))]
    original, contrast, patched = expected(addition, plain_addition, "addition", pairs, ADDITION_SITES, sets)
    got = found(addition, pairs, ADDITION_SITES, sets)
    agree(got.original, original)
    agree(got.contrast, contrast)
    agree(got.patched, patched)
    result = iv.patch(addition, ADDITION_SITES, pairs)
    assert list(result.effects) == ["single"]
    agree(values(result.effects["single"].effect), (original[:, None] - patched).mean(0))
    agree(values(result.effects["single"].increment), (original[:, None] - patched).mean(0))
    agree(result.ld_orig.value, original.mean())
    agree(result.ld_contrast.value, contrast.mean())
    moved = np.abs(original[:, None] - patched).max(0)
    assert (moved > 0.05).sum() >= 10, "too little happens to test anything"


@pytest.mark.parametrize("cumulative", ["forward", "backward", "both"])
def test_counting_step_by_step(counting: iv.Study, plain_counting: Plain, cumulative: str) -> None:
    activations = ["query:a0.0", "query:x0.pre", "::a0.0", "::a1.0", "query:m0", "::x0.mid", "*:a0.0", "*:m0"]
    pairs, n = iv.pairs(counting, limit=8, seed=2), len(activations)
    assert len({*pairs.read}) > 4, "lengths should differ"
    sets = {"forward": [range(i + 1) for i in range(n)], "backward": [range(n - 1 - i, n) for i in range(n)]}
    result = iv.patch(counting, activations, pairs, cumulative=cumulative)  # type: ignore[arg-type]
    assert list(result.effects) == [d for d in sets if cumulative in (d, "both")]
    for direction, effects in result.effects.items():
        original, _, patched = expected(counting, plain_counting, "counting", pairs, activations, sets[direction])
        wanted = (original[:, None] - patched).mean(0)
        agree(values(effects.effect), wanted)
        agree(values(effects.increment), np.diff(wanted, prepend=0))
        assert effects.activations == tuple(activations if direction == "forward" else activations[::-1])
        assert np.abs(np.diff(wanted, prepend=0)).max() > 1
    assert result.activations == tuple(activations)
    assert result.accuracy == 1


@pytest.mark.parametrize(
    "members",
    [
        ["*:embed", "F1:pos_embed"],
        ["*:x0.pre", "F1:pos_embed", "F2:embed"],
        ["F1:embed", "#1:pos_embed"],
        ["F1:embed", "F1:x0.pre"],
        ["*:embed", "*:pos_embed"],
        ["S1:x0.pre", "*:embed", "=:a0.1", "*:a0.1"],
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_overlapping_activations(addition: iv.Study, plain_addition: Plain, members: list[str], order: int) -> None:
    """What is computed later wins, and one position under two names is one position."""
    named = members[::order]
    pairs = iv.pairs(addition, target="A1", limit=6, seed=3)
    computed = ["embed", "pos_embed", "x0.pre", "a0.1"]
    sets = [sorted(range(len(named)), key=lambda i: computed.index(named[i].rpartition(":")[2]))]
    _, _, patched = expected(addition, plain_addition, "addition", pairs, _by_name(named), sets)
    agree(found(addition, pairs, named, [range(len(named))]).patched, patched)


def _by_name(activations: list[str]) -> list[str]:
    return [a.replace("#1:", "F1:") if a.startswith("#1:") else a for a in activations]


def test_a_position_that_lies_elsewhere_in_the_contrast(addition: iv.Study, plain_addition: Plain) -> None:
    """Embeddings of token and position are each the contrast's own."""
    given = [TextPair("615+861=", "523+4=", "1", "5"), TextPair("100+23=", "345+678=1", "1", "0")]
    pairs = iv.pairs(addition, given)
    assert pairs.read.tolist() == [8, 7]
    assert pairs.contrast_read.tolist() == [6, 9]
    activations = ["END:embed", "END:pos_embed", "END:x0.pre", "END:a0.0", "END:m0", "+:x1.pre", "END:x1.mid", "+:pos_embed"]
    at = {"END": ([8, 7], [6, 9]), "+": ([4, 4], [4, 4])}
    sets: list[Sequence[int]] = [[i] for i in range(8)] + [[0, 1], range(8), [7], [1, 7]]
    got = found(addition, pairs, activations, sets)
    for i in range(2):
        ids, other = (real(rows[i], 14) for rows in (pairs.original, pairs.contrast))
        parts = [(site, [at[name][0][i]], [at[name][1][i]]) for name, _, site in (a.rpartition(":") for a in activations)]
        wanted = plain_addition.differences(
            ids, other, pairs.read[i], pairs.contrast_read[i], pairs.answers[i], [[parts[j] for j in s] for s in sets]
        )
        agree([got.original[i], got.contrast[i], *got.patched[i]], [*wanted[:2], *wanted[2]])
    assert abs(got.patched[0, 1] - got.original[0]) > 1e-2
    with pytest.raises(SettingError, match=r"pair 1 is read at position 8 and its contrast at 6.*do not correspond.*END"):
        found(addition, pairs, ["*:a0.0"], [[0]])
    with pytest.raises(SettingError, match="do not correspond"):
        found(addition, pairs, ["3:a0.0"], [[0]])


def test_every_position_beside_one_behind_the_answer(addition: iv.Study) -> None:
    """END is the fourth digit of one sum and the third of the other."""
    pairs = iv.pairs(addition, target="A4", limit=80)
    lengths = [(rows != 14).sum(1) for rows in (pairs.original, pairs.contrast)]
    assert (lengths[0] > lengths[1]).any()
    assert (lengths[0] < lengths[1]).any()
    got = found(addition, pairs, ["*:x0.pre", "END:m0"], [[0], [0, 1], []])
    agree(got.patched[:, 0], got.contrast)
    agree(got.patched[:, 2], got.original)
    assert np.abs(got.patched[:, 0] - got.original).min() > 1


# -- other checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["safetensors", "pickle"])
def perturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, addition: iv.Study) -> Path:
    """The addition model with noise on all its weights, as another tool would save it."""
    folder = Path(shutil.copytree(addition.model_path, tmp_path_factory.mktemp("noise") / request.param))
    (folder / "model.safetensors").unlink()
    model = GPT2LMHeadModel.from_pretrained(addition.model_path)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    if request.param == "pickle":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def test_another_checkpoint_by_the_command_line(
    capsys: pytest.CaptureFixture[str], addition: iv.Study, perturbed: Path
) -> None:
    activations = ["=:a0.1", "F1:x0.pre", "=:x0.mid", "S1:embed"]
    named = [part for a in activations for part in ("--at", a)]
    options = ["--cumulative", "forward", "--limit", "12", "--change", "F1,S1", "--seed", "4", "--json"]
    code, out, err = run(capsys, "patch", "addition", "--model", str(perturbed), *named, *options)
    assert (code, err) == (0, "")
    value = json.loads(out)
    loader = GPT2LMHeadModel
    if (perturbed / "pytorch_model.bin").exists():
        model = loader(loader.config_class.from_pretrained(perturbed))
        model.load_state_dict(torch.load(perturbed / "pytorch_model.bin", weights_only=True))
    else:
        model = loader.from_pretrained(perturbed, attn_implementation="eager")
    pairs = iv.pairs(addition, changes=["F1", "S1"], limit=12, seed=4)
    sets = [range(i + 1) for i in range(4)]
    original, contrast, patched = expected(addition, Plain(model), "addition", pairs, activations, sets)
    agree(value["forward"]["effect"], (original[:, None] - patched).mean(0))
    agree([value["ld_orig"], value["ld_contrast"]], [original.mean(), contrast.mean()])
    assert value["model"] == str(perturbed)
    agree_not = iv.patch(addition, activations, pairs)
    assert abs(agree_not.ld_orig.value - value["ld_orig"]) > 0.1


CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz 0123456789.", "B", "E", "P"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[iv.Study, Plain]:
    """A random Llama with two queries to a key, through the bridge and plain."""
    folder, size = tmp_path_factory.mktemp("llama"), len(CHARACTERS)
    config = LlamaConfig(
        vocab_size=size, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=48, bos_token_id=size - 3, eos_token_id=size - 2, pad_token_id=size - 1,
        attention_bias=True,
    )  # fmt: skip
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight if weight.ndim == 1 else 0))
    model.save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return iv.load(model=folder), Plain(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"))


EQUAL = [
    TextPair("ann has 3", "bob has 7", "a", "b"),
    TextPair("the cat sat", "the dog ran", "x", "y"),
    TextPair("q", "z", "1", "2"),
]
UNEQUAL = [
    TextPair("ann has 3", "bobby has 17", "a", "b"),
    TextPair("a longer text than the other", "short", "x", "y"),
    TextPair("one. two", "a. b", "1", "2", "."),
]
LLAMA_SITES = ["a0.1", "a1.3", "x0.pre", "x0.mid", "m0", "x1.pre", "x1.mid", "m1", "x1.post", "embed"]


def test_llama_with_grouped_queries(llama: tuple[iv.Study, Plain]) -> None:
    study, plain = llama
    pad = study.model.vocabulary.pad
    for chosen, names in ((EQUAL, ["END", "*", "1"]), (UNEQUAL[:2], ["END"])):
        activations = [f"{at}:{site}" for at in names for site in LLAMA_SITES]
        if "1" in names:
            activations.remove("1:embed")  # it is below
        n = len(activations)
        sets: list[Sequence[int]] = [*([i] for i in range(n)), *(range(i) for i in range(n))]
        pairs = iv.pairs(study, chosen)
        got = found(study, pairs, activations, sets)
        for i in range(len(chosen)):
            ids, other = real(pairs.original[i], pad), real(pairs.contrast[i], pad)
            assert ids == [38, *map(CHARACTERS.index, chosen[i].original), 39]
            every = range(len(ids))
            at = {"END": ([len(ids) - 2], [len(other) - 2]), "*": (every, every), "1": ([1], [1])}
            parts = [(site, *at[name]) for name, _, site in (a.rpartition(":") for a in activations)]
            wanted = plain.differences(ids, other, len(ids) - 2, len(other) - 2, pairs.answers[i],
                                       [[parts[j] for j in s] for s in sets])  # fmt: skip
            agree([got.original[i], got.contrast[i]], wanted[:2])
            agree(got.patched[i], wanted[2])
    with pytest.raises(SettingError, match="do not correspond"):
        iv.patch(study, ["*:a0.0"], UNEQUAL)


def test_llama_read_at_a_token(llama: tuple[iv.Study, Plain]) -> None:
    study, plain = llama
    result = iv.patch(study, [".:a1.0", ".:x0.post"], UNEQUAL[2:], cumulative="both")
    ids, other = study.model.encode("one. two"), study.model.encode("a. b")
    parts = [("a1.0", [4], [2]), ("x0.post", [4], [2])]
    original, contrast, patched = plain.differences(
        ids, other, 4, 2, [CHARACTERS.index("1"), CHARACTERS.index("2")], [parts[:1], parts, parts[1:]]
    )
    agree([original - p for p in patched[:2]], values(result.effects["forward"].effect))
    agree([original - p for p in (patched[2], patched[1])], values(result.effects["backward"].effect))
    agree(contrast, result.ld_contrast.value)
    assert (result.pairs, result.settings["target"]) == (1, None)


def test_llama_has_no_position_embedding(llama: tuple[iv.Study, Plain]) -> None:
    study, _ = llama
    result = iv.patch(study, ["END:pos_embed", "END:embed"], UNEQUAL[:2])
    assert abs(result.effects["single"].effect[0].value) < 1e-5
    assert abs(result.effects["single"].effect[1].value) > 1e-3


# -- what must hold ----------------------------------------------------------------------------------------------------

POOL = [
    "F1:embed", "S1:x0.pre", "F2:m0", "=:a0.0", "=:a0.1", "#8:a0.1", "=:m0", "=:x0.mid", "*:a1.0", "*:a0.2", "F3:a0.3",
    "+:x1.pre", "*:pos_embed", "A1:x0.pre", "A3:a0.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def few(addition: iv.Study) -> Pairs:
    return iv.pairs(addition, limit=40, seed=9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=6, unique=True))
def test_totals_agree_and_increments_add_up(addition: iv.Study, few: Pairs, activations: list[str]) -> None:
    result = iv.patch(addition, activations, few, cumulative="both")
    forward, backward = result.effects["forward"], result.effects["backward"]
    assert forward.effect[-1] == backward.effect[-1] == result.together
    for effects in (forward, backward):
        assert sum(values(effects.increment)) == pytest.approx(effects.effect[-1].value, abs=1e-5)
        assert effects.increment[0].value == pytest.approx(effects.effect[0].value, abs=1e-9)
        for mean in (*effects.effect, *effects.increment):
            assert mean.low - 1e-6 <= mean.value <= mean.high + 1e-6
    alone = iv.patch(addition, activations, few)
    assert alone.together == result.together
    assert values(alone.effects["single"].effect)[0] == values(forward.effect)[0]
    assert values(alone.effects["single"].effect)[-1] == values(backward.effect)[0]
    assert result.total == result.ld_orig.value - result.ld_contrast.value


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_a_set_has_no_order_and_nothing_changes_nothing(
    addition: iv.Study, few: Pairs, activations: list[str], random: Any
) -> None:
    members = list(range(len(activations)))
    shuffled = random.sample(activations, len(activations))
    a, b = found(addition, few, activations, [members, []]), found(addition, few, shuffled, [members])
    agree(a.patched[:, 0], b.patched[:, 0])
    assert (a.patched[:, 1] == a.original).all()
    agree(a.original, found(addition, few, ["=:a0.0"], []).original)  # cut in other pieces


EVERYTHING = [
    ["*:x0.pre"],
    ["*:x0.post"],
    ["*:embed", "*:pos_embed"],
    ["*:x0.pre", "*:a*.*", "*:m*"],
]


@pytest.mark.parametrize("activations", EVERYTHING)
@pytest.mark.parametrize("name", ["addition", "counting"])
def test_everything_patched_is_the_contrast_run(request: pytest.FixtureRequest, name: str, activations: list[str]) -> None:
    study = request.getfixturevalue(name)
    pairs = iv.pairs(study, limit=60)
    every = [a for text in activations for a in map(str, parse_activations([text], study.model.sites))]
    got = found(study, pairs, every, [range(len(every))])
    agree(got.patched[:, 0], got.contrast)
    assert np.abs(got.contrast - got.original).min() > 0.5
    result = iv.patch(study, activations, pairs)
    assert result.together.value == pytest.approx(result.total, rel=1e-4)


def test_everything_patched_in_a_llama(llama: tuple[iv.Study, Plain]) -> None:
    study, _ = llama
    pairs = iv.pairs(study, EQUAL)
    for activations in EVERYTHING:
        result = iv.patch(study, activations, pairs)
        assert result.together.value == pytest.approx(result.total, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("counting", ["END:x0.pre", "END:a0.0", "END:m1", "END:x1.post", "END:embed"]),
        ("addition", ["A1:x0.pre", "A3:x0.pre", "A3:a1.0", "A2:m0", "10:x0.mid", "END:pos_embed", "A3:embed"]),
    ],
)
def test_behind_the_answer_nothing_has_an_effect(request: pytest.FixtureRequest, name: str, behind: list[str]) -> None:
    study = request.getfixturevalue(name)
    result = iv.patch(study, behind, limit=50)
    for mean in (*result.effects["single"].effect, result.together):
        assert (mean.value, mean.low, mean.high) == (0, 0, 0), result.effects["single"]
    last = "query" if name == "counting" else "="
    assert abs(iv.patch(study, [f"{last}:x0.post", *behind], limit=50).together.value) > 0.1


def test_one_position_under_two_names(addition: iv.Study, few: Pairs) -> None:
    got = found(addition, few, ["*:a0.1", "=:a0.1", "#8:a0.1", "-1:x0.pre"], [[0], [0, 1], [0, 1, 2], [1], [1, 2], [2]])
    agree(got.patched[:, 1], got.patched[:, 0])
    agree(got.patched[:, 2], got.patched[:, 0])
    agree(got.patched[:, 4], got.patched[:, 3])
    agree(got.patched[:, 5], got.patched[:, 3])
    assert np.abs(got.patched[:, 0] - got.patched[:, 3]).max() > 0.1


def _taken(pairs: Pairs, rows: Any) -> Pairs:
    parts = ("original", "contrast", "read", "contrast_read", "answers")
    return replace(pairs, **{name: getattr(pairs, name)[rows] for name in parts})


@pytest.mark.parametrize(("name", "at"), [("counting", "::a1.0"), ("counting", "*:a0.0"), ("addition", "F1:m0")])
def test_neither_order_nor_batches_matter(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str, at: str
) -> None:
    study = request.getfixturevalue(name)
    pairs = iv.pairs(study, limit=200)
    got = found(study, pairs, [at], [[0]])
    order = np.random.default_rng(0).permutation(len(pairs))
    other = found(study, _taken(pairs, order), [at], [[0]])
    agree(other.patched, got.patched[order])
    assert (other.right == got.right[order]).all()
    monkeypatch.setattr("inversionview.intervene.patched_runs.tokens_per_pass", lambda device: 20)
    small = found(study, pairs, [at], [[0]])
    for part in ("original", "contrast", "patched"):
        agree(getattr(small, part), getattr(got, part))
    agree(found(study, _taken(pairs, slice(3, 4)), [at], [[0]]).patched, got.patched[3:4])


def test_logits_are_computed_where_they_are_read_alone(counting: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large vocabulary, those of whole inputs take gigabytes."""
    asked, extend = [], type(counting.model).extend

    def spied(self: Any, tokens: Any, *args: Any, **options: Any) -> Any:
        if options.get("logits", True):
            asked.append(tokens.size(1))
        return extend(self, tokens, *args, **options)

    monkeypatch.setattr(type(counting.model), "extend", spied)
    iv.patch(counting, ["::a1.0", "::x0.pre"], limit=50)
    assert set(asked) == {1}


def test_a_wrong_model_is_told_by_its_accuracy(addition: iv.Study) -> None:
    pairs = iv.pairs(addition, limit=50)
    false = replace(pairs, answers=pairs.answers[:, ::-1].copy())
    right, wrong = iv.patch(addition, ["=:a0.0"], pairs), iv.patch(addition, ["=:a0.0"], false)
    assert right.accuracy > 0.9
    assert wrong.accuracy == 0
    assert wrong.ld_orig.value == pytest.approx(-right.ld_orig.value)
    assert wrong.ld_orig.low == pytest.approx(-right.ld_orig.high, abs=0.2)


def test_the_same_seed_gives_the_same_result(addition: iv.Study) -> None:
    one, two, other = (iv.patch(addition, ["=:a0.0"], limit=30, seed=seed).to_json() for seed in (1, 1, 2))
    assert one == two
    assert one["single"] != other["single"]


def test_the_default_is_all_heads_where_the_answer_is_told(addition: iv.Study, counting: iv.Study) -> None:
    heads = [f"a{layer}.{head}" for layer in (0, 1) for head in range(4)]
    for target, at in {"A1": "=", "A2": "A1", "A3": "A2", "A4": "A3"}.items():
        assert iv.patch(addition, target=target, limit=10).activations == tuple(f"{at}:{head}" for head in heads)
    assert iv.patch(counting, limit=10).activations == ("::a0.0", "::a1.0")
    assert iv.patch(addition, contrast=[TextPair("615+861=1", "615+161=7", "4", "7")]).activations[0] in ("A1:a0.0", "END:a0.0")


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [300, 1999, 2001, 3500, 10_000])
def test_intervals_are_as_wide_as_a_naive_bootstraps(count: int) -> None:
    x = np.random.default_rng(count).exponential(size=count)
    widths = []
    for seed in range(8):
        mean = information.mean(x, seed=seed)
        assert mean.value == pytest.approx(x.mean())
        assert mean.low < mean.value < mean.high
        widths.append(mean.high - mean.low)
    rng = np.random.default_rng(0)
    naive = np.array([x[rng.integers(count, size=count)].mean() for _ in range(4000)])
    low, high = np.quantile(naive, [0.025, 0.975])
    assert np.mean(widths) == pytest.approx(high - low, rel=0.04)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * x.std() / count**0.5, rel=0.05)


def test_columns_are_drawn_together() -> None:
    """The interval of a difference is that of the differences of the same rows."""
    for count in (500, 4321):
        x = np.random.default_rng(1).normal(size=count)
        drawn = information.resampled(np.column_stack([x, x + 1, -x]), seed=3)
        assert drawn[:, 1] - drawn[:, 0] == pytest.approx(1)
        assert drawn[:, 2] == pytest.approx(-drawn[:, 0])
        assert (drawn == information.resampled(np.column_stack([x, x + 1, -x]), seed=3)).all()


def test_the_intervals_of_patching_are_those_of_the_pairs(addition: iv.Study) -> None:
    activations = ["=:a0.0", "=:a0.3"]
    pairs = iv.pairs(addition, limit=400)
    got = found(addition, pairs, activations, [[0], [0, 1], [1]])
    result = iv.patch(addition, activations, pairs, cumulative="both")
    effect = got.original[:, None].astype(float) - got.patched
    rng = np.random.default_rng(5)
    rows = rng.integers(400, size=(4000, 400))
    forward, backward = result.effects["forward"], result.effects["backward"]
    for mean, values_ in [
        (forward.effect[0], effect[:, 0]), (forward.effect[1], effect[:, 1]), (backward.effect[0], effect[:, 2]),
        (forward.increment[1], effect[:, 1] - effect[:, 0]), (backward.increment[1], effect[:, 1] - effect[:, 2]),
        (result.ld_orig, got.original), (result.ld_contrast, got.contrast),
    ]:  # fmt: skip
        low, high = np.quantile(values_[rows].mean(1), [0.025, 0.975])
        assert mean.value == pytest.approx(values_.mean(dtype=float), abs=1e-5)
        assert mean.low == pytest.approx(low, abs=0.1 * (high - low))
        assert mean.high == pytest.approx(high, abs=0.1 * (high - low))


# -- the command line --------------------------------------------------------------------------------------------------


def test_json_of_addition(capsys: pytest.CaptureFixture[str], addition: iv.Study) -> None:
    code, out, err = run(capsys, "patch", "addition", "--target", "A1", "--change", "F1,S1", "--position", "=", "--cumulative",
                         "both", "--limit", "300", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    value = json.loads(out)
    heads = [f"=:a{layer}.{head}" for layer in (0, 1) for head in range(4)]
    assert value["activations"] == heads
    assert value["pairs"] + value["left_out"] == 300
    for direction, order in (("forward", heads), ("backward", heads[::-1])):
        part = value[direction]
        assert part["activations"] == order
        assert {"effect", "low", "high"} <= set(part)
        assert all(len(part[key]) == 8 for key in ("effect", "low", "high", "increment"))
        assert all(low <= effect <= high for low, effect, high in zip(part["low"], part["effect"], part["high"], strict=True))
    assert value["ld_orig"] > 5
    assert not {"single"} & set(value)
    same = iv.patch(addition, [f"=:a{i}.{j}" for i in (0, 1) for j in range(4)], target="A1", changes=["F1", "S1"], limit=300,
                          cumulative="both")  # fmt: skip
    assert value == json.loads(json.dumps(same.to_json()))
    assert value["target"] == "A1"
    assert value["changes"] == ["F1", "S1"]
    # the paper's heads, Fig. 16: layer 0 reads the digits of the hundreds for A1
    forward = dict(zip(value["forward"]["activations"], np.diff(value["forward"]["effect"], prepend=0), strict=True))
    assert value["forward"]["effect"][-1] > 0.5 * (value["ld_orig"] - value["ld_contrast"]), forward


def test_json_of_counting(capsys: pytest.CaptureFixture[str], counting: iv.Study) -> None:
    named = ["query:a0.0", "query:x0.pre", "::a0.0", "::a1.0"]
    code, out, _ = run(capsys, "patch", "counting", *[part for a in named for part in ("--at", a)], "--cumulative", "both",
                       "--limit", "300", "--json")  # fmt: skip
    value = json.loads(out)
    assert code == 0
    assert value["activations"] == value["forward"]["activations"] == value["backward"]["activations"][::-1] == named
    same = iv.patch(counting, named, limit=300, cumulative="both")
    for direction in ("forward", "backward"):
        assert value[direction]["effect"] == values(same.effects[direction].effect)  # type: ignore[index]
        assert value[direction]["low"] == [m.low for m in same.effects[direction].effect]  # type: ignore[index]
    assert value["pairs"] == same.pairs
    assert value["forward"]["effect"][-1] == pytest.approx(value["ld_orig"] - value["ld_contrast"], rel=0.1)


def test_pairs_by_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, llama: tuple[iv.Study, Plain]) -> None:
    study, _ = llama
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(vars(pair)) for pair in EQUAL))
    code, out, err = run(capsys, "patch", "--model", study.name, "--pairs", str(path), "--at", "END:a1.*", "--cumulative",
                         "backward", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    value = json.loads(out)
    wanted = iv.patch(study, ["END:a1.*"], EQUAL, cumulative="backward").to_json()
    assert value == json.loads(json.dumps(wanted))
    assert "forward" not in value
    assert value["backward"]["activations"] == [f"END:a1.{h}" for h in (3, 2, 1, 0)]


@pytest.fixture(scope="module")
def result(addition: iv.Study) -> Patching:
    return iv.patch(addition, ["=:a0.0", "F1:embed", "*:m0"], limit=40, cumulative="both")


def test_files_by_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / f"patch.{kind}" for kind in ("csv", "parquet", "png", "svg", "html")]
    named = [part for file in files for part in ("--out", str(file))]
    code, out, _ = run(capsys, "patch", "addition", "--at", "=:a0.*", "--cumulative", "both", "--limit", "40", "--json", *named)
    assert code == 0
    value = json.loads(out)
    rows = list(csv.DictReader(files[0].open(encoding="utf-8")))
    assert len(rows) == 8
    for direction in ("forward", "backward"):
        mine = [row for row in rows if row["direction"] == direction]
        assert [row["activation"] for row in mine] == [f"'{name}" for name in value[direction]["activations"]]  # no formulas
        assert [int(row["step"]) for row in mine] == [1, 2, 3, 4]
        for key in ("effect", "low", "high", "increment", "increment_low", "increment_high", "ld_patched"):
            assert [float(row[key]) for row in mine] == pytest.approx(value[direction][key], rel=1e-12, abs=1e-12), key
        agree([value["ld_orig"] - e for e in value[direction]["effect"]], value[direction]["ld_patched"])
    import pandas
    from PIL import Image

    table = pandas.read_parquet(files[1])
    plain = pandas.read_csv(files[0]).assign(activation=lambda read: read["activation"].str.removeprefix("'"))
    assert table.equals(plain.astype(table.dtypes))
    with Image.open(files[2]) as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(10**6) or range(100)) > 10
    assert files[3].read_text().rstrip().endswith("</svg>")
    page = files[4].read_text(encoding="utf-8")
    assert len(page) > 10**6
    assert "plotly.js v" in page
    assert '<script src="http' not in page
    assert "=:a0.0" in page
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("cumulative", [None, "forward"])
def test_single_files(addition: iv.Study, tmp_path: Path, cumulative: Any) -> None:
    single = iv.patch(addition, ["=:a0.0", "=:a0.1"], limit=10, cumulative=cumulative)
    for kind in ("csv", "png", "svg", "html"):
        single.save(tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").stat().st_size > 100
    with pytest.raises(SettingError, match="pdf"):
        single.save(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["[/b]", "[red]x", "<b>x</b>", "$x$", "a & b"])
def test_token_text_is_no_markup(result: Patching, tmp_path: Path, name: str) -> None:
    """Neither the terminal's, nor a page's, nor a figure's."""
    changed = {
        direction: replace(effects, activations=tuple(f"{name}:{a}" for a in effects.activations))
        for direction, effects in result.effects.items()
    }
    odd = replace(
        result, study=name, activations=tuple(f"{name}:{a}" for a in result.activations), effects=changed,
        settings={"where": [f"F1<{name}"]},
    )  # fmt: skip
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(odd)
    text = console.export_text()
    assert f"{name}:=:a0.0" in text
    assert f"F1<{name}" in text
    odd.save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<b>x</b>" not in page
    assert r"\u003cb\u003ex" not in page, "plotly reads tags in labels, too"
    odd.save(tmp_path / "a.svg")


def test_what_the_terminal_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "patch", "addition", "--at", "=:a0.0", "--change", "F1,S1", "--where", "A1=1", "--limit", "30",
                       "--target", "A2")  # fmt: skip
    assert code == 0
    words = " ".join(out.split())
    for said in ("addition, A2 by F1, S1 changed, A1=1: 30 pairs", "=:a0.0", "LD patched", "All at once", "bootstrap"):
        assert said in words, said


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("addition", "--at", "=:a9.9"), "no site 'a9.9'"),
        (("addition", "--at", "=:z"), "no site 'z'"),
        (("addition", "--at", "Q:a0.0"), "no single position 'Q'"),
        (("addition", "--at", "40:a0.0"), "no single position '40'"),
        (("counting", "--at", "v:a0.0"), "no single position 'v'"),
        (("addition", "--at", "A4:a0.0"), "no single position 'A4'"),
        (("addition", "--at", "a0.0"), "'a0.0' names no activation: write POSITION:SITE"),
        (("addition", "--at", ":a0.0"), "names no activation"),
        (("addition", "--at", "=:"), "names no activation"),
        (("addition", "--at", ""), "--at is empty"),
        (("addition", "--at", "=:a0.0", "--at", "=:a0.0"), "=:a0.0 is named twice"),
        (("addition", "--at", "=:a0.*", "--at", "=:a0.2"), "=:a0.2 is named twice"),
        (("addition", "--at", "=:a0.0", "--position", "="), "give one of them"),
        (("addition", "--position", "Q"), "no single position 'Q'"),
        (("addition", "--where", "A1=12"), "satisfies A1=12"),
        (("addition", "--where", "A9=1"), "no feature 'A9'"),
        (("addition", "--where", "A1"), "not a filter"),
        (("addition", "--where", "A1=1"), "does not alter A1 where A1=1"),
        (("addition", "--change", "F3", "--where", "F2+S2<9"), "Changing F3 does not alter A1"),
        (("addition", "--change", "G1"), "'G1' cannot be changed"),
        (("addition", "--change", ""), "--change is empty"),
        (("counting", "--change", ","), "names nothing"),
        (("counting", "--where", "length=3"), "does not alter count"),
        (("addition", "--target", "A7"), "no target 'A7'"),
        (("counting", "--target", "A1"), "no target 'A1'; there are count"),
        (("addition", "--cumulative", "sideways"), "no direction 'sideways': choose forward, backward or both"),
        (("addition", "--limit", "0"), "at least 1"),
        (("addition", "--limit", "few"), "--limit"),
        (("addition", "--seed", "-1"), "seed must not be negative"),
        (("addition", "--out", "x.pdf"), "x.pdf cannot be written"),
        (("addition", "--out", "x"), "name a file that ends in"),
        (("adition",), "Did you mean 'addition'"),
        ((), "Name a study"),
        (("addition", "--model", "/no/such"), "no model at /no/such"),
        (("addition", "--pairs", "none.jsonl"), "none.jsonl cannot be read"),
        (("addition", "--pairs", "good.jsonl", "--target", "A1"), "leave them out with --pairs"),
        (("addition", "--pairs", "good.jsonl", "--change", "F1"), "leave them out with --pairs"),
        (("addition", "--pairs", "good.jsonl", "--where", "A1=1"), "leave them out with --pairs"),
        (("addition", "--pairs", "good.jsonl", "--limit", "3"), "leave them out with --pairs"),
        (("addition", "--pairs", "good.jsonl", "--at", "*:a0.0"), "do not correspond"),
        (("addition", "--pairs", "good.jsonl", "--at", "4:a0.0"), "do not correspond"),
        (("addition", "--pairs", "good.jsonl", "--at", "F9:a0.0"), "no single position 'F9'"),
        (("addition", "--pairs", "good.jsonl", "--at", "A1:a0.0"), "no single position 'A1'"),
        (("addition", "--pairs", "empty.jsonl"), "There is no pair"),
        (("addition", "--pairs", "bad.jsonl"), "bad.jsonl, line 2 is not JSON"),
        (("addition", "--pairs", "long.jsonl"), "long.jsonl, line 1: The answer '14' is 2 tokens"),
        (("addition", "--pairs", "same.jsonl"), "same.jsonl, line 1: original and contrast have the same answer '1'"),
        (("addition", "--pairs", "."), "cannot be read"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = '{"original": "615+861=", "contrast": "12+3=", "answer": "1", "contrast_answer": "5"}\n'
    (tmp_path / "good.jsonl").write_text(line)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text(line + "{")
    (tmp_path / "long.jsonl").write_text(line.replace('"1"', '"14"'))
    (tmp_path / "same.jsonl").write_text(line.replace('"5"', '"1"'))
    slow = any(a in ("--where", "--change", "--pairs", "--limit") for a in arguments)
    bad(capsys, "patch", *arguments, *([] if slow else ["--limit", "40"]), says=says)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.jsonl" for n in ("bad", "empty", "good", "long", "same")]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: iv.patch(s, ["=:a9.0"]), UnknownSiteError),
        (lambda s: iv.patch(s, ["Q:a0.0"], limit=5), UnknownPositionError),
        (lambda s: iv.patch(s, ["=:a0.0"], cumulative="up"), SettingError),
        (lambda s: iv.patch(s, ["=:a0.0"], []), InversionViewError),
        (lambda s: iv.patch(s, ["=:a0.0"], _taken(iv.pairs(s, limit=3), slice(0))), SettingError),
        (lambda s: iv.patch(s, ["=:a0.0"], iv.pairs(s, limit=3), seed=-1), SettingError),
        (lambda s: iv.patch(s, ["=:a0.0"], limit=-1), SettingError),
    ],
)
def test_mistakes_in_the_library(addition: iv.Study, call: Callable[[iv.Study], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(addition)


def test_a_model_alone_needs_pairs(llama: tuple[iv.Study, Plain]) -> None:
    with pytest.raises(InversionViewError, match="model without a corpus"):
        iv.patch(llama[0], ["END:a0.0"])


def test_steps() -> None:
    assert steps(3, None) == {"single": [(0,), (1,), (2,)]}
    assert steps(3, "both") == {"forward": [(0,), (0, 1), (0, 1, 2)], "backward": [(2,), (1, 2), (0, 1, 2)]}
    assert list(steps(2, "backward")) == ["backward"]


def test_progress_is_told(addition: iv.Study) -> None:
    shares: list[float] = []
    iv.patch(addition, ["=:a0.0"], limit=20, report=lambda share, note: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_backend_is_the_quick_one(addition: iv.Study, llama: tuple[iv.Study, Plain]) -> None:
    """What is compared above are two implementations: GPT-2's own and the bridge's."""
    assert isinstance(addition.model.backend, GPT2Backend)
    assert not isinstance(llama[0].model.backend, GPT2Backend)
