"""The optimiser: Newton–Schulz against the singular value decomposition, the schedule's corners, and descent."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inversionview.core.optim import Muon, build, orthogonalize, rates, schedule, set_rates
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.scratch import ScratchDecoder

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def conditioned(rows: int, cols: int, condition: float, seed: int = 0) -> Tensor:
    """Return three random matrices whose singular values run evenly from 1 to ``condition``."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(3, rows, cols, generator=generator, dtype=torch.float64), full_matrices=False)
    values = torch.linspace(condition, 1, min(rows, cols), dtype=torch.float64)
    return u * values @ vh


# -- Newton–Schulz -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (4, 12), (12, 4), (1, 6), (6, 1), (1, 1), (16, 32)])
@pytest.mark.parametrize("condition", [1.0, 3.0, 10.0])
def test_singular_vectors_stay_and_singular_values_become_about_one(rows: int, cols: int, condition: float) -> None:
    matrices = conditioned(rows, cols, condition).float()
    found = orthogonalize(matrices)
    assert found.shape == matrices.shape
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ found @ vh.mT  # diagonal where the singular vectors are the same
    values = inside.diagonal(dim1=1, dim2=2)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    assert torch.allclose(inside, torch.diag_embed(values), atol=1e-4)
    assert torch.allclose(u @ inside @ vh, found, atol=1e-4)


@pytest.mark.parametrize(("rows", "cols"), [(5, 5), (3, 7), (7, 3)])
def test_each_singular_value_goes_through_the_published_polynomial(rows: int, cols: int) -> None:
    """Jordan et al. 2024: five times s ← 3.4445 s − 4.7750 s³ + 2.0315 s⁵, from the matrix over its Frobenius norm."""
    matrices = conditioned(rows, cols, 8.0)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = values / matrices.norm(dim=(1, 2))[:, None]
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonalize(matrices), (u * values[:, None]) @ vh, atol=1e-4)


@given(st.floats(1e-3, 1e4))
def test_the_scale_of_the_gradient_does_not_matter(factor: float) -> None:
    matrices = conditioned(4, 6, 5.0)
    assert torch.allclose(orthogonalize(matrices * factor), orthogonalize(matrices), atol=1e-3)


