"""The two distances and the minimum over positions: closed forms, properties, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inversionview.core.errors import SettingError
from inversionview.core.scope import check_distance, check_epsilon
from inversionview.model.distances.geometry import between, cosine, euclidean, nearest_position

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

KINDS = ("euclidean", "cosine")
moderate = st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)
lengths = st.shared(st.integers(1, 12), key="width")
vectors = lengths.flatmap(lambda n: hnp.arrays(np.float32, n, elements=moderate)).filter(lambda v: bool(np.any(v != 0)))


def reference(kind: str, query: np.ndarray, z: np.ndarray) -> float:
    """The definitions of Huang et al. 2024, section 2.2, in float64 (cosine by an angle, which loses no digits)."""
    q, v = query.astype(np.float64), z.astype(np.float64)
    if kind == "euclidean":
        return float(np.linalg.norm(v - q) / np.linalg.norm(q))
    q, v = q / np.linalg.norm(q), v / np.linalg.norm(v)
    return 2 * math.sin(math.atan2(float(np.linalg.norm(q - v)), float(np.linalg.norm(q + v)))) ** 2


@pytest.mark.parametrize(
    ("query", "z", "euclid", "angle"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0, 0.0),
        ([3.0, 4.0], [0.0, 0.0], 1.0, None),
        ([3.0, 4.0], [6.0, 8.0], 1.0, 0.0),
        ([3.0, 4.0], [-3.0, -4.0], 2.0, 2.0),
        ([3.0, 4.0], [-4.0, 3.0], math.sqrt(2), 1.0),
        ([1.0, 0.0], [1.0, 1.0], 1.0, 1 - 1 / math.sqrt(2)),
        ([2.0, 0.0], [2.0, 0.2], 0.1, 1 - 1 / math.sqrt(1.01)),
        ([1.0, 0.0, 0.0], [0.5, 0.0, math.sqrt(0.75)], 1.0, 0.5),
    ],
)
def test_closed_forms(query: list[float], z: list[float], euclid: float, angle: float | None) -> None:
    q, v = torch.tensor(query), torch.tensor(z)
    assert float(euclidean(q, v)) == pytest.approx(euclid, abs=1e-6)
    assert float(between("euclidean", q, v)) == pytest.approx(euclid, abs=1e-6)
    if angle is not None:
        assert float(cosine(q, v)) == pytest.approx(angle, abs=1e-6)
        assert float(between("cosine", q, v)) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(query=vectors, z=vectors)
def test_agrees_with_the_definition_in_double_precision(kind: str, query: np.ndarray, z: np.ndarray) -> None:
    found = float(between(kind, torch.from_numpy(query), torch.from_numpy(z)))
    assert found == pytest.approx(reference(kind, query, z), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(query=vectors)
def test_zero_at_itself(kind: str, query: np.ndarray) -> None:
    assert float(between(kind, torch.from_numpy(query), torch.from_numpy(query.copy()))) == 0


@pytest.mark.parametrize("kind", KINDS)
@given(query=vectors, z=vectors, power=st.integers(-20, 20))
def test_scaling_both_changes_nothing(kind: str, query: np.ndarray, z: np.ndarray, power: int) -> None:
    q, v = torch.from_numpy(query), torch.from_numpy(z)
    assert float(between(kind, q * 2.0**power, v * 2.0**power)) == pytest.approx(float(between(kind, q, v)), rel=1e-5, abs=1e-7)


@given(query=vectors, z=vectors, one=st.floats(0.01, 100), other=st.floats(0.01, 100))
def test_the_cosine_distance_is_symmetric_in_range_and_blind_to_lengths(
    query: np.ndarray, z: np.ndarray, one: float, other: float
) -> None:
    q, v = torch.from_numpy(query), torch.from_numpy(z)
    d = float(cosine(q, v))
    assert 0 <= d <= 2 + 1e-6
    assert float(cosine(v, q)) == d
    assert float(cosine(q * one, v * other)) == pytest.approx(d, abs=1e-6)
    assert float(cosine(q, -v)) == pytest.approx(2 - d, abs=1e-6)


@given(query=vectors, factor=st.floats(0.0, 8.0))
def test_the_euclidean_distance_to_a_multiple_is_the_difference_of_the_factors(query: np.ndarray, factor: float) -> None:
    q = torch.from_numpy(query)
    assert float(euclidean(q, q * factor)) == pytest.approx(abs(factor - 1), rel=1e-5, abs=1e-6)


@given(query=vectors, direction=vectors, share=st.floats(1e-6, 1e-2))
def test_tiny_distances_keep_their_digits(query: np.ndarray, direction: np.ndarray, share: float) -> None:
    """Where the expanded square or 1 − cos would be mere rounding, the float32 inputs' own distance is still right."""
    z = (query + share * np.linalg.norm(query) / np.linalg.norm(direction) * direction).astype(np.float32)
    wanted = reference("euclidean", query, z)
    assert float(euclidean(torch.from_numpy(query), torch.from_numpy(z))) == pytest.approx(wanted, rel=1e-4)


