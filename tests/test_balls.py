"""Members of balls, on which a decoder is trained: true ones, as likely as in the preimage; and what is learned from them."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.corpora.moves import Move, symmetric
from inversionview.decoder.balls.balls import KEPT, Balls
from inversionview.decoder.balls.chains import BallChains
from inversionview.decoder.balls.guide import Guide
from inversionview.decoder.batches import make_pool
from inversionview.decoder.pairs import Drawn, FreshInputs, nothing
from inversionview.decoder.sampling import sample
from inversionview.decoder.training import next_among
from inversionview.model.measure import distance_to
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site
from inversionview.studies.addition.corpus import AdditionInputs
from tests.test_cli import run as command


class FewAdditions(AdditionInputs):
    """The additions of two numbers from 100 to 129: all can be listed; a quarter are held out."""

    each = 30
    moves = ()

    def __len__(self) -> int:
        return self.each**2

    def tokens(self, rows: np.ndarray, salt: int = 0) -> np.ndarray:
        return super().tokens(rows // self.each * 900 + rows % self.each)


class FewWalked(FewAdditions):
    """The same, as if there were no end of them."""

    redrawn = True
    test_share = 0.0

    def log_prior(self, tokens: np.ndarray) -> np.ndarray:
        return np.array([0.0 if row.tobytes() in self.listed else -np.inf for row in np.ascontiguousarray(tokens)])

    @cached_property
    def listed(self) -> set[bytes]:
        return {row.tobytes() for row in self.tokens(np.arange(len(self)))}

    @property
    def moves(self) -> tuple[Move, ...]:  # type: ignore[override]
        return (Move("all", lambda tokens, rng: symmetric(self.tokens(rng.integers(len(self), size=len(tokens))))),)


def balls_of(study: iv.Study, inputs: AdditionInputs, sites: str, **settings: Any) -> Balls:
    config = iv.TrainConfig(minutes=None, steps=1, **{"batch": 256, "pool": 64, **settings})
    return Balls(FreshInputs(study.model, inputs, expand(sites, study.model.sites)), study.model, config)


def queries(balls: Balls, count: int, at: int = 8) -> tuple[Drawn, np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
    """Inputs, each read at the first of the sites and a position."""
    drawn = balls.source.draw(count, (7,))
    rows, positions, sites = np.arange(count), np.full(count, at), np.zeros(count, dtype=np.int64)
    return drawn, rows, positions, sites, balls.source.read(drawn, rows, positions, sites)


def listed_ball(study: iv.Study, site: Site, z: torch.Tensor, every: np.ndarray) -> np.ndarray:
    """Return those of all inputs that lie inside ε of an activation."""
    _, nearest, _ = distance_to(study.model, torch.from_numpy(every), z.expand(len(every), -1), site)
    return every[(nearest <= 0.1).numpy()]


def test_members_lie_inside(addition: iv.Study) -> None:
    balls = balls_of(addition, addition.inputs, "x0.mid,a0.1,x1.post")
    for at in (3, 8, 11):
        asked = queries(balls, 40, at)
        found = balls.members(0, *asked)
        assert found.alone.mean() < 0.6
        z = asked[-1].repeat_interleave(KEPT, dim=0)
        tokens = torch.from_numpy(found.tokens.reshape(-1, found.tokens.shape[-1]))
        _, nearest, _ = distance_to(addition.model, tokens, z, balls.source.sites[0])
        assert float(nearest.max()) <= 0.1 + 1e-3  # vectors are kept in half precision
        assert not any(addition.inputs.why_not([t for t in row if t != addition.inputs.pad]) for row in tokens.tolist())


@pytest.mark.parametrize("how", ["searched", "walked"])
def test_each_member_is_as_likely_as_the_others(addition: iv.Study, how: str) -> None:
    """Of one activation many times over: what is drawn follows the uniform distribution over its listed ball."""
    inputs = FewAdditions() if how == "searched" else FewWalked()
    balls = balls_of(addition, inputs, "a0.2", batch=64, pool=16)
    balls.__dict__["_empty"] = np.full((1, inputs.place_count), 0.0 if how == "searched" else 1.0)
    every = inputs.tokens(inputs.split("train"))
    tokens = np.repeat(every[[100]], 1500, axis=0)
    drawn = Drawn(tokens, inputs.trained_positions(tokens))
    rows, sites, at = np.arange(1500), np.zeros(1500, dtype=np.int64), np.full(1500, 9)
    z = balls.source.read(drawn, rows, at, sites)
    inside = listed_ball(addition, balls.source.sites[0], z[0], every)
    assert 60 < len(inside) < 150
    members = balls.members(3, drawn, rows, at, sites, z).tokens[:, -1]
    count = (members[:, None] == inside[None]).all(2)
    assert count.any(1).all()
    assert chisquare(count.sum(0)).pvalue > 1e-3


@pytest.mark.parametrize("shaken", [0.0, 0.05])
def test_a_leap_leaves_the_ball_as_it_is(addition: iv.Study, shaken: float) -> None:
    """From exact draws: chains go to what a decoder writes, well or badly, and stay uniform on the listed ball."""
    inputs, sites = FewWalked(), expand("*", addition.model.sites)
    inputs.each = 150
    number = next(n for n, one in enumerate(sites) if one.short == "a0.2")
    guide = Guide(deepcopy(addition.decoder).requires_grad_(False), inputs.max_length, inputs.pad)
    lot = torch.Generator().manual_seed(1)
    for tensor in guide.decoder.parameters():
        tensor.add_(shaken * tensor.abs().mean() * torch.randn(tensor.shape, generator=lot))
    every = inputs.tokens(inputs.split("train"))
    z = addition.model.harvest(every[[100]], [sites[number]], np.array([[9]]))[0, :, 0].float()
    inside = listed_ball(addition, sites[number], z[0], every)
    rng, count = np.random.default_rng(5), 4000
    start = inside[rng.integers(len(inside), size=count)]
    limits, numbers = [0.1] * len(sites), np.full(count, number)
    chains = BallChains(addition.model, inputs, sites, limits, "euclidean", start, z.expand(count, -1), numbers, rng, guide)
    for _ in range(2):
        chains.leap()
    moved = (start != chains.tokens).any(1).mean()
    assert moved > 0.02
    after = (chains.tokens[:, None] == inside[None]).all(2)
    assert after.any(1).all()
    assert chisquare(after.sum(0)).pvalue > 1e-3


def test_what_tells_nothing_has_every_input_in_its_ball(addition: iv.Study) -> None:
    balls = balls_of(addition, addition.inputs, "x0.post")
    found = balls.members(0, *queries(balls, 20, nothing(addition.inputs))).tokens
    assert len(np.unique(found.reshape(-1, found.shape[-1]), axis=0)) > 10


def test_an_input_that_is_alone_is_its_own_member(addition: iv.Study) -> None:
    """At an ε of nothing every ball holds its own input alone."""
    balls = balls_of(addition, addition.inputs, "x0.post", epsilon=1e-6, batch=16, pool=4)
    asked = queries(balls, 30)
    for empty in (0.0, 1.0):
        balls.__dict__["_empty"] = np.full((1, addition.inputs.place_count), empty)
        found = balls.members(0, *asked)
        assert found.alone.all()
        assert (found.tokens == asked[0].tokens[:, None]).all()


def test_a_pool_is_the_same_again_and_holds_members(addition: iv.Study) -> None:
    sites = expand("a0.*", addition.model.sites)
    config = iv.TrainConfig(minutes=None, steps=1, batch=64, pool=8, members=4)
    source = FreshInputs(addition.model, addition.inputs, sites)
    weights = np.ones((len(sites), addition.inputs.place_count))
    once, again = (make_pool(source, config, 2, weights, Balls(source, addition.model, config)) for _ in range(2))
    for a, b in zip(once.batches(), again.batches(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.groups[0], b.groups[0], strict=True))
    for batch in once.batches():
        for group in batch.groups:
            assert (group.others == group.tokens[:, None]).all(2).any(1).all()


def test_targets_are_shares_of_the_members_that_agree_so_far() -> None:
    members = torch.tensor([[[0, 1, 2, 3], [0, 1, 1, 3], [0, 1, 2, 4], [0, 2, 2, 2]]])
    ids = torch.tensor([[0, 1, 2, 3]])
    target = next_among(members, ids, ids[:, 1:], 5)
    expected = torch.tensor([[[0, 3 / 4, 1 / 4, 0, 0], [0, 1 / 3, 2 / 3, 0, 0], [0, 0, 0, 1 / 2, 1 / 2]]])
    torch.testing.assert_close(target, expected)
    ended = next_among(members, ids, torch.tensor([[1, -1, -1]]), 5)
    assert ended[0, 1:].sum() == 0


def test_a_decoder_trained_on_balls_draws_from_them(addition: iv.Study) -> None:
    """On a listed space: the samples inside ε are uniform over the ball, by χ², and few lie outside; at several queries."""
    inputs, site = FewAdditions(), expand("a0.2", addition.model.sites)[0]
    inputs.each, inputs.default_positions = 12, ("=",)
    length: dict[str, Any] = {"minutes": None, "steps": 800, "batch": 128, "groups": 1, "pool": 32}
    config = iv.TrainConfig(**length, evaluations=1, queries=8, muon_lr=0.02, adam_lr=5e-3)
    decoder = iv.train(addition.model, inputs, [site], config, width=48, layers=2, blocks=2, hidden=128)
    every, where = inputs.tokens(inputs.split("train")), torch.zeros(200, dtype=torch.long)
    for row in (3, 30, 60, 90):
        z = addition.model.harvest(every[[row]], [site], np.array([[8]]))[0, :, 0]
        inside = listed_ball(addition, site, z, every)
        drawn = sample(decoder, z.expand(200, -1), where, generator=torch.Generator().manual_seed(row)).numpy()
        count = (drawn[:, None] == inside[None]).all(2)
        assert count.any(1).mean() > 0.85
        assert chisquare(count.sum(0)).pvalue > 1e-4  # of own pairs, which draw one input, 1e-213


def test_bad_targets_are_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="ball or own"):
        iv.TrainConfig(target="sphere")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="members"):
        iv.TrainConfig(members=0)
    code, _, told = command(capsys, "train", "addition", "--out", str(tmp_path / "run"), "--steps", "1", "--target", "sphere")
    assert code == 2
    assert "ball or own" in told


def test_the_run_tells_its_target_and_what_stood_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    short = ["--steps", "2", "--batch", "8", "--sites", "x0.post"]
    for target in ("ball", "own"):
        code, _, told = command(capsys, "train", "addition", "--out", str(tmp_path / target), *short, "--target", target)
        assert code == 0, told
        row = json.loads((tmp_path / target / "metrics.jsonl").read_text().splitlines()[-1])
        assert ("apart" in row) == (target == "ball")
        assert 0 <= row["alone"] <= 1
    code, _, told = command(capsys, "train", "addition", "--out", str(tmp_path / "own"), *short)
    assert code == 2
    assert "target = own" in told
