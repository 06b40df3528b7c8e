"""Scoring with shared prefixes against the plain way to the same numbers, one forward pass an input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import inversionview as iv
from inversionview.decoder import scoring
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import token_log_probs
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.decoder.scratch import ScratchDecoder

BOS, EOS, PAD = 3, 4, 5


def random_decoder(seed: int = 0, sharpness: float = 1.0) -> Decoder:
    torch.manual_seed(seed)
    config = DecoderConfig(("x0.pre", "a0.1"), 6, 6, 7, bos=BOS, eos=EOS, pad=PAD, layers=2, heads=2, width=16, pathway=12)
    decoder = ScratchDecoder(config).eval()
    with torch.no_grad():
        decoder.lm_head.weight.normal_(std=0.5)
        for layer in decoder.layers:
            layer.query.weight.mul_(sharpness)
    return decoder


DECODER = random_decoder()
Z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def padded(texts: list[list[int]]) -> np.ndarray:
    return np.array([[BOS, *text, EOS, *[PAD] * (5 - len(text))] for text in texts])


def plain(decoder: Decoder, tokens: np.ndarray, z: Tensor, site: int = 1, temperature: float = 1.0) -> Tensor:
    """log p of each input, every prefix computed for every input anew; a temperature divides the logits."""
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = decoder(ids[:, :-1], z.expand(len(ids), -1), torch.full((len(ids),), site)) / temperature
    scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return scores.masked_fill(ids[:, 1:] == PAD, 0.0).sum(1)


ANY = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ANY, st.sampled_from([1, 2, 5, 16384]), st.sampled_from([1, 7, 2400]))
def test_any_inputs_score_as_one_by_one(texts: list[list[int]], leaves: int, per_pass: int) -> None:
    """Of any lengths, repeated or not, in any order, cut into chunks and passes anywhere."""
    tokens = padded(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_LEAVES", leaves)
        patch.setattr(scoring, "_TOKENS_PER_PASS", per_pass)
        scored = log_probs(DECODER, PrefixTree.of(tokens, PAD), Z[:1], 1, temperatures=(1.0, 2.0))
    site = torch.ones(len(tokens), dtype=torch.long)
    reference = token_log_probs(DECODER, torch.from_numpy(tokens), Z[:1].expand(len(tokens), -1), site).sum(1)
    assert torch.allclose(scored[0], reference, atol=1e-4)
    assert torch.allclose(scored[1], plain(DECODER, tokens, Z[0], temperature=2.0), atol=1e-4)


def every_input() -> np.ndarray:
    """All 363 + 1 inputs of at most five of three tokens."""
    texts: list[list[int]] = [[]]
    for _ in range(5):
        texts += [[*text, token] for text in texts if len(text) == len(texts[-1]) for token in range(3)]
    return padded(texts)


def test_every_input_there_is() -> None:
    tokens = every_input()
    assert len(np.unique(tokens, axis=0)) == len(tokens) == 364
    scored = log_probs(DECODER, PrefixTree.of(tokens, PAD), Z[:1], 0)
    assert torch.allclose(scored[0], plain(DECODER, tokens, Z[0], site=0), atol=1e-4)
    assert 0 < scored[0].double().exp().sum() < 1  # the rest is on longer inputs and on BOS and padding within


def test_padding_beyond_the_vocabulary_and_one_token_for_both_ends() -> None:
    torch.manual_seed(0)
    decoder = ScratchDecoder(DecoderConfig(("x0.pre",), 6, 3, 6, bos=2, eos=2, pad=3, layers=1, heads=2, width=8)).eval()
    torch.nn.init.normal_(decoder.lm_head.weight)
    tokens = np.array([[2, 0, 1, 2, 3, 3], [2, 0, 0, 2, 3, 3], [2, 2, 3, 3, 3, 3], [2, 0, 1, 1, 0, 0]])
    scored = log_probs(decoder, PrefixTree.of(tokens, 3), Z[:1], 0)
    site = torch.zeros(4, dtype=torch.long)
    reference = token_log_probs(decoder, torch.from_numpy(tokens), Z[:1].expand(4, -1), site).sum(1)
    assert torch.allclose(scored[0], reference, atol=1e-5)


def test_draws_give_the_mean_probability() -> None:
    tokens = every_input()
    scored = log_probs(DECODER, PrefixTree.of(tokens, PAD), Z, 1, temperatures=(1.0, 2.0))
    for number, temperature in enumerate((1.0, 2.0)):
        each = torch.stack([plain(DECODER, tokens, z, temperature=temperature).double() for z in Z])
        assert torch.allclose(scored[number].double(), each.exp().mean(0).log(), atol=1e-4)


@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_floor_changes_nothing_above_it(draws: int, share: float) -> None:
    tree = PrefixTree.of(every_input(), PAD)
    exact = log_probs(DECODER, tree, Z[:draws], 1, temperatures=(1.0, 2.0))
    floors = [float(row.quantile(share)) + 1e-3 for row in exact]
    bounded = log_probs(DECODER, tree, Z[:draws], 1, temperatures=(1.0, 2.0), floors=floors)
    for value, bound, floor in zip(exact, bounded, floors, strict=True):
        assert torch.equal(value >= floor, bound >= floor)
        assert torch.allclose(bound[value >= floor], value[value >= floor], atol=1e-5)
        assert (bound >= value - 1e-5).all()


def test_attention_too_sharp_for_the_short_way() -> None:
    """Scores above the safe size take the softmax with its shift; both ways agree with the plain one."""
    sharp = random_decoder(sharpness=300.0)
    tokens = every_input()
    scored = log_probs(sharp, PrefixTree.of(tokens, PAD), Z[:1], 1)
    assert bool(scored.isfinite().all())
    assert torch.allclose(scored[0], plain(sharp, tokens, Z[0]), atol=1e-3)


def test_the_tree_is_sorted_and_leads_back() -> None:
    tokens = padded([[2, 1], [0], [2, 1, 0], [0], []])
    tree = PrefixTree.of(tokens, PAD)
    assert tree.tokens.tolist() == sorted(tokens.tolist())
    assert tokens[tree.order].tolist() == tree.tokens.tolist()
    assert tree.fresh.tolist() == [0, 7, 1, 3, 1]  # 0, again 0 (differs nowhere in 7 tokens), 210, 21, and the empty one
    assert tree.lengths.tolist() == [3, 3, 5, 4, 2]
    assert len(tree) == 5


def test_sorting_many_tokens_of_a_large_vocabulary() -> None:
    tokens = np.random.default_rng(0).integers(0, 60_000, (50, 9))
    assert PrefixTree.of(tokens, -1).tokens.tolist() == sorted(tokens.tolist())


def test_progress_is_reported_to_the_end(addition: iv.Study) -> None:
    seen: list[int] = []
    tree = PrefixTree.of(addition.inputs.tokens(np.arange(40_000, 40_030)), addition.inputs.pad)
    query = addition.query("615+861=1476")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_LEAVES", 12)
        log_probs(addition.decoder, tree, query.z[None], 1, report=seen.append)
    assert seen == [12, 24, 30]


def test_the_shipped_decoder(addition: iv.Study) -> None:
    """1,000 additions with neighbours against ``token_log_probs``."""
    query = addition.query("615+861=1476", at="=", site="a0.0")
    tokens = addition.inputs.tokens(np.r_[400_300:400_800, np.random.default_rng(0).integers(0, 810_000, 500)])
    scored = log_probs(addition.decoder, PrefixTree.of(tokens, addition.inputs.pad), query.z[None], 1)
    ids = torch.from_numpy(tokens)
    reference = token_log_probs(addition.decoder, ids, query.z.expand(1000, -1), torch.ones(1000, dtype=torch.long)).sum(1)
    assert torch.allclose(scored[0], reference, atol=1e-3)  # sums of 13 terms down to −80
    assert math.isfinite(float(scored.min()))
