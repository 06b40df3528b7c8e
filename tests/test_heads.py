"""The heads of a circuit: measures against brute force on small random models, criteria on made-up values, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import inversionview as iv
from inversionview.analyses.heads.head_measures import (
    KEYS,
    POSITIONS,
    Prompts,
    attention,
    copy_scores,
    direct_effects,
    estimated_effects,
    heads_of,
    patched_effects,
    repetition,
)
from inversionview.analyses.heads.known import published_heads, read_heads
from inversionview.analyses.heads.measure import find_heads, group_of
from inversionview.analyses.heads.result import FOUND, GROUPS, NONE, HeadMeasures, HeadTable
from inversionview.analyses.heads.verb import _heads_path
from inversionview.core.errors import InputError, SettingError
from inversionview.core.information import Mean
from inversionview.corpora.contrasts import held_out
from inversionview.intervene import patched_runs
from inversionview.model.backend import Patch, Shape
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site
from inversionview.runs.train import Reading, train_study
from inversionview.studies.ioi.definition import PUBLISHED
from inversionview.studies.shipped import shipped_path
from tests.test_cli import run
from tests.test_ioi import vocabulary

SEEN = Mean(0.5, 0.4, 0.6)
UNSEEN = Mean(0.01, -0.1, 0.12)


def saved(kind: str, folder: Path) -> Path:
    """A model of two layers with random weights, large enough that heads do something."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = vocabulary()
    torch.manual_seed(3)
    ends = {"bos_token_id": words.bos, "eos_token_id": words.eos}
    model: Any = (
        GPT2LMHeadModel(GPT2Config(vocab_size=words.size, n_embd=36, n_layer=2, n_head=3, n_positions=64, **ends))
        if kind == "gpt2"
        else LlamaForCausalLM(
            LlamaConfig(vocab_size=words.size, hidden_size=36, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=64, **ends)
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(6)
            elif kind == "gpt2":
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words.tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    return iv.load("ioi", model=saved(request.param, tmp_path_factory.mktemp("heads") / request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("heads-cli") / "llama")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def prompts(study: iv.Study, count: int = 12) -> Prompts:
    return Prompts.of(study.inputs, held_out(study.inputs, (), count, 0))


def difference(study: iv.Study, some: Prompts, patches: dict[Site, Patch] | None = None) -> Tensor:
    logits, each = study.model.logits(torch.from_numpy(some.tokens), patches), torch.arange(len(some))
    names = torch.from_numpy(some.names)
    at_end = logits[each, torch.from_numpy(some.at["END"])]
    return at_end.gather(1, names[:, :1])[:, 0] - at_end.gather(1, names[:, 1:])[:, 0]


# -- what the backends give -------------------------------------------------------------------------------------------


def test_patterns_of_all_layers_are_those_of_each(study: iv.Study) -> None:
    some = prompts(study)
    tokens, at = torch.from_numpy(some.tokens), torch.from_numpy(some.positions)
    found = study.model.patterns(tokens, at)
    for layer in range(2):
        expected = study.model.attention(tokens, layer)[torch.arange(len(some))[:, None], :, at].transpose(1, 2)
        torch.testing.assert_close(found[layer], expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_a_head_writes_of_one_token_is_its_ov(study: iv.Study, layer: int) -> None:
    """By definition: a sequence of that token alone, whose residual stream is put there."""
    x = torch.randn(5, 36, generator=torch.manual_seed(0))
    written = study.model.attended(layer, x)
    first = torch.zeros(5, 1, dtype=torch.long)
    total = written.sum(0)
    after = study.model.backend.extend(
        first, None, Site(layer, "mid"), logits=False, patches={Site(layer, "pre"): Patch(first, x[:, None])}
    )
    assert after.activations is not None
    bias = after.activations[:, 0] - x - total
    torch.testing.assert_close(bias, bias[:1].expand_as(bias), atol=1e-4, rtol=1e-4)  # of W_O alone: it knows nothing of x
    if "llama" in study.model.name:
        assert bias.abs().max() < 1e-4


def test_the_gradient_at_a_head_is_the_slope_of_patching_it(study: iv.Study) -> None:
    some = prompts(study, 4)
    tokens, names = torch.from_numpy(some.tokens), torch.from_numpy(some.names)
    each, end = torch.arange(len(some)), torch.from_numpy(some.at["END"])
    taps = [Tap(layer, "attn_out") for layer in range(len(study.model.shape.heads))]
    gradient = study.model.gradients(
        tokens, taps, lambda logits: logits[each, end, names[:, 0]] - logits[each, end, names[:, 1]]
    )
    generator = torch.manual_seed(1)
    for head in heads_of(study.model):
        for name in POSITIONS:
            at = torch.from_numpy(some.at[name])[:, None]
            z = study.model.activations(tokens, [head], at)[0]
            step = torch.randn(z.shape, generator=generator) * 2e-3 * z.norm() / len(some)
            slope = difference(study, some, {head: Patch(at, z + step)}) - difference(study, some, {head: Patch(at, z - step)})
            expected = 2 * (gradient[head.layer][each, at[:, 0]] * step[:, 0]).sum(-1)
            torch.testing.assert_close(slope, expected, rtol=0.05, atol=3e-4)


def test_a_patch_of_some_rows_leaves_the_others(study: iv.Study) -> None:
    some, site = prompts(study, 6), Site(1, "head", 1)
    tokens = torch.from_numpy(some.tokens)
    rows, at = torch.tensor([4, 1, 4]), torch.tensor([[3], [5], [6]])
    values = torch.randn(3, 1, 36, generator=torch.manual_seed(2))
    found = study.model.logits(tokens, {site: Patch(at, values, rows)})
    both = study.model.logits(tokens[[4]], {site: Patch(torch.tensor([[3, 6]]), torch.cat([values[[0]], values[[2]]], 1))})
    one = study.model.logits(tokens[[1]], {site: Patch(at[[1]], values[[1]])})
    torch.testing.assert_close(found[[4, 1]], torch.cat([both, one]), atol=1e-4, rtol=1e-4)
    others = [0, 2, 3, 5]
    torch.testing.assert_close(found[others], study.model.logits(tokens)[others], atol=1e-4, rtol=1e-4)


# -- measures ---------------------------------------------------------------------------------------------------------


def test_direct_effects_are_what_the_frozen_norm_loses_without_the_head(study: iv.Study) -> None:
    some = prompts(study)
    found = direct_effects(study.model, some)
    np.testing.assert_allclose(found.ld, difference(study, some), atol=1e-4)
    x = study.model.harvest(some.tokens, [Site(1, "post")], some.at["END"][:, None])[0, :, 0]
    z = study.model.harvest(some.tokens, heads_of(study.model), some.at["END"][:, None])[:, :, 0]
    norm, names = study.model.backend.final_norm, torch.from_numpy(some.names)

    def without(head: Tensor, part: float) -> Tensor:
        """LD by the model's own norm, of x without a small part of a head: what the scale does is of the same order, so it
        is put back by the ratio of the deviations."""
        moved = x - part * head
        centred = (lambda v: v - v.mean(-1, keepdim=True)) if "gpt2" in study.model.name else (lambda v: v)
        ratio = centred(moved).norm(dim=-1, keepdim=True) / centred(x).norm(dim=-1, keepdim=True)
        bias = norm(torch.zeros_like(x))
        logits = study.model.backend.unembed((norm(moved) - bias) * ratio + bias)
        return logits.gather(1, names[:, :1])[:, 0] - logits.gather(1, names[:, 1:])[:, 0]

    for i, head in enumerate(z):
        np.testing.assert_allclose(found.effect[:, i], without(head, 0) - without(head, 1), atol=2e-3, rtol=1e-3)


def test_first_of_the_names(study: iv.Study) -> None:
    some = prompts(study, 40)
    found = direct_effects(study.model, some)
    logits = study.model.logits(torch.from_numpy(some.tokens))
    for i in range(len(some)):
        own = {int(name): float(logits[i, some.at["END"][i], name]) for name in np.unique(some.names)}
        assert found.first[i] == (max(own, key=lambda name: own[name]) == some.names[i, 0])


def test_attention_is_the_mean_over_prompts(study: iv.Study) -> None:
    some = prompts(study, 30)
    found = attention(study.model, some)
    assert found.shape == (6, len(POSITIONS), len(KEYS))
    for layer in range(2):
        pattern = study.model.attention(torch.from_numpy(some.tokens), layer).numpy()
        for q, query in enumerate(POSITIONS):
            for k, key in enumerate(KEYS):
                each = [pattern[i, :, some.at[query][i], some.at[key][i]] for i in range(len(some))]
                np.testing.assert_allclose(found[3 * layer : 3 * layer + 3, q, k], np.mean(each, axis=0), atol=1e-5)


@pytest.mark.parametrize("bos", [7, None])
@pytest.mark.parametrize(("kind", "back"), [(0, lambda n: 1), (1, lambda n: n), (2, lambda n: n - 1)])
def test_repetition_scores_of_hand_built_patterns(bos: int | None, kind: int, back: Any) -> None:
    """A head that attends to one place alone has a score of 1 for that, and of 0 for the others."""

    def patterns(tokens: Tensor, positions: Tensor) -> Tensor:
        half = (tokens.size(1) - (bos is not None)) // 2
        start = tokens.size(1) - 2 * half
        assert (tokens[:, start : start + half] == tokens[:, start + half :]).all()
        assert positions.min() > start + half
        return (
            torch.nn.functional.one_hot(positions - back(half), tokens.size(1)).float()[None, :, None].expand(1, -1, 1, -1, -1)
        )

    words = SimpleNamespace(bos=bos, eos=8, pad=9, size=500)
    model: Any = SimpleNamespace(patterns=patterns, device="cpu", vocabulary=words, shape=Shape((1,), 4, 500, 100))
    assert repetition(model, seed=0).tolist() == [[float(kind == j) for j in range(3)]]


def test_a_copying_matrix_copies_and_its_negative_suppresses(study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that writes the row of W_U of the token it sees promotes it first of all, or the other way round."""
    some, model = prompts(study, 30), study.model
    names = np.unique(some.names)
    w_u = model.backend.unembed(torch.eye(36)) - model.backend.unembed(torch.zeros(1, 36))
    direction = torch.nn.functional.normalize(w_u.T[names], dim=-1)
    gain = model.backend.final_norm(torch.eye(36)).diagonal()
    written = {0: direction / gain.abs().clamp(min=1e-3) * gain.sign(), 1: None, 2: torch.randn_like(direction)}
    written[1] = -written[0]
    monkeypatch.setattr(model, "attended", lambda layer, x: torch.stack([written[h] for h in range(3)]))
    found = copy_scores(model, some, [Site(0, "head", h) for h in range(3)], lambda share: None)
    assert found[0, 0] > 0.9
    assert found[1, 1] > 0.9
    np.testing.assert_array_equal(found[0], found[1][::-1])
    assert found[2].max() < 0.3


def test_copy_scores_by_brute_force(study: iv.Study) -> None:
    some, model = prompts(study, 20), study.model
    heads, names = heads_of(model), np.unique(some.names)
    found = copy_scores(model, some, heads, lambda share: None)
    bias, empty = model.backend.unembed(torch.zeros(1, 36)), model.backend.final_norm(torch.zeros(1, 36))
    for i, head in enumerate(heads):
        hits = np.zeros(2)
        for name in names:
            row, column = next((r, c) for r, c in np.argwhere(some.tokens == name)
                               if c in (some.at["IO"][r], some.at["S1"][r]))  # fmt: skip
            x = model.activations(torch.from_numpy(some.tokens[[row]]), [Site(0, "post")], torch.tensor([[column]]))[0, 0]
            v = model.attended(head.layer, x)[head.head]
            logits = (model.backend.unembed(model.backend.final_norm(1000 * v) - empty) - bias)[0]  # a norm forgets lengths
            hits += [int(name) in logits.topk(5).indices, int(name) in (-logits).topk(5).indices]
        np.testing.assert_allclose(found[i], hits / len(names), atol=1.5 / len(names))


def test_patching_effects_are_those_of_the_study(study: iv.Study) -> None:
    some, heads = prompts(study, 20), heads_of(study.model)
    pairs = some.pairs(study.inputs)
    assert (pairs.answers[:, 0] != pairs.answers[:, 1]).all()
    assert ((pairs.original != pairs.contrast).sum(1) == 1).all()
    for at in POSITIONS:
        effects, (original, contrast) = patched_effects(study.model, pairs, at, heads, study.positions, 5, lambda share: None)
        result = iv.patch(study, [f"{at}:a*.*"], pairs, seed=5)
        np.testing.assert_allclose([m.value for m in effects], [m.value for m in result.effects["single"].effect], atol=1e-6)
        assert original == pytest.approx(result.ld_orig.value, abs=1e-5)
        assert contrast == pytest.approx(result.ld_contrast.value, abs=1e-5)


def test_many_sets_in_one_run_are_those_one_by_one(study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = prompts(study, 20).pairs(study.inputs)
    places = ["S2:a0.0", "END:a1.2", "S2:x1.pre", "END:a0.0", "S1+1:m0", "S2:embed"]
    alone = iv.patch(study, places, pairs, cumulative="both")
    monkeypatch.setattr(patched_runs, "_SMALL", 0)
    together = iv.patch(study, places, pairs, cumulative="both")
    assert alone.effects["forward"].effect[-1].value != 0
    for direction, effects in alone.effects.items():
        for one, other in zip(effects.effect, together.effects[direction].effect, strict=True):
            assert one.value == pytest.approx(other.value, abs=2e-4)


def test_estimates_are_the_slopes_of_patching(study: iv.Study) -> None:
    """Of LD along the way to the contrast's activation: half of the slope here plus half of that of the contrast's own run."""
    some = prompts(study, 6)
    found, slopes = estimated_effects(study.model, some, lambda share: None), np.zeros((6, 3))
    turned = Prompts(some.contrasts, {**some.at, "IO": some.at["S1"], "S1": some.at["IO"], "S1+1": some.at["IO"] + 1})
    assert all((study.inputs.named_positions(turned.tokens)[name] == at).all() for name, at in turned.at.items())
    for i, head in enumerate(heads_of(study.model)):
        for j, at in enumerate(POSITIONS):
            z, other = (study.model.harvest(p.tokens, [head], p.at[at][:, None])[0] for p in (some, turned))
            for own, here, sign in ((some, z, 1), (turned, other, -1)):
                place, step = torch.from_numpy(own.at[at])[:, None], 0.02 * (other - z)
                rise = [difference(study, own, {head: Patch(place, here + s * step)}) for s in (1, -1)]
                slopes[i, j] -= sign * float((rise[0] - rise[1]).mean()) / 0.04 / 2
    np.testing.assert_allclose(found, slopes, atol=0.02, rtol=0.05)


# -- criteria ---------------------------------------------------------------------------------------------------------


def grouped(
    looks: dict[str, float], direct: Mean, at: str, effect: Mean, copy: tuple[float, float] | None = None, **scores: float
) -> str:
    every = {f"{query}→{key}": 0.02 for query in POSITIONS for key in KEYS} | looks
    return group_of(every, direct, {at: effect}, copy, {"previous": 0.0, "duplicate": 0.0, "induction": 0.0} | scores)


def test_groups_by_their_criteria() -> None:
    """Wang et al. 2022, section 3: what a head of each group looks at, copies and does."""
    io, subject, negative = {"END→IO": 0.6}, {"END→S2": 0.6}, Mean(-0.5, -0.6, -0.4)
    assert grouped(io, SEEN, "END", SEEN, (0.98, 0.0)) == "name mover"
    assert grouped(io, negative, "END", negative, (0.0, 0.98)) == "negative name mover"
    assert grouped(subject, SEEN, "END", SEEN, (0.0, 0.98)) == "copy suppression"
    assert grouped(subject, UNSEEN, "END", SEEN, (0.0, 0.0)) == "S-inhibition"
    assert grouped({"S2→S1+1": 0.7}, UNSEEN, "S2", SEEN, induction=0.8) == "induction"
    assert grouped({"S2→S1": 0.7}, UNSEEN, "S2", SEEN, duplicate=0.8) == "duplicate token"
    assert grouped({"S1+1→S1": 0.7}, UNSEEN, "S1+1", SEEN, previous=0.8) == "previous token"


def test_no_group_without_all_of_its_criteria() -> None:
    io, subject = {"END→IO": 0.6}, {"END→S2": 0.6}
    assert grouped(io, SEEN, "END", SEEN, (0.1, 0.0)) == NONE  # does not copy
    assert grouped(io, UNSEEN, "END", SEEN, (0.98, 0.0)) == NONE  # no direct effect
    assert grouped({"END→IO": 0.1}, SEEN, "END", SEEN, (0.98, 0.0)) == NONE  # does not look
    assert grouped({**io, "END→S1": 0.7}, SEEN, "END", SEEN, (0.98, 0.0)) == NONE  # looks elsewhere
    assert grouped(subject, Mean(0.4, 0.3, 0.5), "END", SEEN, (0.0, 0.0)) == NONE  # acts by itself
    assert grouped(subject, UNSEEN, "END", UNSEEN, (0.0, 0.0)) == NONE  # does nothing
    assert grouped({"S2→S1+1": 0.7}, UNSEEN, "S2", SEEN) == NONE  # not on random sequences
    assert grouped({"S2→S1": 0.1}, UNSEEN, "S2", SEEN, duplicate=0.8) == NONE
    assert grouped({"S1+1→S1": 0.7}, UNSEEN, "END", SEEN, (0.0, 0.0), previous=0.8) == NONE  # not patched at S1+1


# -- the whole --------------------------------------------------------------------------------------------------------


def test_every_head_is_measured_and_the_largest_effects_come_first(study: iv.Study) -> None:
    heard: list[tuple[float, str]] = []
    table = iv.heads(study, prompts=40, anyway=True, report=lambda share, note: heard.append((share, note)))
    assert [head.site for head in table.heads] == [site.short for site in heads_of(study.model)]
    assert [share for share, _ in heard] == sorted(share for share, _ in heard)
    assert heard[-1][0] == pytest.approx(1.0)
    sizes = [abs(head.effect.value) for head in table.found if head.effect]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) <= FOUND
    for head in table.found:
        assert head.position == GROUPS.get(head.group, head.position)
        assert head.effect is not None
        assert head.effect.low > 0 or head.effect.high < 0
    some = prompts(study, 40)
    assert table.accuracy == pytest.approx(float((difference(study, some) > 0).float().mean()))
    effect = iv.patch(study, ["END:a1.0"], some.pairs(study.inputs)).effects["single"].effect[0]
    own = next(head for head in table.heads if head.site == "a1.0").effect["END"]
    assert (own.value, own.low, own.high) == pytest.approx((effect.value, effect.low, effect.high), abs=1e-5)
    assert HeadTable.from_json(json.loads(json.dumps(table.to_json()))).to_json() == table.to_json()
    assert len(table.records()) == 6


def test_a_result_is_kept_and_read_at_once(study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert iv.named_heads(study) == []
    table = iv.heads(study, prompts=20, anyway=True, seed=4)
    computed: list[int] = []
    monkeypatch.setattr(
        "inversionview.analyses.heads.verb.find_heads", lambda *a, **k: computed.append(1) or find_heads(*a, **k)
    )
    assert iv.heads(study, prompts=20, anyway=True, seed=4).to_json() == table.to_json()
    assert [(h.site, h.group) for h in iv.named_heads(study)] == [(h.site, h.group) for h in table.found]
    assert computed == []
    assert (
        iv.heads(study, prompts=20, anyway=True, seed=4, again=True).to_json() == table.to_json()
    )  # the same seed, the same result
    assert computed == [1]
    assert iv.heads(study, prompts=21, anyway=True, seed=4).prompts == 21
    kept = _heads_path(study)
    kept.write_text(kept.read_text()[:-50])
    assert iv.known_heads(study) is None
    assert iv.named_heads(study) == []


def test_a_decoder_can_be_trained_for_the_heads_that_were_found(study: iv.Study, tmp_path: Path) -> None:
    table = iv.heads(study, prompts=20, anyway=True, seed=4)
    made = train_study(
        "ioi", tmp_path / "run", iv.TrainConfig(minutes=None, steps=1, batch=8, pool=1, queries=2), model=study.model.name,
        given=study.spec.options, reading=Reading(heads="named", inputs=40), layers=1, heads=2, width=16, pathway=16, blocks=1,
    )  # fmt: skip
    assert {site.short for site in made.sites} == {head.site for head in table.found}
    assert set(made.decoder.config.sites) == {head.site for head in table.found}


def test_a_model_that_fails_the_task_is_refused_before_the_long_work(study: iv.Study) -> None:
    heard: list[str] = []
    with pytest.raises(InputError, match=r"prefers IO to S in \d+\.\d% of 30 prompts.*--anyway"):
        iv.heads(study, prompts=30, report=lambda share, note: heard.append(note))
    assert set(heard) == {"direct effects"}


def test_bad_settings(study: iv.Study, addition: iv.Study) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        iv.heads(study, prompts=0)
    with pytest.raises(InputError, match="no position"):
        iv.heads(addition, prompts=5)
    assert iv.named_heads(addition) == []


def test_the_published_circuit_is_that_of_gpt2_small_by_its_shape() -> None:
    heads = published_heads(PUBLISHED, Shape((12,) * 12, 768, 50257, 1024))
    assert len(heads) == len({head.site for head in heads}) == 26  # Wang et al. 2022: 26 heads
    assert {head.group for head in heads} == set(PUBLISHED.groups)
    assert {head.position for head in heads if head.group == "induction"} == {"S2"}
    assert {h.site for h in heads if h.group == "S-inhibition"} == {"a7.3", "a7.9", "a8.6", "a8.10"}
    assert published_heads(PUBLISHED, Shape((12,) * 12, 768, 50257, 2048)) == []


def test_ties_and_limits_of_what_is_found() -> None:
    def one(site: str, group: str, effect: Mean) -> HeadMeasures:
        at = GROUPS.get(group, "END")
        return HeadMeasures(site, group, at, UNSEEN, dict.fromkeys(POSITIONS, 0.0), {at: effect}, {}, None, None, 0, 0, 0)

    heads = [one("a0.0", "induction", SEEN), one("a0.1", "induction", UNSEEN), one("a0.2", NONE, SEEN),
             one("a0.3", NONE, Mean(0.04, 0.03, 0.05)), one("a1.0", "name mover", Mean(-2, -3, -1))]  # fmt: skip
    table = HeadTable("ioi", "m", "f", "i", 9, 9, 0, 1.0, 1.0, SEEN, 4.0, -4.0, tuple(heads))
    assert [head.site for head in table.found] == ["a1.0", "a0.0", "a0.2"]
    many = replace(table, heads=tuple(one(f"a2.{i}", "induction", SEEN) for i in range(40)))
    assert len(many.found) == FOUND


# -- command ----------------------------------------------------------------------------------------------------------


def test_command(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["heads", "ioi", "--model", str(llama), "--prompts", "20"]
    code, _, err = run(capsys, *base)
    assert code == 2
    assert "prefers IO" in err
    assert "Traceback" not in err
    files = [tmp_path / name for name in ("heads.csv", "heads.png", "heads.json")]
    code, out, err = run(capsys, *base, "--anyway", *(part for file in files for part in ("--out", str(file))))
    assert code == 0, err
    assert "patching everything does" in " ".join(out.split())
    assert len(files[0].read_text().splitlines()) == 7
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert run(capsys, *base)[0] == 2  # what is kept does not make it do the task
    code, out, _ = run(capsys, *base, "--anyway", "--json")
    assert json.loads(out) == json.loads(files[2].read_text())
    code, _, err = run(capsys, *base, "--out", str(tmp_path / "heads.txt"))
    assert code == 2
    assert ".csv" in err


def test_shipped_heads_are_of_the_model_they_are_named_by() -> None:
    (file,) = shipped_path("ioi", "model").parent.glob("heads-*.json")
    plain = json.loads(file.read_text())
    assert file.stem == f"heads-{plain['fingerprint']}"
    table = read_heads(file, plain["fingerprint"], plain["inputs"])
    assert table is not None
    assert table.accuracy > 0.9
    assert {"name mover", "S-inhibition", "induction"} <= {head.group for head in table.found}
    assert read_heads(file, "another", plain["inputs"]) is None