def test_matrices_of_a_batch_do_not_mix() -> None:
    matrices = conditioned(4, 6, 5.0)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalize(matrices), alone, atol=1e-12)
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_first_step_moves_by_the_orthogonalized_gradient() -> None:
    gradient, start = conditioned(6, 3, 4.0)[0], torch.randn(6, 3, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    weight.grad = gradient.clone()
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    moved = start * (1 - 0.1 * 0.5) - weight.detach()
    expected = 0.1 * math.sqrt(6 / 3) * orthogonalize(gradient[None])[0]  # taller than wide: larger by √(rows / columns)
    assert torch.allclose(moved, expected, atol=1e-3)
    assert torch.equal(weight.grad, gradient), "the gradient was changed"


def test_weights_without_a_gradient_stay() -> None:
    moving, still = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    moving.grad = torch.eye(3)
    Muon([moving, still], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moving, torch.ones(3, 3))


def test_momentum_remembers_the_earlier_gradient() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([weight], lr=1.0, momentum=0.95)
    weight.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.zeros(2, 2)
    optimizer.step()
    assert weight[0, 0] < before[0, 0] < 0


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.hidden = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.frozen = nn.Linear(10, 10)
        self.frozen.requires_grad_(False)
        self.lm_head = nn.Linear(10, 3, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.lm_head(self.norm(self.hidden(self.embed(numbers))))
        return out


def owners(model: nn.Module) -> dict[str, set[str]]:
    """Return the names of the parameters that each optimiser holds."""
    names = {id(p): name for name, p in model.named_parameters()}
    held = {
        type(o).__name__: [names[id(p)] for group in o.param_groups for p in group["params"]]
        for o in build(model, muon_lr=0.1, adam_lr=0.2, weight_decay=0.0)
    }
    assert all(len(each) == len(set(each)) for each in held.values())
    return {kind: set(each) for kind, each in held.items()}


def test_embeddings_heads_gains_and_biases_go_to_adamw() -> None:
    assert owners(Small()) == {
        "Muon": {"hidden.weight"},
        "AdamW": {"embed.weight", "hidden.bias", "norm.weight", "norm.bias", "lm_head.weight"},
    }


def test_every_parameter_of_a_decoder_has_one_optimiser() -> None:
    config = DecoderConfig(("x0.pre", "a0.0"), 6, 5, 8, 2, 3, 4, layers=2, heads=2, width=8, pathway=8, blocks=1)
    decoder = ScratchDecoder(config)
    held = owners(decoder)
    parameters = dict(decoder.named_parameters())
    assert held["Muon"] | held["AdamW"] == set(parameters)
    assert not held["Muon"] & held["AdamW"]
    assert all(parameters[name].ndim == 2 for name in held["Muon"])
    assert any(name.startswith("layers.1.") for name in held["Muon"])
    tables = {id(m.weight) for m in decoder.modules() if isinstance(m, nn.Embedding)} | {id(decoder.lm_head.weight)}
    assert tables <= {id(parameters[name]) for name in held["AdamW"]}


def test_learning_rates_are_set_as_multiples_of_their_base() -> None:
    optimizers = build(Small(), muon_lr=0.1, adam_lr=0.2, weight_decay=0.0)
    base = rates(optimizers)
    assert base == [[0.1], [0.2]]
    for factor in (0.5, 0.0, 1.0):
        set_rates(optimizers, base, factor)
        assert rates(optimizers) == [[0.1 * factor], [0.2 * factor]]


def test_a_small_least_squares_problem_is_solved() -> None:
    torch.manual_seed(0)
    model, numbers, wanted = Small(), torch.arange(12), torch.randn(12, 3)
    optimizers = build(model, muon_lr=0.02, adam_lr=0.02, weight_decay=0.0)
    base, frozen = rates(optimizers), model.frozen.weight.clone()
    losses = []
    for step in range(300):
        set_rates(optimizers, base, schedule(step / 300, decay=0.5))
        loss = (model(numbers) - wanted).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
    assert torch.equal(model.frozen.weight, frozen)


def test_muon_alone_finds_the_least_squares_solution() -> None:
    """‖A W − B‖² has its minimum at the pseudo-inverse's solution."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(20, 4, generator=generator), torch.randn(20, 3, generator=generator)
    weight = nn.Parameter(torch.zeros(4, 3))
    optimizer = Muon([weight], lr=0.1)
    for step in range(300):
        optimizer.zero_grad()
        (a @ weight - b).square().mean().backward()
        set_rates([optimizer], [[0.1]], schedule(step / 300, decay=0.9))
        optimizer.step()
    assert torch.allclose(weight.detach(), torch.linalg.lstsq(a, b).solution, atol=0.02)


# -- schedule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "decay", "warmup", "factor"),
    [
        (0.0, 0.4, 0.01, 0.0),
        (0.005, 0.4, 0.01, 0.5),
        (0.01, 0.4, 0.01, 1.0),
        (0.3, 0.4, 0.01, 1.0),
        (0.6, 0.4, 0.01, 1.0),
        (0.8, 0.4, 0.01, 0.5),
        (0.9, 0.4, 0.01, 0.25),
        (1.0, 0.4, 0.01, 0.0),
        (1.1, 0.4, 0.01, 0.0),
        (0.0, 0.4, 0.0, 1.0),
        (1.0, 0.0, 0.01, 1.0),
        (0.5, 1.0, 0.0, 0.5),
        (0.25, 1.0, 0.5, 0.5),
    ],
)
def test_the_schedule_at_its_corners(fraction: float, decay: float, warmup: float, factor: float) -> None:
    assert schedule(fraction, decay=decay, warmup=warmup) == pytest.approx(factor, abs=1e-9)


@given(decay=st.floats(0, 0.9), warmup=st.floats(0, 0.1))
def test_the_schedule_rises_once_and_falls_once(decay: float, warmup: float) -> None:
    values = [schedule(i / 50, decay=decay, warmup=warmup) for i in range(51)]
    assert all(0 <= value <= 1 for value in values)
    peak = values.index(max(values))
    assert all(a <= b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b for a, b in pairwise(values[peak:]))
