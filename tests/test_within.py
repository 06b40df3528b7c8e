"""One number within p_q ± δ in its own units, by every source, in the terminal and on a page; what is no such interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.model.sites.patterns import find_site
from tests.test_cli import run as command
from tests.test_through import SINGLE, named, saved
from tests.test_through import files as files  # a fixture

TEXT = "615+861=1476"


@pytest.fixture(scope="module")
def numbers(addition: iv.Study, files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, iv.ActivationBank]:
    """A bank of 2,000 inputs at = for each site of one number."""
    folder, made = tmp_path_factory.mktemp("banks"), {}
    for i, text in enumerate(SINGLE):
        site = named(text, files, addition).short
        made[text] = iv.build_bank(addition, folder / str(i), rows=2000, sites=[site], positions=["="])
    return made


def values(study: iv.Study, bank: iv.ActivationBank) -> dict[tuple[int, ...], float]:
    """The number of every input of a bank, by its tokens."""
    tokens = bank.tokens(np.arange(2000))
    at = torch.from_numpy(study.inputs.named_positions(tokens)["="])[:, None]
    p = study.model.activations(torch.from_numpy(tokens), [bank.sites[0]], at)[0, :, 0, 0]
    rows = [tuple(t for t in row if t != study.inputs.pad) for row in tokens.tolist()]
    return dict(zip(rows, p.tolist(), strict=True))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(SINGLE) - 1), row=st.integers(0, 1999), share=st.floats(0.01, 0.6))
def test_what_lies_in_the_interval_is_inside(
    addition: iv.Study, numbers: dict[str, iv.ActivationBank], which: int, row: int, share: float
) -> None:
    """Against all numbers of a bank, run here; of a latent 0 is off, which is near nothing but itself."""
    bank = numbers[SINGLE[which]]
    known = values(addition, bank)
    own = tuple(t for t in bank.tokens(np.array([row]))[0].tolist() if t != addition.inputs.pad)
    query = addition.query(addition.model.vocabulary.decode(list(own)), at="=", site=bank.sites[0])
    q, rectified = float(query.z[0]), "sae" in bank.sites[0].short
    alike = {ids: abs(p - q) for ids, p in known.items() if not rectified or (p > 0) == (q > 0)}
    ranked = sorted(gap for ids, gap in alike.items() if ids != own and gap > 0)
    delta = ranked[int(share * len(ranked))] if ranked else 0.1
    found = iv.search(addition, query, bank=bank, within=delta)
    slack = 1e-5 * (1 + abs(q) + delta)  # of runs in other company, whose terms are about 1
    inside = {tuple(s.ids) for s in found.samples if s.inside}
    assert {ids for ids, gap in alike.items() if gap <= delta - slack} - {own} <= inside
    assert inside <= {ids for ids, gap in alike.items() if gap <= delta + slack}
    assert found.within == pytest.approx(delta, rel=1e-3)


def test_a_tie_is_inside_whatever_rounding_does(addition: iv.Study) -> None:
    """p_q + δ itself, in single precision, of many numbers; neighbours that are clearly beyond stay outside."""
    site = find_site("n0.5", addition.model.sites)
    iv.search(addition, addition.query(TEXT, at="=", site=site), within=0.1)
    metric = addition.model.metric("euclidean", site)
    drawn = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0])
    for q, step in drawn:
        p, delta = q + step, abs(float(q + step) - float(q))
        epsilon = metric.within(q[None], delta)
        assert float(metric.between(q[None], p[None])) <= epsilon
        beyond = p + torch.sign(step) * 4e-6 * (abs(q) + delta)
        assert float(metric.between(q[None], beyond[None])) > epsilon


def test_every_source_keeps_to_the_interval(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="n0.5")
    q = float(query.z[0])
    for made in (
        iv.walk(addition, query, within=0.05, steps=15, fixed="="),
        iv.read(addition, query, within=0.05, source="corpus", fixed="=", count=50),
    ):
        tokens = torch.tensor([s.ids for s in made.inside if len(s.ids) == 14])
        z = addition.model.activations(tokens, [query.site], torch.full((len(tokens), 1), 8))[0, :, 0, 0]
        assert len(tokens) > 10
        assert float((z - q).abs().max()) <= 0.05 * (1 + 1e-4)
        assert made.within == pytest.approx(0.05, rel=1e-4)
        told = made.to_json()
        assert told["within"] == pytest.approx(0.05, rel=1e-4)
        assert told["query"]["value"] == q


def test_the_interval_is_said(addition: iv.Study, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("addition", TEXT, "--at", "=", "--site", "n0.5", "--within", "0.05")
    q = float(addition.query(TEXT, at="=", site="n0.5").z[0])
    code, out, _ = command(capsys, "search", *asked, "--count", "5")
    assert code == 0
    assert f"p_q = {q:.4g}" in out
    assert "p_q ± 0.05, ε of its spread" in out
    code, out, _ = command(capsys, "search", *asked[:-2], "--epsilon", "0.1", "--count", "5", "--json")
    told = json.loads(out)
    spread = addition.model.metric("euclidean", find_site("n0.5", addition.model.sites)).spread
    assert told["within"] == pytest.approx(0.1 * spread, rel=1e-5)
    code, out, _ = command(capsys, "export", *asked, "--count", "5", "--out", str(tmp_path / "page.html"))
    assert code == 0
    assert '"within":0.05' in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("site", "asked", "says"),
    [
        ("x0.post", ["--within", "0.1"], "x0.post has several numbers"),
        ("n0", ["--within", "0.1"], "n0 has several numbers"),
        ("n0.5", ["--within", "0.1", "--epsilon", "0.1"], "give one of them"),
        ("n0.5", ["--within", "-1"], "must be positive"),
        ("n0.5", ["--within", "0"], "must be positive"),
        ("n0.5", ["--within", "nan"], "finite"),
        ("n0.5", ["--within", "inf"], "finite"),
        ("n0.5", ["--within", "x"], "x"),
        ("n0.5", ["--within", "1e12"], "times the spread of n0.5"),
    ],
)
@pytest.mark.parametrize("verb", ["read", "search", "walk", "export"])
def test_what_is_no_interval(capsys: pytest.CaptureFixture[str], verb: str, site: str, asked: list[str], says: str) -> None:
    code, out, err = command(capsys, verb, "addition", TEXT, "--at", "=", "--site", site, *asked)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_what_is_no_interval_in_python(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="n0.5")
    for wrong in ({"within": float("nan")}, {"within": -1.0}, {"within": 0.1, "epsilon": 0.1}, {"within": "x"}):
        for verb in (iv.search, iv.read, iv.walk):
            with pytest.raises(SettingError):
                verb(addition, query, **wrong)
    with pytest.raises(SettingError, match="several numbers"):
        iv.search(addition, addition.query(TEXT, at="=", site="x0.post"), within=0.1)


def test_a_vector_is_exported(addition: iv.Study, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    z = addition.query(TEXT, at="=", site="x0.post").z
    np.save(tmp_path / "z.npy", z.numpy())
    page = tmp_path / "page.html"
    asked = ("export", "addition", "--vector", str(tmp_path / "z.npy"), "--count", "5", "--out", str(page))
    code, out, err = command(capsys, *asked, "--site", "x0.post", "--site", "x0.mid", "--source", "corpus")
    assert (code, err) == (0, "")
    assert "z.npy at x0.post" in out
    assert "z.npy at x0.mid" in out
    assert page.read_text(encoding="utf-8").count('"vector":"') >= 2
    saved(tmp_path / "other.safetensors", 16, 1)
    for wrong, says in (
        (["--at", "="], "without a text and a position"),
        (["--site", "n0"], "but an activation at n0 is one of 128 numbers"),
        (["--vector", str(tmp_path / "other.safetensors")], "32 numbers"),
    ):
        code, out, err = command(capsys, *asked, *wrong)
        assert (code, out) == (2, "")
        assert says in err
        assert len(err.strip().splitlines()) == 1
