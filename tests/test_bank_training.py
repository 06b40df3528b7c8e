"""Restricted vocabularies, chunked cross entropy, training from a bank, and settings that perturb an activation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import inversionview as iv
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.store import ActivationBank
from inversionview.cli import app
from inversionview.core import errors
from inversionview.decoder.batches import make_pool
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.loss import chunked_cross_entropy, cross_entropy
from inversionview.decoder.pairs import Banked, pick_pairs, written_tokens
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.model.sites.patterns import expand, select
from inversionview.runs.train import Reading, train_texts
from inversionview.sources.sampled import draw, perturbed
from inversionview.sources.settings import FACTS, Setting
from inversionview.studies.registry import shipped_inputs
from tests.conftest import sentences

torch.set_num_threads(1)
SIZES = {"layers": 1, "heads": 2, "width": 16, "pathway": 16, "blocks": 1, "hidden": 16, "cells": 2, "rank": 4}

# -- cross entropy -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 7), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_chunked_cross_entropy_is_cross_entropy(rows: int, vocabulary: int, logits: int, biased: bool, seed: int) -> None:
    """Loss and gradients in double precision, chunks of any size, some targets that do not count."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(rows, 3, dtype=torch.double), torch.randn(vocabulary, 3, dtype=torch.double)
    bias = torch.randn(vocabulary, dtype=torch.double) if biased else None
    target = torch.randint(-1, vocabulary, (rows,))
    found = []
    for loss in ("chunked", "whole"):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
        own_bias = leaves[2] if biased else None
        if loss == "chunked":
            value = chunked_cross_entropy(leaves[0], leaves[1], target, own_bias, logits)
        else:
            value = F.cross_entropy(F.linear(*leaves), target, ignore_index=-1, reduction="sum")
        (2.5 * value).backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_chunked_cross_entropy_by_finite_differences() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((5, 3), (7, 3), (7,))]
    target = torch.tensor([0, 6, -1, 3, 3])
    assert torch.autograd.gradcheck(lambda h, w, b: chunked_cross_entropy(h, w, target, b, 14), leaves)


def test_a_large_vocabulary_is_chunked_also_under_autocast() -> None:
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(40, 8, requires_grad=True), torch.randn(3000, 8), torch.randint(0, 3000, (40,))
    exact = F.cross_entropy(hidden @ weight.T, target, reduction="sum")
    assert torch.allclose(cross_entropy(hidden, weight, target), exact, rtol=1e-5)
    assert "Chunked" in type(cross_entropy(hidden, weight, target).grad_fn).__name__
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(hidden, weight, target)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=2e-2)
    loss.backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


# -- restricted vocabulary ---------------------------------------------------------------------------------------------

FULL = DecoderConfig(("x0.pre", "a0.1"), 6, 50, 6, bos=40, eos=41, pad=50, **SIZES)
FEW = replace(FULL, tokens=(3, 7, 20, 40, 41))


def twins() -> tuple[Decoder, Decoder]:
    """A restricted decoder, and one over the whole vocabulary with its weights where the tokens are, all else impossible."""
    torch.manual_seed(0)
    few, full = ScratchDecoder(FEW).eval(), ScratchDecoder(FULL).eval()
    with torch.no_grad():
        few.lm_head.weight.normal_()
        state = full.state_dict()
        for name, tensor in few.state_dict().items():
            if name in ("embed_token.weight", "lm_head.weight"):
                state[name][list(FEW.tokens)] = tensor
            else:
                state[name] = tensor
        full.load_state_dict(state)
    return few, full


def test_a_restricted_decoder_speaks_the_models_ids() -> None:
    few, full = twins()
    assert few.lm_head.weight.shape == (5, 16)
    z, site = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    drawn = sample(few, z, site, generator=torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) <= {3, 7, 20, 40, 41, 50}
    assert {3, 7, 20} <= set(drawn.unique().tolist())
    own = few.own(drawn[:, :-1]).clamp(min=0)
    with torch.no_grad():
        logits = full(drawn[:, :-1].clamp(max=49), z, site)[:, :, list(FEW.tokens)]
        real = drawn[:, :-1] != 50
        assert torch.allclose(few(own, z, site)[real], logits[real], atol=1e-5)
    expected = logits.log_softmax(-1).gather(-1, few.own(drawn[:, 1:]).clamp(min=0)[..., None])[..., 0]
    scores = token_log_probs(few, drawn, z, site)
    assert torch.allclose(scores[:, 1:], expected.masked_fill(drawn[:, 1:] == 50, 0.0), atol=1e-5)


