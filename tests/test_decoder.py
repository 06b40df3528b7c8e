"""The decoder: causality, probabilities by enumeration, sampling against a naive sampler, and its files."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from inversionview.core.errors import InversionViewError, WeightsError
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.evaluation import by_place, rebalanced
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scratch import ScratchDecoder

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

WIDTH = 6
SIZES: dict[str, Any] = {"layers": 2, "heads": 2, "width": 16, "pathway": 16, "blocks": 2, "occurrences": 2}
OWN = DecoderConfig(("x0.pre", "a0.1", "x1.post"), WIDTH, 5, 5, bos=2, eos=3, pad=4, **SIZES)
"""Symbols a, b, then BOS, EOS and padding, each with an id of its own; at most 5 tokens."""
SHARED = DecoderConfig(("x0.pre", "a0.1", "x1.post"), WIDTH, 3, 5, bos=2, eos=2, pad=3, **SIZES)
"""Symbols a, b, then one token that is BOS and EOS; padding lies beyond the vocabulary."""


@torch.no_grad()
def decoder_of(config: DecoderConfig, seed: int = 0, spread: float = 1.5) -> Decoder:
    """A decoder of random weights, the output head's too (a new decoder's are 0), so that its logits differ."""
    torch.manual_seed(seed)
    decoder = ScratchDecoder(config).eval()
    for parameter in decoder.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    decoder.lm_head.weight.copy_(torch.randn_like(decoder.lm_head.weight) * spread / config.width**0.5)
    return decoder


def conditions(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random activations, and the sites 0, 1, 2, 0, …"""
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 3


def every_input(config: DecoderConfig) -> Tensor:
    """All inputs over a and b: 1 + 2 + 4 + 8 that end in EOS, and the 16 that are cut at 5 tokens, ``[31, 5]``."""
    rows = []
    for length in range(config.max_length):
        for body in product((0, 1), repeat=length):
            ids = [config.bos, *body, config.eos][: config.max_length]
            rows.append(ids + [config.pad] * (config.max_length - len(ids)))
    return torch.tensor(rows)


@torch.no_grad()
def exact_probability(decoder: Decoder, ids: list[int], z: Tensor, site: int, temperature: float = 1.0) -> float:
    """The probability of one input, a full forward pass for each of its tokens; BOS and padding are never drawn."""
    config, probability = decoder.config, 1.0
    for place in range(1, config.max_length):
        logits = decoder(torch.tensor([ids[:place]]), z[None], torch.tensor([site]))[0, -1].double() / temperature
        for banned in {config.bos, config.pad} - {config.eos}:
            if banned < config.vocabulary:
                logits[banned] = -torch.inf
        probability *= float(logits.softmax(-1)[ids[place]])
        if ids[place] == config.eos:
            break
    return probability


# -- the network -------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
    st.integers(1, 7),
    st.integers(0, 2),
)
@settings(max_examples=40)
def test_later_tokens_do_not_change_earlier_logits(one: list[int], other: list[int], cut: int, site: int) -> None:
    decoder, (z, _) = LONG, conditions(1)
    tokens = torch.tensor([one, one[:cut] + other[cut:]])
    with torch.no_grad():
        logits = decoder(tokens, z.expand(2, -1), torch.tensor([site, site]))
    assert torch.allclose(logits[0, :cut], logits[1, :cut], atol=1e-5)


LONG = decoder_of(DecoderConfig(("x0.pre", "a0.1", "x1.post"), WIDTH, 5, 8, bos=2, eos=3, pad=4, **SIZES))


def test_a_longer_input_has_the_logits_of_its_beginning() -> None:
    tokens, (z, site) = torch.randint(0, 5, (6, 8), generator=torch.Generator().manual_seed(0)), conditions(6)
    with torch.no_grad():
        whole = LONG(tokens, z, site)
        assert whole.shape == (6, 8, 5)
        for length in range(1, 8):
            assert torch.allclose(LONG(tokens[:, :length], z, site), whole[:, :length], atol=1e-5)


def test_each_earlier_token_changes_the_last_logits() -> None:
    tokens, (z, site) = torch.tensor([[2, 0, 1, 0, 1, 1, 0, 0]]), conditions(1)
    with torch.no_grad():
        last = LONG(tokens, z, site)[0, -1]
        for place in range(8):
            changed = tokens.clone()
            changed[0, place] = 1 - changed[0, place] if place else 3
            assert (LONG(changed, z, site)[0, -1] - last).abs().max() > 1e-3


