"""Codes of a dictionary on a bank: what rounding leaves sure, search and ranking against brute force, damage and kills.

Brute force is the model itself, run on all rows of a bank, and the formulas of ``test_dictionaries`` and of D written out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import inversionview as iv
from inversionview.bank.latents import codes as codes_module
from inversionview.bank.latents.codes import codes_of, opened
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError, InversionViewError, SettingError
from inversionview.model.dictionaries.firing import SparseEncoder
from inversionview.model.dictionaries.loading import load_dictionary
from inversionview.model.sites.patterns import find_site
from tests.test_cli import run as command
from tests.test_damage import flip
from tests.test_dictionaries import CASES, D

TEXT, ROWS, POSITIONS, LATENTS = "615+861=1476", 1500, ["=", "A1"], 40
U = 2.0**-11
"""Half a step of fp16, relative."""
KINDS = {
    "standard": {"architecture": "standard"},
    "topk": {"architecture": "topk", "k": 5},
    "jumprelu": {"architecture": "jumprelu"},
    "layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
}


# -- what rounding leaves sure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_what_is_sure_is_so_of_the_vectors_before_they_were_rounded(
    case: str, seed: int, size: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is left out does not fire, what is sure does, and codes are as near as they say; by the papers' formulas."""
    write, formula = CASES[case]
    dictionary = load_dictionary(str(write(tmp_path_factory.mktemp("sae"))))
    encoder = SparseEncoder(dictionary)
    true = torch.randn(400, D, generator=torch.Generator().manual_seed(seed)) * size
    stored = true.half().float()
    found, off = encoder.fired(stored, U), encoder.moved(stored, U)
    wanted, kept = formula(true), formula(stored)
    told = torch.zeros_like(kept)
    told[found.rows[found.on], found.latents[found.on]] = found.codes[found.on]
    assert torch.allclose(told, kept, atol=1e-4 * size, rtol=1e-4)
    there = torch.zeros_like(kept, dtype=torch.bool)
    there[found.rows, found.latents] = True
    assert not wanted[~there].any()
    rows, latents = found.rows[found.sure], found.latents[found.sure]
    assert (wanted[rows, latents] != 0).all()
    gap = (wanted[rows, latents] - found.codes[found.sure]).abs()
    assert (gap <= encoder.gains[latents] * off[rows] + 1e-4 * found.codes[found.sure].abs() + 1e-5).all()
    assert float(found.sure.float().mean()) > 0.9  # most is


# -- banks ------------------------------------------------------------------------------------------------------------------


def written(folder: Path, kind: str, width: int = 32, latents: int = LATENTS, dead: int = 3) -> Path:
    """Write a random dictionary as SAELens does, of which one latent never fires."""
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(len(kind))
    tensors = {
        "W_enc": torch.randn(width, latents, generator=rng), "b_enc": torch.randn(latents, generator=rng) - 1,
        "W_dec": torch.randn(latents, width, generator=rng), "b_dec": torch.randn(width, generator=rng) / 10,
    }  # fmt: skip
    tensors["b_enc"][dead] = -1e6
    if kind == "jumprelu":
        tensors["threshold"] = torch.rand(latents, generator=rng)
    save_file(tensors, folder / "sae_weights.safetensors")
    told = {"d_in": width, "d_sae": latents, "apply_b_dec_to_input": True, "dtype": "float32", **KINDS[kind]}
    (folder / "cfg.json").write_text(json.dumps(told))
    return folder


@dataclass
class Held:
    """A bank, a dictionary, and the codes that the model gives at all its rows and positions."""

    study: iv.Study
    bank: ActivationBank
    site: str
    dense: Tensor
    """[row, position, latent]."""
    stored: Tensor
    """The same of the vectors as they are stored."""


@pytest.fixture(scope="module")
def bank(addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    folder = tmp_path_factory.mktemp("latents") / "bank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inversionview.bank.manifest.SHARD_ROWS", 1024)
        return iv.build_bank(addition, folder, rows=ROWS, sites=["x0.post", "a0.1"], positions=POSITIONS)