def test_what_it_does_not_write_has_no_probability() -> None:
    few, _ = twins()
    tokens = np.array([[40, 3, 8, 41, 50, 50], [40, 3, 7, 41, 50, 50], [40, 9, 8, 20, 41, 50], [40, 3, 9, 41, 50, 50]])
    z = torch.randn(1, 6)
    scores = log_probs(few, PrefixTree.of(tokens, 50), z, 0)[0]
    assert torch.isinf(scores).tolist() == [True, False, True, True]
    plain = token_log_probs(few, torch.from_numpy(tokens), z.expand(4, -1), torch.zeros(4, dtype=torch.long)).sum(1)
    assert torch.allclose(scores, plain, atol=1e-5)


@pytest.mark.parametrize("tokens", [(3, 7), (7, 3, 40, 41), (3, 3, 40, 41), (3, 40, 41, 60), (-1, 40, 41)])
def test_tokens_that_make_no_vocabulary(tokens: tuple[int, ...]) -> None:
    with pytest.raises(errors.SettingError, match="ascending"):
        replace(FULL, tokens=tokens)


def test_files_of_a_restricted_decoder(tmp_path: Path) -> None:
    few, _ = twins()
    few.save_pretrained(tmp_path)
    again = Decoder.from_pretrained(tmp_path)
    assert again.config == FEW
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in few.state_dict().items())


def test_tokens_of_a_corpus(own_model: Path) -> None:
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
    tokens, shares = written_tokens(inputs)
    rows = [set(model.encode(text)) for text in sentences()]
    assert tokens == tuple(sorted(set().union(*rows)))
    assert shares == pytest.approx([sum(token in row for row in rows) / len(rows) for token in tokens])


# -- training from a bank ----------------------------------------------------------------------------------------------

POSITIONS = ("F1", "=", "A1")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    study = iv.load("addition")
    return harvest_bank(
        tmp_path_factory.mktemp("bank"), study.model, study.inputs, rows=3000, sites="x0.pre,a0.*", positions=POSITIONS,
        precision="float32",
    )  # fmt: skip


def test_pairs_of_a_bank_are_activations_of_train_inputs_at_its_positions(bank: ActivationBank) -> None:
    sites = expand("a0.1,a0.3", bank.model.sites)
    config = iv.TrainConfig(minutes=None, steps=1, batch=32, pool=4, groups=2, bos_share=0.1)
    inputs = bank.inputs
    train = {tuple(row) for row in inputs.tokens(inputs.split("train")[:3000]).tolist()}
    seen, source = set(), Banked(bank, sites)
    assert source.positions == POSITIONS
    for batch in make_pool(source, config, 0, np.ones((2, inputs.place_count))).batches():
        for group in batch.groups:
            named = inputs.named_positions(group.tokens.numpy())
            everywhere = bank.model.activations(group.tokens, sites)
            for row, (z, site) in enumerate(zip(group.z, group.site, strict=True)):
                assert tuple(F.pad(group.tokens[row], (0, 14 - group.tokens.size(1)), value=inputs.pad).tolist()) in train
                position = int((everywhere[site, row] - z).norm(dim=-1).argmin())
                assert torch.allclose(everywhere[site, row, position], z, atol=1e-4)
                names = {name for name in POSITIONS if named[name][row] == position}
                assert names or position == 0
                seen |= names or {"BOS"}
    assert seen == {*POSITIONS, "BOS"}


@pytest.mark.parametrize("telling_at", [0.0, 0.02, 0.3])
def test_pairs_are_of_activations_that_tell_something(bank: ActivationBank, telling_at: float) -> None:
    """Every pair tells; inputs of which nothing does are passed over, so that BOS is as seldom as it should."""
    sites = expand("a0.1,a0.3", bank.model.sites)
    telling = np.random.default_rng(0).random((2, len(bank), len(POSITIONS))) < telling_at
    if not telling_at:
        with pytest.raises(errors.InputError, match="rest on BOS"):
            Banked(bank, sites, telling)
        return
    source, config = Banked(bank, sites, telling), iv.TrainConfig(minutes=None, steps=1, batch=64, pool=8, bos_share=0.0)
    drawn = source.draw(1000, (0, 1))
    named = bank.inputs.named_positions(drawn.tokens)
    positions, picked = pick_pairs(
        bank.inputs.places(drawn.tokens), drawn.allowed, np.random.default_rng(0), 4, 0.0, np.ones((2, bank.inputs.place_count))
    )
    for row in range(0, 1000, 3):
        for position, site in zip(positions[row], picked[row], strict=True):
            own = [i for i, name in enumerate(POSITIONS) if named[name][row] == position]
            assert telling[site, drawn.rows[row], own].any()
    pool = list(make_pool(source, replace(config, bos_share=0.01), 0, np.ones((2, bank.inputs.place_count))).batches())
    bos = bank.model.activations(torch.tensor([[bank.inputs.bos]]), sites, torch.zeros(1, 1, dtype=torch.long))[:, 0, 0]
    at_bos = [bool(torch.equal(z, bos[s])) for batch in pool for g in batch.groups for z, s in zip(g.z, g.site, strict=True)]
    assert np.mean(at_bos) < 0.04


