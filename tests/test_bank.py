"""Banks and their search, against brute force over every input; closed forms for bits; damage of every kind."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import inversionview as iv
from inversionview.bank import harvest, index, manifest, measure, scan, shards
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.manifest import read_manifest
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core import errors, information
from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance
from inversionview.corpora.places import EveryToken
from inversionview.model.distances import geometry as distances
from inversionview.model.distances.metric import Metric
from inversionview.studies.addition.corpus import AdditionInputs
from inversionview.studies.registry import defined
from tests.test_cli import run

ROWS = 3000
COUNT = "vvzccvczvvvzvcvc|v:8"


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Several shards and passes even in a small bank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "SHARD_ROWS", 1024)
        patch.setattr(harvest, "_PASS_BYTES", 2**22)
        yield


@pytest.fixture(scope="module", params=["float16", "float32"])
def bank(request: pytest.FixtureRequest, counting: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    folder = tmp_path_factory.mktemp("banks") / request.param
    return iv.build_bank(counting, folder, rows=ROWS, precision=request.param)


@pytest.fixture(scope="module")
def exact(counting: iv.Study) -> tuple[np.ndarray, Tensor]:
    """Tokens of the corpus' first inputs, and their activations at every site, ``[site, row, position, d_model]``."""
    tokens = counting.inputs.corpus(np.arange(ROWS))
    return tokens, counting.model.activations(torch.from_numpy(tokens), counting.sites)


def brute(
    counting: iv.Study, exact: tuple[np.ndarray, Tensor], query: iv.Query, kind: Distance, names: list[str]
) -> np.ndarray:
    """D of every input, from the definition: the minimum over named positions."""
    tokens, z = exact
    named = counting.inputs.named_positions(tokens)
    of_site = z[counting.sites.index(query.site)]
    each = [distances.between(kind, query.z, of_site[torch.arange(ROWS), torch.from_numpy(named[n])]) for n in names]
    return torch.stack(each).min(0).values.numpy()


def test_a_bank_holds_the_activations_of_its_corpus(
    bank: ActivationBank, counting: iv.Study, exact: tuple[np.ndarray, Tensor]
) -> None:
    assert len(bank.shards) == 3
    tokens, z = exact
    rows = np.array([2999, 5, 1500, 5])
    assert (bank.tokens(rows) == tokens[rows]).all()
    at = counting.inputs.named_positions(tokens)["query"][rows]
    for site in ("x0.pre", "m0", "x1.post"):
        wanted = z[counting.sites.index(iv.Site.parse(site)), rows, at]
        found = bank.activations(site, "query", rows)
        tolerance = 2**-10 if bank.manifest.precision == "float16" else 1e-4
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("names", [["query", ":"], [":"]])
def test_search_finds_what_brute_force_finds(
    bank: ActivationBank, counting: iv.Study, exact: tuple[np.ndarray, Tensor], kind: Distance, names: list[str]
) -> None:
    texts = [COUNT, "abcabcabcabc|a:4", "zzzzzzzzzxy|x:1"]
    for site in counting.sites:
        queries = [counting.query(text, at=at, site=site) for text in texts for at in ("query", ":")]
        found = search(bank, site, torch.stack([q.z for q in queries]), epsilon=0.15, distance=kind, at=names, k=7)
        for query, hits in zip(queries, found, strict=True):
            wanted = brute(counting, exact, query, kind, names)
            near = {int(i) for i in np.flatnonzero(wanted <= 0.15 - 2e-6)}
            inside = hits.within(0.15)
            assert near <= set(inside.rows.tolist())
            assert len(inside) <= (wanted <= 0.15 + 2e-6).sum()
            assert len(hits) == max(len(inside), 7)
            # fp16 moves distances by up to 2⁻¹¹; the seven nearest are so up to that
            np.testing.assert_allclose(hits.distances[:7], np.sort(wanted)[:7], atol=2e-3)
            np.testing.assert_allclose(hits.distances, wanted[hits.rows], atol=2e-3)