def test_the_activation_and_the_site_change_the_logits_everywhere() -> None:
    tokens, (z, _) = torch.tensor([[2, 0, 1, 0]]), conditions(2)
    with torch.no_grad():
        by_z = LONG(tokens.expand(2, -1), z, torch.tensor([0, 0]))
        by_site = LONG(tokens.expand(3, -1), z[:1].expand(3, -1), torch.tensor([0, 1, 2]))
    assert ((by_z[0] - by_z[1]).abs().max(-1).values > 1e-3).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert ((by_site[one] - by_site[other]).abs().max(-1).values > 1e-3).all()


def test_the_cell_of_an_activation_chooses_its_whitening_and_entrance() -> None:
    """The pathway without blocks, written out row by row: the nearest cell among directions and log norms."""
    config = DecoderConfig(
        ("x0.pre", "a0.1"), WIDTH, 5, 8, bos=2, eos=3, pad=4, **(SIZES | {"blocks": 0, "cells": 3, "rank": 4})
    )
    path = decoder_of(config).pathway
    with torch.no_grad():
        for buffer in path.buffers():
            buffer.add_(torch.rand_like(buffer))
        path.cells_at.normal_()
        z, site, seen = torch.randn(30, WIDTH), torch.arange(30) % 2, set()
        for row, u in zip(range(30), path(z, site), strict=True):
            s, v = int(site[row]), z[row]
            where = torch.cat([v / v.norm(), v.norm().log()[None]])
            c = int(torch.stack([(where - at).norm() for at in path.cells_at[s]]).argmin())
            seen.add((s, c))
            along = path.directions[s] @ (v - path.mean[s])
            white = path.cells_whiten[s, c] @ (along - path.cells_mean[s, c])
            rest = (v - path.mean[s] - path.directions[s].T @ along) / path.rest[s] + path.directions[s].T @ white
            own = path.cells_enter[s, c] @ white + path.cells_bias[s, c]
            expected = path.norm(own + path.enter(torch.cat([rest, path.sites_embed[s]])))
            assert torch.allclose(u, expected, atol=1e-4)
    assert len(seen) >= 4