def test_slices_of_a_banks_pool_make_the_whole_pool(bank: ActivationBank) -> None:
    config = iv.TrainConfig(minutes=None, steps=1, batch=32, pool=3, groups=2)
    source = Banked(bank, expand("x0.pre,a0.*", bank.model.sites))
    weights = np.ones((5, bank.inputs.place_count))
    pools = [list(make_pool(source, config, 5, weights).batches(rank, world)) for rank, world in ((0, 1), (0, 2), (1, 2))]
    for one, *parts in zip(*pools, strict=True):
        for i, group in enumerate(one.groups):
            for rank, part in enumerate(parts):
                for a, b in zip(group[:3], part.groups[i][:3], strict=True):
                    torch.testing.assert_close(a[rank::2], b)


def test_training_from_a_bank_learns_and_goes_on_exactly(bank: ActivationBank, tmp_path: Path) -> None:
    config = iv.TrainConfig(minutes=None, steps=40, batch=64, groups=2, pool=10, queries=8, evaluations=2, distance="cosine")

    def run(out: Path, **options: object) -> Decoder:
        return iv.train(bank.model, bank.inputs, "a0.*", config, out, bank=bank, **SIZES, **options)

    def stop(done: float, row: dict) -> None:
        if done > 0.4:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", report=stop)
    cut = run(tmp_path / "cut")
    assert all(torch.equal(t, cut.state_dict()[name]) for name, t in whole.state_dict().items())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.15
    assert whole.config.positions == POSITIONS


def test_a_bank_of_another_model_or_without_the_site_is_refused(bank: ActivationBank, own_model: Path) -> None:
    with pytest.raises(errors.SettingError, match="give the bank"):
        iv.train(bank.model, bank.inputs, "a0.*", telling=np.ones((4, len(bank), 2), dtype=bool))
    model = iv.ProbedModel.from_pretrained(own_model)
    with pytest.raises(errors.MismatchError):
        iv.train(model, bank.inputs, "a0.*", bank=bank)
    with pytest.raises(errors.UnknownSiteError):
        iv.train(bank.model, bank.inputs, "x1.post", bank=bank)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_on_texts_harvests_once_and_reads(own_model: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(sentences()))
    config = iv.TrainConfig(minutes=None, steps=4, batch=16, groups=2, pool=2, queries=2, evaluations=1)
    reading = Reading(sites="x0.post,a0.*", heads="0.1,a0.3")
    study = train_texts(str(own_model), str(tmp_path / "texts.txt"), tmp_path / "run", config, reading=reading, **SIZES)
    assert [s.short for s in study.sites] == ["a0.1", "a0.3"]
    assert study.decoder.config.positions == ("END",)
    written = (tmp_path / "run" / "bank" / "manifest.json").stat().st_mtime_ns
    train_texts(str(own_model), str(tmp_path / "texts.txt"), tmp_path / "run", config, reading=reading, **SIZES)
    assert (tmp_path / "run" / "bank" / "manifest.json").stat().st_mtime_ns == written
    again = iv.load(tmp_path / "run")
    assert len(iv.read(again, again.query("bob has 23 nuts"), count=5, source="decoder")) == 5


def test_sites_by_layers_and_heads() -> None:
    sites = expand("*", iv.load("addition").model.sites)
    assert [s.short for s in select(sites, heads="1.0, a0.2")] == ["a0.2", "a1.0"]
    assert {s.layer for s in select(sites, layers="1")} == {1}
    assert select(sites, layers="0-1") == sites
    assert [s.short for s in select(sites, layers="1", heads="0.2,1.3")] == ["a1.3"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layers", "1-"], "no layer or range"),
        (["--layers", "2-1"], "no layer or range"),
        (["--layers", "7"], "no site in layer 7"),
        (["--heads", "x"], "no head"),
        (["--heads", "0.9"], "no site"),
        (["--layers", "1", "--heads", "0.1"], "No site is left"),
        (["--heads", "named"], "No heads of addition are known"),
        (["--names", "nowhere.txt"], "cannot be read"),
        (["--facts", "nowhere.jsonl"], "no options"),
        (["--dtype", "int8"], "no precision"),
        (["--no-stream", "--bank", "nowhere"], "no bank in nowhere"),
        (["--lora", "4"], "only with --decoder-from"),
        (["--decoder-from", "x", "--full", "--frozen"], "one of"),
    ],
)
def test_mistakes_are_told_before_work_begins(tmp_path: Path, options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["train", "addition", "--out", str(tmp_path / "run"), *options])
    assert isinstance(result.exception, errors.InversionViewError)
    assert says in str(result.exception)
    assert not (tmp_path / "run").exists()