@pytest.fixture(scope="module", params=[*KINDS, "head"])
def held(
    request: pytest.FixtureRequest, addition: iv.Study, bank: ActivationBank, tmp_path_factory: pytest.TempPathFactory
) -> Held:
    kind, base = ("topk", "a0.1") if request.param == "head" else (request.param, "x0.post")
    folder = written(tmp_path_factory.mktemp("dictionary") / "sae", kind)
    site = find_site(f"{base}|sae:{folder}", addition.model.sites)
    tokens = bank.tokens(np.arange(ROWS))
    named = addition.inputs.named_positions(tokens)
    at = torch.from_numpy(np.stack([named[name] for name in POSITIONS], axis=1))
    dense = addition.model.activations(torch.from_numpy(tokens), [site], at)[0]
    x = torch.stack([bank.activations(base, name, np.arange(ROWS)) for name in POSITIONS], dim=1)
    with pytest.MonkeyPatch.context() as patch:  # several parts of a shard
        patch.setattr(codes_module, "_ENTRIES", 256)
        codes = codes_of(bank, site)
    assert len(codes.parts) == 2 * 6
    return Held(addition, bank, site.short, dense, load_dictionary(str(folder)).encode(x))


def spread(stored: Tensor, latent: int) -> float:
    """The interquartile range of a latent's codes where it fires; of equal ones their size."""
    some = stored[..., latent][stored[..., latent] != 0].double().numpy()
    low, high = np.quantile(some, [0.25, 0.75])
    return float(high - low) or float(abs(some[0]))


def apart(query: float, codes: Tensor, unit: float) -> Tensor:
    """|p − p_q| in units of the spread; what is off is no neighbour of what is on."""
    d = (codes - query).abs() / unit
    return torch.where((codes != 0) != (query != 0), d + 64, d)


def test_how_often_latents_fire_and_how_far_they_are_spread(held: Held) -> None:
    summary = codes_of(held.bank, find_site(held.site, held.study.model.sites)).summary
    assert summary.rows == 2 * ROWS
    counts = (held.stored != 0).sum((0, 1))
    assert (summary.counts == counts.numpy()).mean() > 0.9  # where a sum of another order decides, none is wrong by much
    assert np.abs(summary.counts - counts.numpy()).max() <= 2
    assert (summary.counts[3], summary.spreads[3]) == (0, 0)
    for latent in np.flatnonzero(summary.counts > 8):
        assert summary.spreads[latent] == pytest.approx(spread(held.stored, latent), rel=1e-2)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_search_at_a_latent_is_brute_force(held: Held, data: st.DataObject) -> None:
    """All that the model puts inside ε, and the distances of the k nearest; on, off, at one position or all, of few rows."""
    fires = (held.dense != 0).sum((0, 1))
    latent = data.draw(st.sampled_from(np.flatnonzero(fires.numpy() > 5).tolist()))
    at = data.draw(st.sampled_from([None, "=", "A1"]))
    epsilon = data.draw(st.sampled_from([1e-3, 0.05, 0.3, 2.0]))
    k = data.draw(st.sampled_from([0, 3, 40]))
    first = data.draw(st.sampled_from([None, 700]))
    row, place = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, 1))
    allowed = np.random.default_rng(row).random(ROWS) < 0.5 if data.draw(st.booleans()) else None
    site = find_site(f"{held.site}#{latent}", held.study.model.sites)
    query = held.dense[row, place, [latent]]
    found = next(search(held.bank, site, query[None], epsilon=epsilon, at=at, k=k, first=first, allowed=allowed))
    unit = float(codes_of(held.bank, site).summary.spreads[latent])
    part = held.dense[:, [0, 1] if at is None else [POSITIONS.index(at)], latent]
    d = apart(float(query), part, unit).min(1).values.numpy()
    d[np.arange(ROWS) >= (first or ROWS)] = np.inf
    d = d if allowed is None else np.where(allowed, d, np.inf)
    clear = np.abs(d - epsilon) > 1e-3 * epsilon + 1e-5  # of the rest a sum of another order decides
    inside = found.within(epsilon).rows
    assert np.array_equal(np.sort(inside[clear[inside]]), np.flatnonzero((d <= epsilon) & clear))
    assert len(np.unique(found.rows)) == len(found)
    assert len(found) >= min(k, int(np.isfinite(d).sum()))
    nearest = np.sort(d)[: len(found)]
    assert np.allclose(np.sort(found.distances), nearest, rtol=1e-2, atol=2e-2)
    assert (np.diff(found.distances) >= 0).all()