@st.composite
def clouds(draw: st.DrawFn) -> np.ndarray:
    """Vectors that are hard to sketch: of low rank, equal, zero, constant in a coordinate, far out, at the ends of fp16."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, width = draw(st.integers(1, 600)), draw(st.sampled_from([1, 2, 5, 7, 8, 20, 33, 64, 128, 129, 300, 600]))
    rank, size = draw(st.integers(1, 12)), draw(st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 1e3]))
    x = size * (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width)) + draw(st.sampled_from([0, 1, 30])))
    some, fault = rng.random(rows) < 0.2, draw(st.sampled_from(["none", "equal", "zero", "far", "coordinate", "constant"]))
    if fault == "equal":
        x[:] = x[0]
    elif fault == "zero":
        x[some] = 0
    elif fault == "far":
        x[some] *= 1e3
    elif fault == "coordinate":
        x[:, 0] = np.where(some, 6e4, -6e4)
    elif fault == "constant":
        x[:, : width // 2] = 3
    return x.clip(-65504, 65504).astype(draw(st.sampled_from([np.float16, np.float32])))


def found_by(asked: index.Index, queries: Tensor, radii: Tensor) -> set[tuple[int, int]]:
    pairs = scan.survivors(asked, queries, radii)
    return {(int(q), int(r)) for which, rows in pairs for q, r in zip(which, rows, strict=True)}


@pytest.mark.parametrize("kernel", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    x=clouds(), seed=st.integers(0, 2**32 - 1), unit=st.booleans(), moved=st.sampled_from([0, 1e-3, 0.1, 10]),
    radius=st.sampled_from([0, 1e-3, 0.1, 0.5, 1.5, math.inf]), queries=st.integers(1, 9),
)  # fmt: skip
def test_the_index_never_rules_out_what_lies_within(
    kernel: bool, x: np.ndarray, seed: int, unit: bool, moved: float, radius: float, queries: int
) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random(len(x)) < 0.9
    vectors = torch.from_numpy(x).float()
    wanted = vectors[torch.from_numpy(rng.integers(len(x), size=queries))]
    wanted = wanted + moved * wanted.norm(dim=1, keepdim=True) * torch.from_numpy(rng.normal(size=x.shape[1])).float()
    radii = radius * wanted.norm(dim=1)
    if unit:
        vectors, wanted = (torch.nn.functional.normalize(v, dim=1, eps=1e-30) for v in (vectors, wanted))
        radii = torch.full((queries,), radius)
    radii = radii.nan_to_num(0.0, posinf=math.inf)
    with pytest.MonkeyPatch.context() as patch:
        if not kernel:
            patch.setattr(scan, "_KERNEL", None)
        pairs = found_by(index.build(x, present, Metric("cosine" if unit else "euclidean")), wanted, radii)
    gaps = torch.stack([(vectors.double() - query.double()).norm(dim=1) for query in wanted])
    near = (gaps <= radii[:, None]) & torch.from_numpy(present)
    assert {(int(q), int(r)) for q, r in near.nonzero()} <= pairs
    assert all(present[r] for _, r in pairs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), byte=st.integers(0, 2**32 - 1), order=st.booleans(), value=st.integers(1, 255),
    radius=st.floats(0, 3), queries=st.integers(1, 6),
)  # fmt: skip
def test_a_damaged_index_is_told_or_changes_nothing(
    seed: int, byte: int, order: bool, value: int, radius: float, queries: int
) -> None:
    """Of a slice of some blocks, of which a search checks those that it looks at."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(10_000, 5, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1])
    sound = index.build(x.numpy(), np.ones(len(x), dtype=np.bool_))
    wanted, radii = x[torch.randint(len(x), (queries,), generator=generator)], torch.full((queries,), radius)
    parts = {"codes": sound.codes.copy(), "order": sound.order.copy()}
    name = "order" if order else "codes"
    bytes_of = parts[name].reshape(-1).view(np.uint8)
    where = byte % len(bytes_of)
    bytes_of[where] ^= value
    item = where // (4 if order else index.PLANE)

    def check(part: str, start: int, stop: int) -> None:
        if part == name and start <= item < stop:
            raise ValueError

    damaged = sound._replace(**parts, check=check)
    try:
        assert found_by(damaged, wanted, radii) == found_by(sound, wanted, radii)
    except ValueError:
        return


