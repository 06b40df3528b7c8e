"""Feature information against its definition, computed by hand from brute-force preimages; and the views of it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import inversionview as iv
from inversionview.analyses import site_positions
from inversionview.analyses.bits import show as bits_show
from inversionview.analyses.bits.measure import bits_curve
from inversionview.analyses.feature_codes import codes_of, pattern
from inversionview.analyses.inform import show as inform_show
from inversionview.analyses.inform.measure import feature_information
from inversionview.analyses.inform.result import Cell, FeatureTable, Total
from inversionview.analyses.site_positions import draw_queries
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core import errors, information
from inversionview.core.arrays import Ids
from inversionview.core.scope import OWN, Scope
from inversionview.model.distances import geometry as distances
from inversionview.preimage.show import at_least
from inversionview.studies.addition.corpus import AdditionInputs
from tests.test_cli import run

ROWS = 1500
NAMES = ["=", "A1"]


class FewAdditions(AdditionInputs):
    """The first 1,500 additions of the corpus as a whole input space."""

    def __len__(self) -> int:
        return ROWS

    def tokens(self, rows: np.ndarray, salt: int = 0) -> Ids:
        return super().tokens(rows * 539 + 7)


@pytest.fixture(scope="module", params=["all there is", "a sample"])
def bank(request: pytest.FixtureRequest, addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    inputs = FewAdditions() if request.param == "all there is" else addition.inputs
    folder = tmp_path_factory.mktemp("bank")
    return harvest_bank(folder, addition.model, inputs, rows=ROWS, positions=NAMES, precision="float32")


def preimages(
    bank: ActivationBank, site: str, at: str, queries: int, names: list[str], epsilon: float
) -> tuple[np.ndarray, list]:
    """Return query rows and, for each, all other rows within ε, by brute force from the definition."""
    tokens = bank.tokens(np.arange(ROWS))
    z = bank.model.activations(torch.from_numpy(tokens), [iv.Site.parse(site)])[0]
    named = bank.inputs.named_positions(tokens)
    rows, places = draw_queries(bank, at, queries, seed=0)
    found = []
    for row, place in zip(rows, places, strict=True):
        each = [distances.euclidean(z[row, place], z[torch.arange(ROWS), torch.from_numpy(named[n])]) for n in names]
        near = np.flatnonzero(torch.stack(each).min(0).values.numpy() <= epsilon)
        found.append(near[near != row])
    return rows, found


def least(others: int, whole: bool) -> float:
    """The least that a preimage of so many others can mean. All there is tells what it means; of a sample, one other tells no
    more than none: the lower end of the exact binomial interval."""
    if whole or others > 1:
        return math.log2((ROWS - 1) / max(1, others))
    return -math.log2(scipy.stats.binomtest(others, ROWS - 1).proportion_ci(method="exact").high)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("site", ["a0.0", "x0.post", "x0.pre"])
def test_the_table_is_its_definition(bank: ActivationBank, fixed: bool, site: str) -> None:
    table = feature_information(
        bank, study="few", queries=40, sites=site, positions=["A1"], scope=Scope(0.3, at=OWN if fixed else None)
    )
    rows, found = preimages(bank, site, "A1", 40, ["A1"] if fixed else NAMES, 0.3)
    whole = isinstance(bank.inputs, FewAdditions)
    values = bank.inputs.features(bank.tokens(np.arange(ROWS)))
    told = [math.log2((ROWS - 1) / max(1, len(others))) for others in found]
    assert table.totals[0].bits.value == pytest.approx(np.mean(told), abs=1e-9)
    assert table.totals[0].found == np.mean([len(others) > 0 for others in found])
    assert table.totals[0].least == pytest.approx(np.mean([least(len(others), whole) for others in found]), abs=1e-6)
    assert {cell.feature for cell in table.cells} == set(values)
    for cell in table.cells:
        column = values[cell.feature]
        gained, known = [], []
        for row, others in zip(rows, found, strict=True):
            if not whole and not len(others):
                continue
            prior = (column == column[row]).mean()
            agree = (column[others] == column[row]).sum()
            after = (agree + (1 if whole else prior)) / (len(others) + 1)
            gained.append(math.log2(after / prior))
            known.append(after)
        assert cell.queries == len(known)
        _, counts = np.unique(column, return_counts=True)
        entropy = -sum(c / ROWS * math.log2(c / ROWS) for c in counts)
        assert cell.bits.value == pytest.approx(np.mean(gained), abs=1e-9)
        assert cell.consistency.value == pytest.approx(np.mean(known), abs=1e-9)
        assert cell.entropy == pytest.approx(entropy)
        assert cell.share == pytest.approx(np.mean(gained) / entropy)
        assert cell.bits.low <= cell.bits.value <= cell.bits.high


@pytest.mark.parametrize("where", [("A1=1",), ("C2=1,F1>=5",), ("{F1,S1}=68", "A4!=E")])
@pytest.mark.parametrize("site", ["a0.0", "x0.post"])
def test_within_a_filter_the_table_is_its_definition(bank: ActivationBank, where: tuple[str, ...], site: str) -> None:
    """Every input that satisfies the filter is a query; pairs of them are all there is."""
    table = feature_information(bank, study="few", queries=ROWS, sites=site, positions=["A1"], scope=Scope(0.3), where=where)
    tokens = bank.tokens(np.arange(ROWS))
    values = bank.inputs.features(tokens)
    kept = np.flatnonzero(
        {
            ("A1=1",): values["A1"] == 1,
            ("C2=1,F1>=5",): (values["C2"] == 1) & (values["F1"] >= 5),
            ("{F1,S1}=68", "A4!=E"): (values["{F1,S1}"] == 68) & (values["A4"] != "E"),
        }[where]
    )
    z = bank.model.activations(torch.from_numpy(tokens), [iv.Site.parse(site)])[0][torch.from_numpy(kept)]
    named = {name: torch.from_numpy(at[kept]) for name, at in bank.inputs.named_positions(tokens).items()}
    every, near = torch.arange(len(kept)), []
    for i in range(len(kept)):
        each = [distances.euclidean(z[i, named["A1"][i]], z[every, named[name]]) for name in NAMES]
        inside = torch.stack(each).min(0).values <= 0.3
        near.append(np.flatnonzero(inside & (every != i)))
    told = [math.log2((len(kept) - 1) / max(1, len(others))) for others in near]
    assert (table.inputs, table.totals[0].queries) == (len(kept), len(kept))
    assert table.where == tuple(each for part in where for each in ([part] if "{" in part else part.split(",")))
    assert table.totals[0].bits.value == pytest.approx(np.mean(told), abs=1e-9)
    assert table.totals[0].found == pytest.approx(np.mean([len(others) > 0 for others in near]))
    columns = {name: column[kept] for name, column in values.items() if len(set(column[kept].tolist())) > 1}
    assert {cell.feature for cell in table.cells} == set(columns)
    whole = isinstance(bank.inputs, FewAdditions)
    for cell in table.cells:
        column, gained = columns[cell.feature], []
        for i, others in enumerate(near):
            prior = (column == column[i]).mean()
            after = ((column[others] == column[i]).sum() + (1 if whole else prior)) / (len(others) + 1)
            gained += [math.log2(after / prior)] if whole or len(others) else []
        _, counts = np.unique(column, return_counts=True)
        assert cell.bits.value == pytest.approx(np.mean(gained), abs=1e-9)
        assert cell.entropy == pytest.approx(-sum(c / len(kept) * math.log2(c / len(kept)) for c in counts))
        assert cell.queries == len(gained)


def test_known_answers_of_the_embedding(addition: iv.Study, tmp_path: Path) -> None:
    """x0.pre is token plus position: constant at '=', the digit A1 at A1."""
    bank = harvest_bank(tmp_path, addition.model, FewAdditions(), rows=ROWS, sites="x0.pre", positions=NAMES)
    table = feature_information(bank, study="few", queries=200, scope=Scope(0.01))
    cells = {(c.position, c.feature): c for c in table.cells}
    totals = {t.position: t.bits.value for t in table.totals}
    assert totals["="] == 0
    assert all(cells["=", feature].bits.value == pytest.approx(0, abs=1e-9) for _, feature in cells if _ == "=")
    assert cells["A1", "A1"].consistency.value == 1
    assert totals["A1"] == pytest.approx(cells["A1", "A1"].bits.value, abs=0.01)


def test_a_large_preimage_is_measured_on_a_part(bank: ActivationBank, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = feature_information(bank, study="few", queries=30, sites="a0.3", scope=Scope(0.5))
    monkeypatch.setattr(site_positions, "ENOUGH", 100)
    part = feature_information(bank, study="few", queries=30, sites="a0.3", scope=Scope(0.5))
    for one, other in zip(whole.totals, part.totals, strict=True):
        assert other.bits.value == pytest.approx(one.bits.value, abs=0.3)


def test_within_a_filter_as_many_are_measured(bank: ActivationBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """x0.pre at '=' is the same in all inputs: everything that is allowed lies inside, and it tells 0 bits."""
    monkeypatch.setattr(site_positions, "ENOUGH", 100)
    allowed = bank.inputs.features(bank.tokens(np.arange(ROWS)))["C3"] == 1
    place = next(site_positions.places(bank, "x0.pre", ["="], 20, 0, None, allowed))
    assert allowed[place.rows].all()
    for row, hits in zip(place.rows.tolist(), place.preimages(Scope(at=OWN)), strict=True):
        assert (np.sort(hits.rows) == np.flatnonzero(allowed[: hits.searched])).all()
        assert 70 <= len(hits) <= 130
        assert site_positions.bits_of(row, hits, allowed) == 0


def test_the_nearest_of_what_is_allowed(bank: ActivationBank) -> None:
    tokens = bank.tokens(np.arange(ROWS))
    z = bank.model.activations(torch.from_numpy(tokens), [iv.Site(0, "post")])[0][:, 9]  # A1 is token 9 of every addition
    allowed = bank.inputs.features(tokens)["A1"] == 7
    each = distances.euclidean(z[3], z).numpy()
    nearest = np.flatnonzero(allowed)[np.argsort(each[allowed], kind="stable")]
    for k in (5, ROWS):
        hits = next(search(bank, "x0.post", z[3:4], epsilon=1e-6, at="A1", k=k, allowed=allowed))
        assert hits.rows.tolist() == nearest[:k].tolist()
        assert hits.distances == pytest.approx(each[nearest[:k]], abs=1e-5)


def test_more_room_means_fewer_bits(bank: ActivationBank) -> None:
    curves = bits_curve(bank, [0.5, 0.05, 0.2], queries=20, sites="a0.0,x0.post")
    table = feature_information(bank, study="few", queries=20, sites="a0.0,x0.post", scope=Scope(0.2))
    for curve, total in zip(curves, table.totals, strict=True):
        assert curve.epsilons == (0.05, 0.2, 0.5)
        values = [m.value for m in curve.bits]
        assert values == sorted(values, reverse=True)
        assert curve.bits[1].value == pytest.approx(total.bits.value)


def test_curves_are_bounds_where_the_bank_holds_too_little(bank: ActivationBank) -> None:
    (curve,) = bits_curve(bank, [0.001, 5.0], queries=20, sites="a0.0", positions=["A1"], fixed=True)
    whole = isinstance(bank.inputs, FewAdditions)
    for i, epsilon in enumerate(curve.epsilons):
        _, found = preimages(bank, "a0.0", "A1", 20, ["A1"], epsilon)
        few = not whole and any(len(others) < 2 for others in found)
        assert curve.least[i] == pytest.approx(np.mean([least(len(others), whole) for others in found]), abs=1e-6)
        assert curve.bounded[i] == few
    assert curve.bounded == (not whole, False)
    said = printed(curve)
    assert (f"≥ {math.floor(100 * curve.least[0]) / 100:.2f}" in said) == (not whole)
    page = bits_show.page(curve).data[0]
    assert page.marker.symbol[0] == ("circle" if whole else "triangle-up-open")
    assert page.y[0] == pytest.approx(curve.bits[0].value if whole else curve.least[0])
    assert bits_show.figure(curve).axes


def printed(value: object) -> str:
    file = io.StringIO()
    Console(file=file, width=200, color_system=None).print(value)
    return file.getvalue()


def test_views_keep_estimates_within_what_they_can_be() -> None:
    """Of a feature at most its entropy is told; of a site with hardly another input inside ε only a bound is known."""
    mean = information.Mean
    cells = (
        Cell("a0.0", "=", "F1", mean(3.3, 3.1, 3.5), 1.1, 3.0, mean(1.0, 1.0, 1.0), 9),
        Cell("a0.0", "=", "S1", mean(-0.4, -0.6, -0.2), -0.2, 2.0, mean(0.1, 0.0, 0.2), 9),
    )
    totals = (
        Total("a0.0", "=", mean(17.61, 17.61, 17.61), 0.0, 9, 15.7266),
        Total("a0.1", "=", mean(5.0, 4.0, 6.0), 1.0, 9, 5.0),
    )
    table = FeatureTable("few", 200_000, 0.1, "euclidean", False, 0, totals, cells)
    said = printed(table)
    assert "F1 3.00 (100%)" in said
    assert "≥ 15.72 " in said
    assert "17.61" not in said
    assert "5.00 [4.00, 6.00]" in said
    heat = inform_show.page(table).data[0]
    assert heat.text[0][0] == "3.0"
    assert "3.00 bits [3.00, 3.00], 100% of 3.00" in heat.hovertext[0][0]
    assert "less common inside ε than elsewhere" in heat.hovertext[0][1]
    texts = {text.get_text() for text in inform_show.figure(table).axes[0].texts}
    assert {"≥15.7", "5.0", "3.0"} == texts
    assert table.to_json()["cells"][0]["bits"]["value"] == 3.3  # the estimate itself
    assert table.records()[0]["site_bits_least"] == 15.7266


def test_what_is_known_of_the_bits_of_a_corpus() -> None:
    for hits in (0, 1):
        found = information.bits(hits, 200_000)
        p = 2**-found.low  # P(at most so many hits ∣ p) is 2.5 %
        assert (1 - p) ** 200_000 + hits * 200_000 * p * (1 - p) ** 199_999 == pytest.approx(0.025, rel=1e-6)
        assert found.bounded
        assert information.least(hits, 200_000) == found.low
    assert not information.bits(2, 200_000).bounded
    assert information.least(2, 200_000) == math.log2(100_000)
    assert at_least(15.7266, 1) == "≥ 15.7"
    assert at_least(15.79, 1) == "≥ 15.7"  # rounded down: a bound stays one
    assert at_least(15.7, 1) == "≥ 15.7"


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_entropy_and_divergence(codes: list[int]) -> None:
    p = information.shares(np.array(codes), 6)
    uniform = np.full(6, 1 / 6)
    assert information.divergence(p, p) == 0
    assert information.divergence(p, uniform) == pytest.approx(math.log2(6) - information.entropy(p), abs=1e-9)
    assert information.divergence(uniform, p) == (
        math.inf if (p == 0).any() else pytest.approx(information.divergence(uniform, p))
    )


def test_the_bootstrap_covers_the_mean() -> None:
    """Of 200 samples of 50 uniform numbers, the 95 % interval holds ½ in about 190."""
    rng = np.random.default_rng(0)
    intervals = [information.mean(rng.random(50), seed=i) for i in range(200)]
    assert 180 <= sum(m.low <= 0.5 <= m.high for m in intervals) <= 199


def test_features_of_the_users_own(bank: ActivationBank) -> None:
    extra = {**pattern(r"^(?P<first>\d)\d(?P<third>\d)"), "even": lambda text: text[-1] in "02468"}
    codes = codes_of(bank, ["F1", "F3"], extra)
    values = bank.inputs.features(bank.tokens(np.arange(ROWS)))
    assert codes.names == ["F1", "F3", "first", "third", "even"]
    assert (codes.codes[:, 0] == codes.codes[:, 2]).all()
    assert (codes.codes[:, 1] == codes.codes[:, 3]).all()
    assert (codes.values[1][codes.codes[:, 1]] == values["F3"]).all()


def test_bad_features(bank: ActivationBank) -> None:
    with pytest.raises(errors.SettingError, match=r"no feature 'F9'.*Did you mean 'F"):
        codes_of(bank, ["F9"])
    with pytest.raises(errors.SettingError, match=r"'plus' is '\+' in every input"):
        codes_of(bank, None, pattern(r"(?P<plus>\+)"))
    with pytest.raises(errors.SettingError, match="'letter' is '' in every input"):
        codes_of(bank, None, pattern("(?P<letter>[a-z])"))
    with pytest.raises(errors.SettingError, match="a feature 'A1' already: call yours something else"):
        codes_of(bank, None, pattern(r"(?P<A1>\d)"))
    with pytest.raises(errors.SettingError, match="not a regular expression"):
        pattern("(")
    with pytest.raises(errors.SettingError, match="named group"):
        pattern("a(b)")
    with pytest.raises(errors.SettingError, match="No input of the bank satisfies A1=1, A1=2"):
        codes_of(bank, where=["A1=1", "A1=2"])
    with pytest.raises(errors.SettingError, match=r"no feature 'F9'.*Did you mean 'F"):
        codes_of(bank, where=["F9=1"])
    with pytest.raises(errors.SettingError, match="'A1' is '1' in every input that satisfies A1=1"):
        codes_of(bank, ["A1"], where=["A1=1"])
    with pytest.raises(errors.SettingError, match="None of the inputs that satisfy the filter has a position A4"):
        draw_queries(bank, "A4", 10, 0, bank.inputs.features(bank.tokens(np.arange(ROWS)))["A4"] == "E")
    with pytest.raises(errors.SettingError, match="queries"):
        feature_information(bank, study="few", queries=0)


# -- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run") / "addition"
    iv.build_bank(addition, folder / "bank", rows=5000, positions=NAMES)
    return str(folder)


def test_the_bootstrap_does_not_mind_the_order_of_the_rows() -> None:
    """The standard error of a mean is σ / √n, however the rows are sorted."""
    values = np.sort(np.random.default_rng(0).normal(size=20_000))
    found = information.mean(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20_000**0.5, rel=0.1)


def test_inform_and_bits_and_truth(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    files = [str(tmp_path / f"table.{end}") for end in ("csv", "parquet", "html", "png", "svg")]
    outs = [part for file in files for part in ("--out", file)]
    asked = ("inform", "addition", "--bank", folder, "--queries", "20", "--sites", "a0.*", "--feature", "(?P<last>.)$")
    code, out, _ = run(capsys, *asked, *outs)
    assert code == 0
    assert "{F1,S1}" in out
    frame = pandas.read_csv(files[0])
    assert list(pandas.read_parquet(files[1])["feature"]) == list(frame["feature"])
    assert len(frame) == 4 * 2 * 19
    code, out, _ = run(capsys, *asked, "--json")
    value = json.loads(out)
    assert [c["bits"]["value"] for c in value["cells"]] == pytest.approx(frame["bits"].tolist())
    assert "cdn" not in Path(files[2]).read_text()[:2000]
    assert Path(files[3]).read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path(files[4]).read_text()[:1000]
    curve = str(tmp_path / "curve.png")
    code, out, _ = run(capsys, "bits", "addition", "--bank", folder, "--queries", "10", "--sites", "a0.0", "--out", curve)
    assert code == 0
    assert "ε 0.05" in out
    code, out, _ = run(capsys, *asked, "--where", "A1=1", "--where", "last!=3,C3=0")
    assert code == 0
    assert "inputs where A1=1, last!=3, C3=0" in " ".join(out.split())
    code, out, _ = run(capsys, *asked, "--where", "A1=1", "--where", "last!=3,C3=0", "--json", "--out", files[0])
    value = json.loads(out)
    assert value["where"] == ["A1=1", "last!=3", "C3=0"]
    assert not {"A1", "C3"} & {cell["feature"] for cell in value["cells"]}
    assert set(pandas.read_csv(files[0])["where"]) == {"A1=1,last!=3,C3=0"}
    code, out, _ = run(capsys, *asked, "--features", "{F1,S1}, C2", "--json")
    assert {cell["feature"] for cell in json.loads(out)["cells"]} == {"{F1,S1}", "C2", "last"}
    code, out, _ = run(
        capsys, "search", "addition", "615+861=1476", "--bank", folder, "--site", "a0.0", "--json", "--count", "3"
    )
    assert sum(json.loads(out)["query"]["attention"]) == pytest.approx(1, abs=1e-5)
    code, out, _ = run(capsys, "truth", "addition", "--bank", folder, "--queries", "6", "--samples", "16", "--json")
    sites = {row["site"]: row for row in json.loads(out)["sites"]}
    assert code == 0
    assert len(sites) == 13
    assert sites["x0.pre"]["good_ratio"] > 0.5
    assert sites["x0.pre"]["recall"] is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("inform", "addition", "--out", "table.pdf"), "table.pdf cannot be written"),
        (("inform", "addition", "--features", "F9"), "There is no feature"),
        (("inform", "addition", "--feature", "F"), "named group"),
        (("inform", "addition", "--where", "A1"), "'A1' is not a filter"),
        (("inform", "addition", "--where", "F9=1"), "There is no feature 'F9'"),
        (("inform", "addition", "--where", "A4>3"), "asks for an order"),
        (("inform", "addition", "--where", "A1=12"), "No input of the bank satisfies A1=12"),
        (("inform", "addition", "--positions", "A7"), "no position"),
        (("bits", "addition", "--epsilons", "a"), "not a list of numbers"),
        (("bits", "addition", "--epsilons", "0"), "ε"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], folder: str, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = run(capsys, *arguments, "--bank", folder)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