def test_the_cosine_distance_is_accurate_where_one_minus_the_product_is_not() -> None:
    torch.manual_seed(0)
    q = torch.randn(256)
    side = torch.randn(256)
    side -= (side @ q) / (q @ q) * q
    side *= q.norm() / side.norm()
    for angle in (1e-2, 3e-3, 1e-3):
        z = (q * math.cos(angle) + side * math.sin(angle)).float()
        assert float(cosine(q, z)) == pytest.approx(1 - math.cos(angle), rel=1e-3)
    z = (q * math.cos(1e-3) + side * math.sin(1e-3)).float()
    naive = 1 - float(torch.nn.functional.cosine_similarity(q, z, dim=0))
    assert abs(naive - 5e-7) > abs(float(cosine(q, z)) - 5e-7)


def test_a_query_of_norm_zero_is_near_only_itself() -> None:
    nought = torch.zeros(3)
    assert float(euclidean(nought, nought)) == 0
    assert float(euclidean(nought, torch.tensor([0.0, 1e-3, 0.0]))) == math.inf
    assert torch.isfinite(cosine(nought, torch.ones(3)))
    assert torch.isfinite(cosine(nought, nought))


@pytest.mark.parametrize("kind", KINDS)
def test_one_query_is_measured_against_a_batch_of_positions(kind: str) -> None:
    torch.manual_seed(1)
    queries, z = torch.randn(4, 1, 6), torch.randn(4, 5, 6)
    found = between(kind, queries, z)
    assert found.shape == (4, 5)
    for i in range(4):
        for j in range(5):
            assert float(found[i, j]) == pytest.approx(reference(kind, queries[i, 0].numpy(), z[i, j].numpy()), rel=1e-5)


tables = st.tuples(st.integers(1, 6), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.integers(0, 3).map(float)),  # few values: many ties
        hnp.arrays(np.bool_, shape),
    )
)


@given(tables)
def test_the_nearest_position_is_the_first_least_candidate(table: tuple[np.ndarray, np.ndarray]) -> None:
    distances, candidates = table
    nearest, position = nearest_position(torch.from_numpy(distances), torch.from_numpy(candidates))
    for i, (row, allowed) in enumerate(zip(distances, candidates, strict=True)):
        places = [j for j in range(len(row)) if allowed[j]]
        if not places:
            assert float(nearest[i]) == math.inf
            continue
        best = min(places, key=lambda j: (row[j], j))
        assert float(nearest[i]) == row[best]
        assert int(position[i]) == best


def test_excluded_positions_never_win() -> None:
    distances = torch.tensor([[0.0, 0.5, 0.2], [0.3, 0.0, 0.3]])
    candidates = torch.tensor([[False, True, True], [True, False, True]])
    nearest, position = nearest_position(distances, candidates)
    assert nearest.tolist() == pytest.approx([0.2, 0.3])
    assert position.tolist() == [2, 0]
    assert torch.equal(distances, torch.tensor([[0.0, 0.5, 0.2], [0.3, 0.0, 0.3]])), "the argument was changed"


@pytest.mark.parametrize("bad", [0, 0.0, -0.0, -0.1, -5, math.nan, math.inf, -math.inf])
def test_epsilon_must_be_a_positive_number(bad: float) -> None:
    with pytest.raises(SettingError, match="ε must be a positive number"):
        check_epsilon(bad)


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_any_positive_number_can_be_epsilon(epsilon: float) -> None:
    assert check_epsilon(epsilon) == epsilon


@pytest.mark.parametrize("unknown", ["manhattan", "", "Euclidean", "l2"])
def test_an_unknown_distance_is_named_with_the_choice(unknown: str) -> None:
    with pytest.raises(SettingError, match=r"euclidean.*cosine") as caught:
        check_distance(unknown)
    assert repr(unknown) in str(caught.value)