@settings(max_examples=60, deadline=None)
@given(x=clouds(), seed=st.integers(0, 2**32 - 1), moved=st.sampled_from([0, 1e-4, 0.1, 1]))
@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_rows_are_measured_as_the_distance_is_defined(kind: Distance, x: np.ndarray, seed: int, moved: float) -> None:
    rng = np.random.default_rng(seed)
    queries = torch.from_numpy(x[rng.integers(len(x), size=3)]).float()
    queries = queries + moved * queries.norm(dim=1, keepdim=True) * torch.from_numpy(rng.normal(size=x.shape[1])).float()
    which, ruler = rng.integers(3, size=len(x)), measure.Ruler(Metric(kind), queries)
    wanted = distances.between(kind, queries[:, None].double(), torch.from_numpy(x).double())
    pairs = wanted[torch.from_numpy(which), torch.arange(len(x))]
    for found, true in ((ruler.of_pairs(which, x), pairs), *((ruler.of_one(q, x), wanted[q]) for q in range(3))):
        finite = true.isfinite()
        assert (found.isfinite() == finite).all()
        torch.testing.assert_close(found[finite].double(), true[finite], rtol=1e-5, atol=2e-6)


@given(st.lists(st.sampled_from([0.0, -0.0, 1e-30, 0.1, 0.5, math.inf]), min_size=1), st.integers(1, 400))
def test_hits_are_sorted_and_equal_ones_stay_as_they_are(some: list[float], times: int) -> None:
    d = np.array(some * times, dtype=np.float32)
    assert (measure.by_distance(d) == np.argsort(d, kind="stable")).all()


def test_the_index_rules_most_out(bank: ActivationBank, counting: iv.Study) -> None:
    query = counting.query(COUNT, at=":", site="a1.0")
    shard = bank.shards[0].index(bank.site_number("a1.0"), 1)
    left = sum(len(rows) for _, rows in scan.survivors(shard, query.z[None], 0.1 * query.z.norm()[None]))
    assert left < 0.2 * shard.present


def test_preimage_of_the_corpus(bank: ActivationBank, counting: iv.Study, exact: tuple[np.ndarray, Tensor]) -> None:
    query = counting.query(COUNT, at=":", site="a1.0")
    preimage = iv.search(counting, query, epsilon=0.2, k=5, bank=bank)
    wanted = brute(counting, exact, query, "euclidean", ["query", ":"])
    assert len(preimage.inside) == (wanted <= 0.2).sum() > 0
    assert [s.distance for s in preimage] == sorted(s.distance for s in preimage)
    texts = {counting.model.vocabulary.decode([i for i in row if i != counting.inputs.pad]) for row in exact[0][wanted <= 0.2]}
    assert {s.text for s in preimage.inside} == texts
    for sample in preimage:
        again = counting.query(sample.text, at=sample.position, site="a1.0")
        assert float(distances.euclidean(query.z, again.z)) == pytest.approx(sample.distance, abs=1e-5)
        assert sample.source == "corpus"
        assert sample.effect is None
    assert preimage.bits == information.bits(len(preimage.inside), ROWS)


def test_the_query_itself_never_counts(bank: ActivationBank, counting: iv.Study) -> None:
    text = counting.model.vocabulary.decode([i for i in bank.tokens(np.array([1234]))[0] if i != counting.inputs.pad])
    query = counting.query(text, at="query", site="x1.post")
    preimage = iv.search(counting, query, bank=bank, k=3, epsilon=1e-5)
    assert text not in {s.text for s in preimage}
    assert len(preimage) >= 3
    assert preimage.bits is not None
    assert preimage.bits.inputs == ROWS - 1