def test_rows_of_a_batch_do_not_mix() -> None:
    tokens, (z, site) = torch.randint(0, 5, (6, 8), generator=torch.Generator().manual_seed(1)), conditions(6)
    with torch.no_grad():
        together = LONG(tokens, z, site)
        alone = torch.cat([LONG(tokens[i : i + 1], z[i : i + 1], site[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_an_untrained_decoder_is_uniform() -> None:
    torch.manual_seed(0)
    decoder, (z, site) = ScratchDecoder(SHARED).eval(), conditions(31)
    scores = token_log_probs(decoder, every_input(SHARED), z, site)
    expected = -np.log(3) * (every_input(SHARED) != SHARED.pad).float()
    expected[:, 0] = 0
    assert torch.allclose(scores, expected, atol=1e-6)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(0, 7))
def test_occurrences_are_counted_among_earlier_tokens_up_to_the_limit(ids: list[int], start: int) -> None:
    """With all other embeddings 0, two places are embedded alike exactly where their tokens occurred as often so far."""
    start = min(start, len(ids) - 1)
    tokens = torch.tensor([ids])
    with torch.no_grad():
        x = COUNTING.embed(tokens)[0]
        assert torch.equal(COUNTING.embed(tokens, start=start)[0], x[start:])
    times = [min(ids[:place].count(ids[place]), 2 - 1) for place in range(len(ids))]  # the limit is 2 with the token itself
    for one in range(len(ids)):
        for other in range(len(ids)):
            assert torch.equal(x[one], x[other]) == (times[one] == times[other])


COUNTING = decoder_of(DecoderConfig(("x0.pre",), WIDTH, 5, 8, bos=2, eos=3, pad=4, **SIZES))
with torch.no_grad():
    COUNTING.embed_token.weight.zero_()
    COUNTING.embed_position.weight.zero_()


@pytest.mark.parametrize("occurrences", [0, 10])
def test_counting_occurrences_can_be_switched_off(occurrences: int) -> None:
    decoder = decoder_of(DecoderConfig(**(vars(OWN) | {"occurrences": occurrences})))
    assert (decoder.embed_occurrence is None) == (occurrences == 0)
    z, site = conditions(20)
    assert sample(decoder, z, site).shape == (20, 5)


# -- probabilities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_probabilities_of_all_inputs_sum_to_one(seed: int) -> None:
    decoder, tokens = decoder_of(SHARED, seed), every_input(SHARED)
    z, _ = conditions(1, seed)
    for site in range(3):
        scores = token_log_probs(decoder, tokens, z.expand(31, -1), torch.full((31,), site))
        assert float(scores.sum(1).double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_log_probabilities_are_those_of_full_forward_passes() -> None:
    decoder, tokens, (z, site) = decoder_of(OWN), every_input(OWN), conditions(31)
    scores = token_log_probs(decoder, tokens, z, site)
    assert scores.shape == tokens.shape
    with torch.no_grad():
        for i, row in enumerate(tokens.tolist()):
            assert scores[i, 0] == 0
            for place in range(1, 5):
                if row[place] == OWN.pad:
                    assert scores[i, place] == 0
                    continue
                logits = decoder(torch.tensor([row[:place]]), z[i : i + 1], site[i : i + 1])[0, -1]
                assert float(scores[i, place]) == pytest.approx(float(logits.log_softmax(-1)[row[place]]), abs=1e-5)


# -- sampling ----------------------------------------------------------------------------------------------------------


def rows_of(drawn: Tensor) -> Counter[tuple[int, ...]]:
    return Counter(map(tuple, drawn.tolist()))


@pytest.mark.parametrize("config", [OWN, SHARED], ids=["own", "shared"])
def test_samples_follow_the_exact_distribution(config: DecoderConfig) -> None:
    """Two conditions at two temperatures in one batch; each one's frequencies against its exact probabilities."""
    decoder, each = decoder_of(config), 20_000
    z, site = conditions(2)
    z = z * 3
    cases = [(0, 1.0), (0, 2.0), (1, 1.0), (1, 0.5)]
    order = torch.randperm(each * 4, generator=torch.Generator().manual_seed(0))
    which = (torch.arange(4).repeat_interleave(each))[order]
    row = torch.tensor([r for r, _ in cases])[which]
    heat = torch.tensor([t for _, t in cases])[which]
    drawn = sample(decoder, z[row], site[row], temperature=heat, generator=torch.Generator().manual_seed(1))
    space = [tuple(ids) for ids in every_input(config).tolist()]
    tables = []
    for r, temperature in cases:
        exact = np.array([exact_probability(decoder, list(ids), z[r], int(site[r]), temperature) for ids in space])
        assert exact.sum() == pytest.approx(1, abs=1e-5)
        tables.append(exact)
    for number in range(len(tables)):
        counts = rows_of(drawn[which == number])
        assert set(counts) <= set(space), "something other than an input was drawn"
        frequencies = np.array([counts[ids] for ids in space]) / each
        distance = [np.abs(frequencies - table).sum() / 2 for table in tables]
        assert distance[number] < 0.025  # its mean is at most ½ √(2 · 31 / (π · 20,000)) = 0.0157, for a uniform table
        assert min(d for i, d in enumerate(distance) if i != number) > 0.04, "the cases are too much alike to test anything"


@pytest.mark.parametrize("config", [OWN, SHARED], ids=["own", "shared"])
def test_a_low_temperature_gives_the_likeliest_next_token_each_time(config: DecoderConfig) -> None:
    seen = set()
    for seed in range(5):
        seen |= greedy(decoder_of(config, seed), *conditions(20, seed))
    assert len(seen) > 3


def greedy(decoder: Decoder, z: Tensor, site: Tensor) -> set[tuple[int, ...]]:
    """Assert that sampling at a low temperature takes the best token each time; return what it drew."""
    config = decoder.config
    drawn = sample(decoder, z * 3, site, temperature=1e-4, generator=torch.Generator().manual_seed(0)).tolist()
    allowed = [token for token in range(config.vocabulary) if token == config.eos or token not in (config.bos, config.pad)]
    for i, found in enumerate(drawn):
        ids = [config.bos]
        while len(ids) < config.max_length and (len(ids) == 1 or ids[-1] != config.eos):
            with torch.no_grad():
                logits = decoder(torch.tensor([ids]), z[i : i + 1] * 3, site[i : i + 1])[0, -1]
            ids.append(max(allowed, key=lambda token: float(logits[token])))
        assert found == ids + [config.pad] * (config.max_length - len(ids))
    return {tuple(row) for row in drawn}


@pytest.mark.parametrize("seed", range(3))
def test_samples_are_well_formed(seed: int) -> None:
    """BOS once and first, padding exactly after EOS — also where the decoder would like to draw them."""
    decoder, (z, site) = decoder_of(OWN, seed), conditions(2000, seed)
    with torch.no_grad():
        decoder.lm_head.weight[[OWN.bos, OWN.pad]] *= 20
    drawn = sample(decoder, z, site, temperature=2.0, generator=torch.Generator().manual_seed(seed))
    assert drawn.shape == (2000, OWN.max_length)
    assert drawn.dtype == torch.int64
    for row in drawn.tolist():
        assert row[0] == OWN.bos
        assert OWN.bos not in row[1:]
        end = row.index(OWN.eos) if OWN.eos in row else len(row) - 1
        assert OWN.pad not in row[: end + 1]
        assert set(row[end + 1 :]) <= {OWN.pad}
    assert {len([t for t in row if t != OWN.pad]) for row in drawn.tolist()} == {2, 3, 4, 5}


def test_the_same_seed_draws_the_same() -> None:
    decoder, (z, site) = decoder_of(OWN), conditions(200)
    one, again, other = (sample(decoder, z, site, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_nothing_is_drawn_for_no_activation() -> None:
    decoder, (z, site) = decoder_of(OWN), conditions(3)
    assert sample(decoder, z[:0], site[:0]).shape == (0, OWN.max_length)


@pytest.mark.parametrize("ratios", [[0.5, 0.5, 0.5], [0.0, 1.0], [0.9, 0.2, 0.6, 0.6], [1.0]])
def test_sites_that_are_decoded_badly_are_trained_on_more(ratios: list[float]) -> None:
    """softmax(6 · (mean − ratio)), method of Huang et al. 2024, appendix on the counting task."""
    mean = sum(ratios) / len(ratios)
    raised = [np.exp(6 * (mean - ratio)) for ratio in ratios]
    assert rebalanced(ratios, 6.0).tolist() == pytest.approx([value / sum(raised) for value in raised])


def test_ratios_by_place_lean_on_the_site_where_queries_are_few() -> None:
    """Sums written out: the mean of a place's queries and two more of the site's mean."""
    shares = np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]])
    expected = [[0.75, (1 + 1 + 1.5) / 4, (0 + 1 + 1.5) / 4], [0.25, (0 + 0.5 + 0.5) / 4, (0 + 0.5 + 0.5) / 4]]
    assert by_place(shares, np.array([1, 2, 1, 2]), 3).tolist() == [pytest.approx(row) for row in expected]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    decoder_of(OWN).save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def test_a_saved_decoder_is_the_same_decoder(saved: Path) -> None:
    decoder, again = decoder_of(OWN), Decoder.from_pretrained(saved)
    assert again.config == OWN
    assert not again.training
    tokens, (z, site) = every_input(OWN), conditions(31)
    with torch.no_grad():
        assert torch.equal(again(tokens, z, site), decoder(tokens, z, site))
    assert {path.suffix for path in saved.iterdir()} <= {".json", ".safetensors", ".md"}
    assert again.config.sites == ("x0.pre", "a0.1", "x1.post")


def test_saving_again_replaces_and_leaves_nothing_temporary(saved: Path) -> None:
    names = sorted(path.name for path in saved.iterdir())
    other = decoder_of(OWN, seed=9)
    other.save_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == names
    tokens, (z, site) = every_input(OWN), conditions(31)
    with torch.no_grad():
        assert torch.equal(Decoder.from_pretrained(saved)(tokens, z, site), other(tokens, z, site))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_an_error(saved: Path, share: float) -> None:
    path = saved / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Decoder.from_pretrained(saved)


def test_tensors_of_another_model_are_an_error(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    name = "lm_head.weight"
    missing = {key: value for key, value in weights.items() if key != name}
    for content in (
        {"transformer.wte.weight": torch.ones(3, 3)},
        missing,
        weights | {"extra": torch.ones(1)},
        weights | {name: torch.ones(7, 16)},
    ):
        save_file(content, path)
        with pytest.raises(WeightsError):
            Decoder.from_pretrained(saved)


@pytest.mark.parametrize(
    "setting", [{"layers": 3}, {"width": 32}, {"sites": ["x0.pre"]}, {"d_model": 7}, {"vocabulary": 6}], ids=str
)
def test_a_configuration_of_another_decoder_is_an_error(saved: Path, setting: dict[str, Any]) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(WeightsError):
        Decoder.from_pretrained(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"model_type": "gpt2"}'])
def test_a_garbled_configuration_is_an_error(saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(WeightsError):
        Decoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(WeightsError):
        Decoder.from_pretrained(saved)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InversionViewError):
        Decoder.from_pretrained(tmp_path / "nowhere")


class Executes:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.bin", "model.pt"])
def test_pickles_are_never_read(saved: Path, name: str) -> None:
    mark = saved / "executed"
    (saved / "model.safetensors").unlink()
    torch.save(Executes(mark), saved / name)
    with pytest.raises(WeightsError):
        Decoder.from_pretrained(saved)
    assert not mark.exists()
    torch.load(io.BytesIO((saved / name).read_bytes()), weights_only=False)
    assert mark.exists(), "the file would have run code, had it been let"


def test_even_harmless_pickled_weights_are_not_taken(saved: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(WeightsError):
        Decoder.from_pretrained(saved)