def test_a_row_that_hardly_fires_finds_itself(held: Held) -> None:
    """Where the stored vector is off, or may be, but the model's own is not."""
    codes, tried = codes_of(held.bank, find_site(held.site, held.study.model.sites)), 0
    for latent in range(LATENTS):
        entries = [(place, each) for place, each in codes.entries(latent, [0, 1])]
        brink = [(row, place) for place, each in entries for row in each.rows[~each.sure].tolist()]
        fires = [(row, place) for row, place in brink if held.dense[row, place, latent] != 0][:3]
        for row, place in fires:
            site = find_site(f"{held.site}#{latent}", held.study.model.sites)
            found = next(search(held.bank, site, held.dense[row, place, [latent]][None], epsilon=1e-3))
            assert row in found.rows
            tried += 1
    assert tried > 5


def test_as_stored_vectors_have_it(held: Held) -> None:
    """Without the model the answer is that of the codes of stored vectors."""
    latent = int((held.stored != 0).sum((0, 1)).argmax())
    site = find_site(f"{held.site}#{latent}", held.study.model.sites)
    for row in range(0, ROWS, 300):
        query = held.stored[row, 0, [latent]]
        found = next(search(held.bank, site, query[None], epsilon=0.1, verify=False))
        unit = float(codes_of(held.bank, site).summary.spreads[latent])
        d = apart(float(query), held.stored[:, :, latent], unit).min(1).values.numpy()
        clear = np.abs(d - 0.1) > 1e-3
        assert np.array_equal(np.sort(found.rows[clear[found.rows]]), np.flatnonzero((d <= 0.1) & clear))


def test_all_latents_are_ranked_as_brute_force_has_them(held: Held) -> None:
    query = held.study.query(TEXT, at="=", site=held.site)
    made = iv.latents(held.study, query, bank=held.bank, epsilon=0.2, verify=True)
    quick = iv.latents(held.study, query, bank=held.bank, epsilon=0.2)
    assert [each.latent for each in made.items] != []
    assert {each.latent for each in made.items} == set(np.flatnonzero(query.z.numpy()).tolist())
    assert made.off == LATENTS - len(made.items)
    units = codes_of(held.bank, query.site).summary.spreads
    never = (held.stored == 0).all(0).all(0)
    assert made.dead == int((never & (query.z == 0)).sum()) >= 1
    own = held.bank.rows_of(query.ids, query.position)
    stored = {each.latent: each for each in quick.items}
    for each in made.items:
        if each.spread is None:
            assert (each.bits.hits, each.bits.bounded) == (0, True)
            continue
        d = apart(each.code, held.dense[:, :, each.latent], float(units[each.latent])).min(1).values
        d[own] = torch.inf
        low, high = (int((d <= 0.2 * (1 + s)).sum()) for s in (-1e-3, 1e-3))
        assert low <= each.bits.hits <= high
        assert each.bits.inputs == ROWS - len(own)
        if each.bits.hits:
            assert each.bits.value == pytest.approx(log2(each.bits.inputs / each.bits.hits))
        assert each.fires == pytest.approx(int((held.stored[..., each.latent] != 0).sum()), abs=2)
        assert abs(stored[each.latent].bits.hits - each.bits.hits) <= stored[each.latent].unsure
    assert [each.bits.value for each in made.items] == sorted((each.bits.value for each in made.items), reverse=True)
    for each in made.items:
        for place in each.strongest:
            assert len(place.tokens) > place.position > 0


def test_a_latent_needs_no_harvest_of_its_own(held: Held) -> None:
    """The public search: same answer as the ranking, and no bank beside the one that holds what the dictionary reads."""
    study = held.study
    ranked = iv.latents(study, TEXT, at="=", site=held.site, bank=held.bank, epsilon=0.2, verify=True)
    told = next(each for each in ranked.items if each.bits.hits > 3)
    query = study.query(TEXT, at="=", site=f"{held.site}#{told.latent}")
    found = iv.search(study, query, bank=held.bank, epsilon=0.2)
    assert found.bits == told.bits
    assert {sample.inside for sample in found.samples} == {True}
    assert study.model.metric(found.distance, query.site).gain is not None
    assert float(study.model.metric(found.distance, query.site).gain) == pytest.approx(1 / (told.spread or 0), rel=1e-6)
    share = iv.search(study, query, bank=held.bank, epsilon="1/50")
    assert share.bits is not None
    assert share.bits.hits >= share.bits.inputs // 50
    with pytest.raises(SettingError, match="never fires in 3,000 inputs of the bank"):
        iv.search(study, study.query(TEXT, at="=", site=f"{held.site}#3"), bank=held.bank)
    with pytest.raises(SettingError, match="searched exactly"):
        iv.search(study, query, bank=held.bank, approximate=True)