def test_k_nearest_when_nothing_is_inside(bank: ActivationBank, counting: iv.Study, exact: tuple[np.ndarray, Tensor]) -> None:
    query = counting.query(COUNT, at=":", site="x0.mid")
    preimage = iv.search(counting, query, epsilon=1e-7, k=12, bank=bank, fixed="query")
    wanted = np.sort(brute(counting, exact, query, "euclidean", ["query"]))[:12]
    np.testing.assert_allclose([s.distance for s in preimage], wanted, rtol=1e-2)
    assert preimage.bits is not None
    assert (preimage.bits.hits, preimage.bits.high) == (0, None)
    assert f"≥ {int(100 * preimage.bits.low) / 100:.2f} bits" in repr(preimage)


@pytest.mark.parametrize(("name", "wanted"), [("query", "letter and length"), (":", "length")])
def test_bits_of_the_embedding_in_closed_form(bank: ActivationBank, counting: iv.Study, name: str, wanted: str) -> None:
    """x0.pre is token plus position: its preimage is the inputs with this token at this position, at ':' any of that length."""
    features = counting.inputs.features(bank.tokens(np.arange(ROWS)))
    query = counting.query(COUNT, at=name, site="x0.pre")
    preimage = iv.search(counting, query, bank=bank, fixed=name, epsilon=0.01)
    same = features["length"] == 16
    same &= features["letter"] == "v" if "letter" in wanted else True
    assert preimage.bits is not None
    assert preimage.bits.hits == same.sum() > 0
    assert preimage.bits.value == pytest.approx(-math.log2(same.mean()))


def test_bits_of_a_constant_and_of_an_injective_site() -> None:
    constant, injective = information.bits(999, 999), information.bits(0, 1024)
    assert constant.value == 0
    assert constant.low == 0
    assert injective.value == 10
    assert injective.high is None
    assert injective.low < 10


@settings(max_examples=30, deadline=None)
@given(trials=st.integers(1, 60), share=st.floats(0, 1))
def test_clopper_pearson_is_its_definition(trials: int, share: float) -> None:
    """At the ends of the interval the tail probability of the binomial distribution, summed by hand, is 2.5 %."""
    hits = round(share * trials)
    low, high = information.clopper_pearson(hits, trials)

    def tail(p: float, counts: range) -> float:
        return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in counts)

    assert tail(low, range(hits, trials + 1)) == pytest.approx(0.025, abs=1e-9) if hits else low == 0
    assert tail(high, range(hits + 1)) == pytest.approx(0.025, abs=1e-9) if hits < trials else high == 1


def test_a_corpus_goes_on_with_rows_drawn_anew(counting: iv.Study, addition: iv.Study) -> None:
    n = len(counting.inputs)
    first, second = (counting.inputs.corpus(np.arange(5) + lap * n) for lap in (0, 1))
    assert (first != second).any()
    one, two = (counting.inputs.features(tokens) for tokens in (first, second))
    assert all((one[name] == two[name]).all() for name in one)
    assert addition.inputs.corpus_size == 810_000
    with pytest.raises(errors.SettingError, match="810,000 inputs"):
        iv.build_bank(addition, "nowhere", rows=810_001)


def test_an_interrupted_build_goes_on(counting: iv.Study, tmp_path: Path) -> None:
    def stop(share: float, note: str) -> None:
        if share * 2500 > 1500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iv.build_bank(counting, tmp_path, rows=2500, sites="x0.pre", report=stop)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["manifest.json", "shard-00000"]
    kept = (tmp_path / "shard-00000" / "activations.npy").stat().st_mtime_ns
    with pytest.raises(errors.BankError, match="lacks 2 of 3"):
        ActivationBank.open(tmp_path, counting.model, counting.inputs)
    iv.build_bank(counting, tmp_path, rows=2500, sites="x0.pre")
    assert (tmp_path / "shard-00000" / "activations.npy").stat().st_mtime_ns == kept
    assert len(ActivationBank.open(tmp_path, counting.model, counting.inputs)) == 2500