# -- settings ----------------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 1.99), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_a_rotation_has_its_cosine_and_keeps_the_norm(eta: float, seed: int) -> None:
    z = torch.randn(30, generator=torch.Generator().manual_seed(seed))
    turned = perturbed(z, [Setting(rotation=eta), Setting()], 8, torch.Generator().manual_seed(seed))
    cosine = torch.nn.functional.cosine_similarity(turned, z[None])
    assert torch.allclose(cosine[:8], torch.tensor(1 - eta), atol=1e-4)
    assert torch.allclose(turned[:8].norm(dim=1), z.norm(), rtol=1e-4)
    assert torch.equal(turned[8:], z.expand(8, -1))
    assert len(torch.unique(turned[:8], dim=0)) == 8


def test_rescaling_is_uniform_in_the_logarithm() -> None:
    z = torch.randn(5, generator=torch.Generator().manual_seed(0))
    scaled = perturbed(z, [Setting(rescale=True)], 4000, torch.Generator().manual_seed(1))
    assert torch.allclose(torch.nn.functional.cosine_similarity(scaled, z[None]), torch.ones(4000), atol=1e-5)
    share = ((scaled.norm(dim=1) / z.norm()).log().sort().values + 1) / 2
    assert float((share - (torch.arange(4000) + 0.5) / 4000).abs().max()) < 0.031  # Kolmogorov–Smirnov, one in a thousand


def test_damping_divides_the_odds_of_rare_tokens_that_came_too_often() -> None:
    """A decoder without memory: token 3 is rare in the corpus and drawn half of the time, 7 and 20 are common."""
    config = replace(FEW, shares=(0.005, 0.9, 0.9, 1.0, 1.0))
    decoder = ScratchDecoder(config).eval()  # its head is 0, so all of its tokens but BOS are equally likely
    z = torch.randn(6, generator=torch.Generator().manual_seed(0))
    drawn = draw(decoder, z, 0, [Setting(damping=1.0), Setting()], 4000, torch.Generator().manual_seed(0))
    plain, damped = drawn[:4000], drawn[4000:]
    held = (plain == 3).any(1).float().mean()
    first = [(part[:, 1] == 3).float().mean() for part in (plain, damped)]
    assert first[0] == pytest.approx(0.25, abs=0.03)
    odds = [share / (1 - share) for share in first]
    assert odds[1] == pytest.approx(float(odds[0] * 0.005 / held), abs=0.004)
    common = [(part[:, 1] == 7).float().mean() / (part[:, 1] == 20).float().mean() for part in (plain, damped)]
    assert common == [pytest.approx(1, abs=0.15)] * 2
    alone = draw(decoder, z, 0, [Setting(damping=1.0)], 2000, torch.Generator().manual_seed(0))
    assert (alone[:, 1] == 3).float().mean() == pytest.approx(0.25, abs=0.04)  # nothing was drawn before


def test_the_pool_for_facts_reads(addition: iv.Study) -> None:
    assert 12 <= len(FACTS) <= 16
    query = addition.query("615+861=1476", at="=", site="a0.0")
    preimage = iv.read(addition, query, settings="facts", distance="cosine", count=50, source="decoder")
    assert len(preimage.inside) >= 20
    assert preimage.candidates == 64 * len(FACTS)


@pytest.mark.parametrize("wrong", [Setting(rotation=-0.1), Setting(rotation=2.5), Setting(damping=-1), Setting(temperature=0)])
def test_settings_out_of_range(addition: iv.Study, wrong: Setting) -> None:
    with pytest.raises(errors.SettingError):
        iv.read(addition, addition.query("615+861=1476"), settings=[wrong], source="decoder")
    with pytest.raises(errors.SettingError, match="pool"):
        iv.read(addition, addition.query("615+861=1476"), settings="autto", source="decoder")


def test_generated_inputs_are_looked_through() -> None:
    tokens, shares = written_tokens(shipped_inputs("addition"))
    assert tokens == tuple(range(14))  # ten digits, BOS, +, =, EOS; padding is none
    assert shares[10:] == (1.0, 1.0, 1.0, 1.0)