# -- files ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(
    addition: iv.Study, bank: ActivationBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], ActivationBank]:
    """What opens a copy of the bank, without any codes at first."""
    monkeypatch.setattr("inversionview.bank.manifest.SHARD_ROWS", 1024)
    monkeypatch.setattr(codes_module, "_ENTRIES", 256)
    shutil.copytree(bank.folder, tmp_path / "bank", ignore=shutil.ignore_patterns("latents"))
    return lambda: ActivationBank.open(tmp_path / "bank", addition.model, addition.inputs)


def everything(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert not path.name.endswith((".tmp", ".old", ".lock")), path
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.parametrize("what", ["codes", "rows", "starts", "moved", "checksums"])
def test_damage_is_told_or_mended(copy: Callable[[], ActivationBank], addition: iv.Study, tmp_path: Path, what: str) -> None:
    site = find_site(f"x0.post|sae:{written(tmp_path / 'sae', 'topk')}", addition.model.sites)
    folder = codes_of(copy(), site).folder
    sound = everything(folder)
    part = sorted(folder.glob("part-*"))[1]
    path = part / ("checksums.json" if what == "checksums" else f"{what}.npy")
    for at in (path.stat().st_size - 3, 20, path.stat().st_size // 2):
        flip(path, at)
        said = ""
        try:
            damaged = codes_of(copy(), site)
            for latent in range(LATENTS):
                list(damaged.entries(latent, [0, 1]))
        except BankError as error:
            said = str(error)
            assert str(part) in said
            shutil.rmtree(part)
        assert said or everything(folder) == sound, "damage was read"
        codes_of(copy(), site)
        assert everything(folder) == sound


def test_what_is_short_or_missing_is_made_again(copy: Callable[[], ActivationBank], addition: iv.Study, tmp_path: Path) -> None:
    site = find_site(f"x0.post|sae:{written(tmp_path / 'sae', 'topk')}", addition.model.sites)
    folder = codes_of(copy(), site).folder
    sound = everything(folder)
    (folder / "part-00-0000000256" / "codes.npy").write_bytes(b"")
    shutil.rmtree(folder / "part-01-0000001024")
    (folder / "summary.npz").write_bytes(b"PK")
    made = codes_of(copy(), site)
    assert made.summary.rows == 2 * ROWS
    assert everything(folder) == sound
    (folder / "manifest.json").write_text("{}")
    codes_of(copy(), site)
    assert everything(folder) == sound
    written(tmp_path / "other", "standard")
    other = find_site(f"x0.post|sae:{tmp_path / 'other'}", addition.model.sites)
    assert opened(copy(), other).folder != folder
    assert not opened(copy(), other).there


def test_an_encoding_that_was_killed_goes_on_and_is_equal(
    copy: Callable[[], ActivationBank], addition: iv.Study, tmp_path: Path
) -> None:
    site = find_site(f"x0.post|sae:{written(tmp_path / 'sae', 'topk')}", addition.model.sites)
    whole = codes_of(copy(), site)
    sound, folder = everything(whole.folder), whole.folder
    for after in (0, 1, 4, 11):
        shutil.rmtree(folder)
        pid = os.fork()
        if not pid:
            calls = iter(range(100))

            def killed(share: float, note: str, after: int = after, calls: object = calls) -> None:
                if next(calls) == after:  # type: ignore[call-overload]
                    os.kill(os.getpid(), signal.SIGKILL)

            torch.set_num_threads(1)
            codes_of(copy(), site, killed)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        left = opened(copy(), site)
        assert not left.there
        assert len(list(folder.glob("part-*"))) == after
        codes_of(copy(), site)
        assert everything(folder) == sound


def test_a_folder_that_cannot_be_written(
    copy: Callable[[], ActivationBank], addition: iv.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_cache: Path
) -> None:
    """Codes lie in the user's cache then."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    site = find_site(f"x0.post|sae:{written(tmp_path / 'sae', 'topk')}", addition.model.sites)
    made = codes_of(copy(), site)
    assert user_cache in made.folder.parents
    assert opened(copy(), site).there


# -- commands and mistakes --------------------------------------------------------------------------------------------------


def test_the_command(addition: iv.Study, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("latents", "addition", TEXT, "--at", "=", "--site", "x0.post|sae:addition")
    code, out, _ = command(capsys, *asked, "--json", "--out", str(tmp_path / "t.csv"), "--epsilon", "0.3")
    assert code == 0
    told = json.loads(out)
    made = iv.latents(addition, TEXT, at="=", site="x0.post|sae:addition", epsilon=0.3)
    assert [each["latent"] for each in told["items"]] == [each.latent for each in made.items]
    assert (told["fire"] + told["off"], told["latents"], told["epsilon"]) == (128, 128, 0.3)
    assert told["dead"] == made.dead
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 1 + told["fire"]
    code, out, _ = command(capsys, *asked, "--epsilon", "0.3", "--count", "2")
    assert code == 0
    assert f"{told['fire']} of 128 latents fire" in " ".join(out.split())
    assert f"#{made.items[0].latent}" in out
    assert f"#{made.items[2].latent} " not in out
    assert "<pre" in made._repr_html_()
    assert len(made.records()) == len(made)


def test_latents_of_any_text(capsys: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path) -> None:
    """Every token of natural text: bits by windows, as the search of one latent has them, and a bank of the stream alone."""
    pairs = [(a, b) for a in ("ann", "bob", "cat", "dan") for b in ("fig", "nut", "pie", "tea")] * 3
    (tmp_path / "t.txt").write_text("".join(f"{a} has a {b}\n" for a, b in pairs), encoding="utf-8")
    study = iv.load(model=str(own_model), texts=str(tmp_path / "t.txt"))
    sae = written(tmp_path / "sae", "topk", study.model.shape.d_model)
    made = iv.latents(study, "ann has a fig", at=-1, site=f"x0.post|sae:{sae}", verify=True)
    assert made.unit == "tokens"
    told = next(each for each in made.items if each.bits.hits > 1)
    found = iv.search(study, "ann has a fig", at=-1, site=f"x0.post|sae:{sae}#{told.latent}")
    assert found.bits == told.bits
    assert told.bits.windows is not None
    assert [site.short for site in study.bank(site=made.query.site.base).sites] == ["x0.post"]
    assert any(each.feature is not None for each in made.items)
    asked = ("--model", str(own_model), "--texts", str(tmp_path / "t.txt"), "ann has a fig", "--at", "-1", "--site")
    code, out, _ = command(capsys, "search", *asked, f"x0.post|sae:{sae}#{told.latent}", "--json")
    assert code == 0
    assert json.loads(out)["bits"] == told.bits.to_json()


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("x0.post", "names no dictionary"),
        (None, "Name a dictionary"),
        ("x0.post|sae:addition#3", "is one latent"),
        ("x0.post|sae:addition#128", "has latents 0 to 127, not 128"),
        ("x0.post|sae:{wide}", "is for vectors of 33 numbers, but x0.post has 32"),
        ("x0.post|sae:{wide}x", "wide"),
        ("x0.post@{wide}", "wide"),
    ],
)
def test_what_has_no_latents(capsys: pytest.CaptureFixture[str], tmp_path: Path, site: str | None, says: str) -> None:
    wide = written(tmp_path / "wide", "standard", 33)
    told = [] if site is None else ["--site", site.format(wide=wide)]
    code, out, err = command(capsys, "latents", "addition", TEXT, "--at", "=", *told)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1


def test_ranges(addition: iv.Study, bank: ActivationBank) -> None:
    for wrong in ({"epsilon": 0.0}, {"epsilon": float("nan")}, {"count": -1}, {"fixed": "F9"}):
        with pytest.raises(InversionViewError):
            iv.latents(addition, TEXT, at="=", site="x0.post|sae:addition", bank=bank, **wrong)


def test_a_bank_of_something_else(addition: iv.Study, tmp_path: Path) -> None:
    other = iv.build_bank(addition, tmp_path / "bank", rows=300, sites=["a0.1"], positions=["="])
    with pytest.raises(InversionViewError, match=r"holds a0\.1, not x0\.post"):
        iv.latents(addition, TEXT, at="=", site="x0.post|sae:addition", bank=other)


def test_the_command_says_how_long_encoding_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Once, and not again."""
    sae = written(tmp_path / "sae", "topk")
    asked = ("search", "addition", TEXT, "--at", "=", "--site", f"x0.post|sae:{sae}#7")
    said = [command(capsys, *asked) for _ in range(2)]
    assert [code for code, _, _ in said] == [0, 0]
    assert "once, about" in said[0][2]
    assert said[1][2] == ""