def _build(folder: str, rank: int) -> None:
    manifest.SHARD_ROWS = 1024
    study = iv.load("counting")
    iv.build_bank(study, folder, rows=ROWS, sites="a1.0", rank=rank, world=2)


def test_two_processes_build_one_bank(counting: iv.Study, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_build, args=(str(tmp_path / "two"), rank)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    one = iv.build_bank(counting, tmp_path / "one", rows=ROWS, sites="a1.0")
    for path in sorted((tmp_path / "one").rglob("*.npy")):  # an index is another where sums are taken in another order
        if path.stem in ("activations", "heads", "places", "hashes"):
            other = tmp_path / "two" / path.relative_to(tmp_path / "one")
            np.testing.assert_allclose(np.load(path).astype(float), np.load(other).astype(float), rtol=1e-2, atol=1e-3)
    query = counting.query("vvzccvczvvvzvcvc|v:8", at=":", site="a1.0")
    two = ActivationBank.open(tmp_path / "two", counting.model, counting.inputs)
    found = [next(search(bank, "a1.0", query.z[None], epsilon=0.1)) for bank in (one, two)]
    assert len(found[0]) > 0
    assert set(found[0].rows.tolist()) == set(found[1].rows.tolist())
    with pytest.raises(errors.SettingError, match="rank"):
        iv.build_bank(counting, tmp_path / "two", rows=ROWS, rank=2, world=2)


def test_an_approximate_index_proposes_and_the_exact_distance_decides(
    bank: ActivationBank, counting: iv.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = counting.query(COUNT, at=":", site="a1.0")
    exact = iv.search(counting, query, epsilon=0.2, k=0, bank=bank)
    found = iv.search(counting, query, epsilon=0.2, k=0, bank=bank, approximate=True)
    again = iv.search(counting, query, epsilon=0.2, k=0, bank=bank, approximate=True)
    assert {s.text for s in found} <= {s.text for s in exact}
    assert [s.text for s in again] == [s.text for s in found]
    assert found.recall is not None
    assert len(found) >= 0.8 * found.recall * len(exact)
    assert found.recall >= 0.95
    assert "Approximate: finds" in repr(found)
    wider = iv.search(counting, query, epsilon=0.3, k=0, bank=bank, approximate=True)
    assert wider.recall is not None
    assert wider.recall >= 0.95
    settings = sorted(path.name for path in (bank.folder / "faiss" / "a1.0@:").glob("*.json"))
    assert settings == ["settings-0.2.json", "settings-0.3.json"]  # the recall that is shown is the one at this ε
    path = bank.folder / "faiss" / "a1.0@:" / "index.faiss"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.BankError, match="damaged"):
        iv.search(counting, query, bank=bank, approximate=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(errors.SettingError, match="pip install"):
        iv.search(counting, query, bank=bank, approximate=True)


def test_an_approximate_index_where_rows_lack_the_position(addition: iv.Study, tmp_path: Path) -> None:
    """Sums of three digits have no A4: they are neither proposed nor asked for the recall."""
    bank = iv.build_bank(addition, tmp_path, rows=1500, sites="x0.post", positions=["A4"])
    found = iv.search(addition, addition.query("615+861=1476", at="A4", site="x0.post"), bank=bank, k=0, approximate=True)
    assert found.recall is not None
    assert 0.95 <= found.recall <= 1
    assert all(sample.position == 12 for sample in found)


class Digits(AdditionInputs):
    """Additions of which every token behind BOS is a place of its own, EOS too."""

    every_token = True

    def occurring(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        return (tokens != self.pad) & (np.arange(tokens.shape[1]) > 0)


def test_a_corpus_may_have_a_place_at_every_token(addition: iv.Study, tmp_path: Path) -> None:
    """Bank and search take their rows from the corpus' places, whatever these are."""
    inputs, site = Digits(), iv.Site.parse("x1.post")
    count = 150
    rows_of = EveryToken(inputs).begun(count)
    bank = harvest_bank(tmp_path, addition.model, inputs, rows=rows_of, sites=[site], precision="float32")
    assert len(bank.shards) > 1
    tokens = inputs.corpus(np.arange(count))
    every = addition.model.activations(torch.from_numpy(tokens), [site])[0]
    own = np.argwhere((tokens != inputs.pad) & (np.arange(tokens.shape[1]) > 0))
    assert len(own) == len(bank)
    z = every[own[:, 0], own[:, 1]]
    rows = np.random.default_rng(0).permutation(len(bank))
    torch.testing.assert_close(bank.activations(site, "all", rows), z[rows], atol=1e-4, rtol=1e-4)
    assert (bank.tokens(rows) == tokens[own[rows, 0]]).all()
    for query in rows[:20]:
        d = (z - z[query]).norm(dim=-1) / z[query].norm()
        (hits,) = search(bank, site, z[query][None], epsilon=0.3)
        assert set(hits.rows.tolist()) == set(np.flatnonzero(d.numpy() <= 0.3).tolist())
        assert np.abs(hits.distances - d.numpy()[hits.rows]).max() < 1e-4


# -- damage and mistakes --------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(bank: ActivationBank, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bank.folder, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["activations", "places", "hashes", "codes", "order", "basis", "scales"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "pickled"])
def test_a_damaged_shard_is_named_and_mended(copy: Path, counting: iv.Study, name: str, damage: str) -> None:
    path = copy / "shard-00001" / f"{name}.npy"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(errors.BankError, match="shard-00001"):
        ActivationBank.open(copy, counting.model, counting.inputs)
    manifest = json.loads((copy / "manifest.json").read_text())
    iv.build_bank(counting, copy, rows=ROWS, precision=manifest["precision"])
    assert path.stat().st_size == len(whole)


def test_nan_activations_are_refused_when_built_and_when_searched(copy: Path, counting: iv.Study, tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(copy / "shard-00002" / "activations.npy", mode="r+")
    array[:] = np.nan
    array.flush()
    written = read_manifest(copy)
    shards.write_checksums(copy / "shard-00002", written.shards[2], written)
    opened = ActivationBank.open(copy, counting.model, counting.inputs)
    with pytest.raises(errors.BankError, match=r"NaN.*shard-00002|shard-00002.*NaN"):
        iv.search(counting, counting.query(COUNT, at=":", site="x0.pre"), bank=opened)
    broken = iv.load("counting")
    broken.model.backend.blocks[1].down[0][0] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(errors.BankError, match=r"NaN or infinite activations at m1, x1\.post"):
        iv.build_bank(broken, tmp_path / "nan", rows=100)


def test_too_large_for_fp16(counting: iv.Study, tmp_path: Path) -> None:
    large = iv.load("counting")
    large.model.backend.wte.mul_(1e6)  # type: ignore[attr-defined]
    with pytest.raises(errors.BankError, match="--dtype fp32"):
        iv.build_bank(large, tmp_path / "a", rows=100, sites="x0.pre")
    iv.build_bank(large, tmp_path / "b", rows=100, sites="x0.pre", precision="float32")


def test_foreign_banks(bank: ActivationBank, addition: iv.Study, counting: iv.Study, tmp_path: Path) -> None:
    with pytest.raises(errors.MismatchError, match="another probed model"):
        iv.search(addition, addition.query("615+861=1476"), bank=bank)
    with pytest.raises(errors.MismatchError, match="another probed model"):
        ActivationBank.open(bank.folder, addition.model, addition.inputs)
    with pytest.raises(errors.MismatchError, match="another corpus"):
        ActivationBank.open(bank.folder, counting.model, addition.inputs)
    with pytest.raises(errors.BankError, match="no bank"):
        ActivationBank.open(tmp_path, counting.model, counting.inputs)
    with pytest.raises(errors.MismatchError, match="inputs = 3000"):
        iv.build_bank(counting, bank.folder, rows=ROWS + 1, precision=bank.manifest.precision)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(errors.BankError, match="damaged"):
        ActivationBank.open(tmp_path, counting.model, counting.inputs)


def test_unknown_places(bank: ActivationBank, counting: iv.Study, tmp_path: Path) -> None:
    query = counting.query(COUNT, at=":", site="a1.0")
    with pytest.raises(errors.UnknownPositionError, match="query"):
        iv.search(counting, query, bank=bank, fixed="quer")
    with pytest.raises(errors.UnknownPositionError, match="END"):
        iv.build_bank(counting, tmp_path, rows=10, positions=["A1"])
    with pytest.raises(errors.SettingError, match="ε"):
        iv.search(counting, query, bank=bank, epsilon=0)
    with pytest.raises(errors.SettingError, match="k must"):
        iv.search(counting, query, bank=bank, k=-1)
    with pytest.raises(errors.SettingError, match="distance"):
        iv.search(counting, query, bank=bank, distance="manhattan")  # type: ignore[arg-type]


# -- the command line -----------------------------------------------------------------------------------------------------


def test_the_first_search_builds_a_bank_and_the_second_reuses_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(defined("counting").spec, "rows", 2000)
    asked = ("search", "counting", COUNT, "--at", ":", "--site", "a1.0", "--json")
    code, out, err = run(capsys, *asked)
    value = json.loads(out)
    assert code == 0
    assert "building one of 2,000 inputs" in " ".join(err.split())
    assert value["source"] == "corpus"
    assert set(value["bits"]) == {"value", "low", "high", "hits", "inputs", "method"}
    assert value["bits"]["inputs"] in (1999, 2000)
    assert value["bits"]["hits"] == sum(s["inside"] for s in value["samples"])
    assert all(s["inside"] == (s["distance"] <= 0.1) and s["source"] == "corpus" for s in value["samples"])
    code, again, err = run(capsys, *asked)
    assert (code, err, json.loads(again)) == (0, "", value)


def test_bank_into_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out_folder = tmp_path / "counting"
    code, out, err = run(capsys, "bank", "counting", "--inputs", "1500", "--out", str(out_folder), "--positions", ":")
    assert (code, out) == (0, "")
    assert "1,500 inputs × 9 sites × 1 positions" in " ".join(err.split())
    code, out, _ = run(capsys, "search", str(out_folder), COUNT, "--at", ":", "--site", "a1.0", "--json", "--k", "3")
    assert code == 0
    assert json.loads(out)["candidates"] in (1499, 1500)
    code, table, _ = run(capsys, "search", "counting", COUNT, "--bank", str(out_folder), "--epsilon", "0.3")
    assert code == 0
    assert "inputs of the corpus lie inside ε" in " ".join(table.split())
    code, _, _ = run(capsys, "read", str(out_folder), COUNT, "--json")  # reads with the shipped decoder
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bank", "counting", "--inputs", "0"), "greater than or equal to 1"),
        (("bank", "counting", "--dtype", "int8"), "fp16 or fp32"),
        (("bank", "addition", "--inputs", "900000"), "810,000 inputs"),
        (("bank", "addition", "--positions", "A9"), "A1"),
        (("bank", "addition", "--sites", "y*"), "There is no site"),
        (("bank", "counting", "--world", "0"), "greater than or equal to 1"),
        (("bank", "counting", "--rank", "2", "--world", "2"), "rank 2"),
        (("search", "counting", COUNT, "--bank", "nowhere"), "no bank"),
        # found before a bank is built: one sentence is all that is said
        (("search", "counting", COUNT, "--epsilon", "-1"), "ε must be"),
        (("search", "counting", COUNT, "--distance", "taxi"), "no distance"),
        (("inform", "counting", "--epsilon", "0"), "ε must be"),
        (("bits", "counting", "--epsilons", "x"), "not a list of numbers"),
        (("bits", "counting", "--epsilons", "0.1,0"), "ε must be"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  arguments: tuple[str, ...], sentence: str) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
