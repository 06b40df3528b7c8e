"""Texts that end where they are read: fillings of one slot leave the model's distribution within the ball as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import inversionview as iv
from inversionview.markov.bigrams import Bigrams
from inversionview.markov.ended import chosen_of
from tests.test_walk_language import CHARACTERS, distances_of, every_text, kernel_of, numbers, prior
from tests.test_walk_language import folder as folder
from tests.test_walk_language import tiny as tiny
from tests.test_walk_moves import assert_balanced


@pytest.mark.parametrize(("move", "keep", "ahead"), [(0, (), True), (0, (), False), (1, (), True), (0, (2,), True)])
def test_as_many_go_from_one_text_to_another_as_back(
    tiny: iv.Study, folder: Path, move: int, keep: tuple[int, ...], ahead: bool
) -> None:
    """From exact draws of π: tokens drawn anew, put in and taken out, alone or two at once, with a corpus or without."""
    texts, query = every_text(), tiny.query("abc", site="x1.post")
    distance = distances_of(tiny, texts, query, ended=True)
    epsilon = float(np.quantile(distance, 0.8))
    pi = np.exp(prior(folder, texts, 1.0)) * (distance <= epsilon)
    kernel = kernel_of(tiny, query, True, keep=keep) if ahead else kernel_of(tiny, query, True, ahead=())
    rng, count, flows = np.random.default_rng(8), 4000, []
    for _ in range(8):
        states = kernel.begin(texts[rng.choice(len(texts), size=count, p=pi / pi.sum())])
        before = states.tokens.copy()
        trial = kernel.step(states, np.full(count, epsilon), np.full(count, move), rng)
        assert ((states.tokens != before).any(1) == trial.accepted).all()
        assert (states.distance <= epsilon).all()
        assert all((states.tokens[:, i] == before[:, i]).all() for i in keep)
        assert kernel.aside is None or not np.isnan(kernel.aside.distance).any()
        flows.append((numbers(texts, before), numbers(texts, states.tokens)))
    was, now = (np.concatenate(part) for part in zip(*flows, strict=True))
    assert (was != now).mean() > 0.02
    lengths = (texts != CHARACTERS.index("P")).sum(1)
    assert (lengths[was] != lengths[now]).any() == (move == 0 and not keep)
    assert_balanced(was, now, len(texts))


@settings(max_examples=10, deadline=None)
@given(
    weights=st.lists(st.one_of(st.floats(-4, 4), st.just(-np.inf)), min_size=2, max_size=6),
    data=st.data(),
)
def test_steps_in_a_set_of_texts_keep_to_their_weights(weights: list[float], data: st.DataObject) -> None:
    """Several fillings may make one text; what has no weight is never gone to."""
    number = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(weights), max_size=len(weights))))
    weights[0] = 0.0
    share = np.bincount(number, weights=np.exp(weights), minlength=4)
    share, rng, count = share / share.sum(), np.random.default_rng(3), 20_000
    own = rng.choice(4, size=count, p=share)
    each = np.tile(weights, (count, 1)), np.tile(number, (count, 1))
    for _ in range(2):
        chosen, taken = chosen_of(*each, own, rng)
        assert (chosen != own).all()
        assert (share[chosen[taken]] > 0).all()
        own = np.where(taken, chosen, own)
    often = share * count >= 5
    expected = np.append(share[often], share[~often].sum()) * count
    found = np.bincount(own, minlength=4)
    observed = np.append(found[often], found[~often].sum())
    kept = expected > 0
    assert kept.sum() == 1 or chisquare(observed[kept], expected[kept]).pvalue > 1e-7
    if (share > 0).sum() == 2 and share.min() == 0 and abs(np.sort(share)[-2] - 0.5) < 1e-9:
        assert taken.all()  # of two alike the other is always taken


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 2))
def test_what_follows_is_counted_within_each_text(texts: list[list[int]], gap: int) -> None:
    """Given enough occurrences it is their share; the shares of all that may follow a token add up to 1."""
    rows = np.full((len(texts), 7), 5)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    pairs = [pair for text in texts for pair in zip(text, text[gap:], strict=False)]
    many = Bigrams(np.tile(rows, (3000, 1)), np.tile(rows < 5, (3000, 1)), 5, gap)
    table = np.exp(np.stack([many.following(token) for token in range(5)]))
    assert np.allclose(table.sum(0), 1, atol=1e-5)
    for before in {a for a, _ in pairs}:
        behind = [b for a, b in pairs if a == before]
        assert np.allclose(table[:, before], np.bincount(behind, minlength=5) / len(behind), atol=0.01)


def test_a_walk_on_texts_finds_members(folder: Path, tmp_path: Path) -> None:
    """What the texts say of which letters follow which is for the proposals alone: every member is one, and so are states."""
    file = tmp_path / "texts.txt"
    file.write_text("abcd\nabca\nbcda\n" * 5)
    study = iv.load(model=folder, texts=str(file))
    read = iv.walk(study, study.query("abca", site="x1.post"), epsilon=0.3, distance="cosine", steps=40, seed=1)
    assert read.walk is not None
    assert read.walk.taken > 3
    assert set(read.walk.acceptance) == {"fill", "pair"}
    z = read.query.z.double()
    for sample in read.inside:
        ids = torch.tensor([sample.ids[:-1]])
        own = study.model.activations(ids, [read.query.site])[0, 0, -1].double()
        assert float(1 - torch.nn.functional.cosine_similarity(own, z, dim=-1)) == pytest.approx(sample.distance, abs=1e-5)
