"""Ablation against plain Hugging Face forward passes with hooks, from the definitions of what is put in and what is lost."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from transformers import GPT2LMHeadModel

import inversionview as iv
from inversionview.analyses.ablate.measure import _others, ablation
from inversionview.analyses.ablate.result import Ablated, Ablation, Loss
from inversionview.core.errors import InversionViewError, SettingError, UnknownPositionError, UnknownSiteError
from inversionview.corpora.contrasts import held_out
from inversionview.corpora.filters import feature_names, parse_filters
from inversionview.intervene.activations import parse_activations
from tests.plain import Plain, real
from tests.test_cli import bad, run

torch.set_num_threads(1)
TOLERANCE = 1e-4
PLACES = {"F1": 1, "+": 4, "S1": 5, "S3": 7, "=": 8, "A1": 9, "A2": 10}
Vectors = dict[str, torch.Tensor]
Donated = Callable[[int, str, int], torch.Tensor]
"""From the number of an input, a site and a position to the vector that is put there."""


@pytest.fixture(scope="module")
def plain(addition: iv.Study, counting: iv.Study) -> dict[str, Plain]:
    return {
        study.name: Plain(GPT2LMHeadModel.from_pretrained(study.model_path, attn_implementation="eager"))
        for study in (addition, counting)
    }


def place(study: iv.Study, at: str, ids: list[int]) -> int:
    if study.name == "addition":
        return PLACES.get(at, -1)
    return {"query": ids.index(35) + 1, ":": ids.index(36)}[at]


class Expected:
    """Every input run on its own."""

    def __init__(self, study: iv.Study, plain: Plain, limit: int, seed: int = 0, where: Sequence[str] = ()) -> None:
        filters = parse_filters(where, feature_names(study.inputs)) if where else ()
        rows = held_out(study.inputs, filters, limit, seed)
        self.study, self.plain, self.seed = study, plain, seed
        self.ids = [real(row, study.inputs.pad) for row in rows]
        runs = [plain.run(ids) for ids in self.ids]
        self.logits, self.seen = [logits for logits, _ in runs], [seen for _, seen in runs]
        addition = study.name == "addition"
        self.targets = {f"A{i + 1}": i for i in range(4)} if addition else {"count": 0}
        self.first = [8 if addition else ids.index(36) for ids in self.ids]

    def donated(self, by: str) -> Donated:
        ids, study, seen = self.ids, self.study, self.seen
        last = [first + len(self.targets) - 1 for first in self.first]
        donor = _others(len(ids), np.random.default_rng((self.seed, 31)))

        def mean(i: int, site: str, position: int, at: str) -> torch.Tensor:
            if at == "*":  # over the inputs that go so far
                return torch.stack([seen[j][site][position] for j in range(len(ids)) if last[j] >= position]).mean(0)
            return torch.stack([seen[j][site][place(study, at, ids[j])] for j in range(len(ids))]).mean(0)

        def zero(i: int, site: str, position: int, at: str) -> torch.Tensor:
            return torch.zeros(seen[0][site].shape[1])

        def resample(i: int, site: str, position: int, at: str) -> torch.Tensor:
            j = int(donor[i])
            return seen[j][site][min(position, last[j]) if at == "*" else place(study, at, ids[j])]

        return {"mean": mean, "zero": zero, "resample": resample}[by]  # type: ignore[return-value]

    def losses(self, activations: Sequence[str], by: str) -> dict[str, dict[str, float]]:
        donated: Any = self.donated(by)
        parts: dict[str, list[list[float]]] = {target: [] for target in self.targets}
        for i, ids in enumerate(self.ids):
            writes = []
            for text in activations:
                at, _, site = text.rpartition(":")
                last = self.first[i] + len(self.targets) - 1
                for p in range(last + 1) if at == "*" else [place(self.study, at, ids)]:
                    writes.append((site, p, donated(i, site, p, at)))
            patched, _ = self.plain.run(ids, writes)
            for target, offset in self.targets.items():
                read = self.first[i] + offset
                p, q = self.logits[i][read].log_softmax(-1), patched[read].log_softmax(-1)
                top = int(self.logits[i][read].argmax())
                parts[target].append([
                    float((p.exp() * (p - q)).sum()), float(self.logits[i][read, top]), float(patched[read, top]),
                    top == ids[read + 1], int(patched[read].argmax()) == ids[read + 1],
                ])  # fmt: skip
        found = {}
        for target, rows in parts.items():
            kl, top, fallen, right, still = np.mean(rows, axis=0)
            found[target] = {"kl": kl, "top_logit": top, "decrement": top - fallen, "relative": (top - fallen) / top,
                             "accuracy": right, "accuracy_patched": still}  # fmt: skip
        return found


def agree(each: Ablated, wanted: dict[str, dict[str, float]]) -> None:
    assert [loss.target for loss in each.losses] == list(wanted)
    for loss in each.losses:
        for key, value in wanted[loss.target].items():
            got = getattr(loss, key)
            got = got if isinstance(got, float) else got.value
            assert got == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), (loss.target, key)


def loss_of(result: Ablation, target: str, number: int = 0) -> Loss:
    return next(loss for loss in result.sets[number].losses if loss.target == target)


ADDITION_SETS = [
    ["S1:x0.pre"], ["=:a0.0", "=:a1.2"], ["F1:m0", "*:a0.1", "A1:x0.mid"], ["=:x1.pre", "S3:x0.pre"], ["*:m0", "A2:m1"],
]  # fmt: skip


@pytest.mark.parametrize("by", ["mean", "zero", "resample"])
@pytest.mark.parametrize("activations", ADDITION_SETS, ids=lambda texts: texts[0])
def test_addition(addition: iv.Study, plain: dict[str, Plain], activations: list[str], by: Any) -> None:
    wanted = Expected(addition, plain["addition"], 14, seed=2)
    result = iv.ablate(addition, activations, by=by, limit=14, seed=2)
    alone = [(text,) for text in activations]
    assert [each.activations for each in result.sets] == alone + ([tuple(activations)] if len(activations) > 1 else [])
    for each in result.sets:
        agree(each, wanted.losses(each.activations, by))
    assert max(loss.kl.value for loss in result.sets[-1].losses) > 0.01, "too little happens to test anything"
    assert (result.by, result.inputs, result.seed, result.study) == (by, 14, 2, "addition")


@pytest.mark.parametrize("by", ["mean", "zero", "resample"])
@pytest.mark.parametrize("activations", [["query:a0.0"], ["::a1.0", "query:x0.pre"], ["*:m0", "*:a0.0"]])
def test_counting(counting: iv.Study, plain: dict[str, Plain], activations: list[str], by: Any) -> None:
    """Strings differ in length."""
    wanted = Expected(counting, plain["counting"], 12, seed=1)
    assert len(set(wanted.first)) > 4
    result = iv.ablate(counting, activations, by=by, limit=12, seed=1)
    for each in result.sets:
        agree(each, wanted.losses(each.activations, by))
    assert loss_of(result, "count", -1).kl.value > 0.01


def test_filtered_inputs(addition: iv.Study, plain: dict[str, Plain]) -> None:
    where = ["A1=1", "F2+S2=9"]
    result = iv.ablate(addition, ["S1:x0.pre"], where=where, limit=12)
    expected = Expected(addition, plain["addition"], 12, where=where)
    agree(result.sets[0], expected.losses(["S1:x0.pre"], "mean"))
    assert all(str(int("".join(map(str, ids[1:4]))) + int("".join(map(str, ids[5:8]))))[0] == "1" for ids in expected.ids)
    assert result.where == ("A1=1", "F2+S2=9")
    assert iv.ablate(addition, ["+:x0.post"], where="A1=1,F2+S2=9", limit=12).where == ("A1=1,F2+S2=9",)  # type: ignore[arg-type]


def test_batches_do_not_matter(counting: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for by in ("mean", "resample"):
        whole = iv.ablate(counting, ["query:a0.0", "*:m1"], by=by, limit=200)  # type: ignore[arg-type]
        with monkeypatch.context() as patched:
            patched.setattr("inversionview.analyses.ablate.measure.tokens_per_pass", lambda device: 30)
            patched.setattr("inversionview.model.harvest.tokens_per_pass", lambda device, d_model=0: 50)
            small = iv.ablate(counting, ["query:a0.0", "*:m1"], by=by, limit=200)  # type: ignore[arg-type]
        for a, b in zip(whole.sets, small.sets, strict=True):
            for x, y in zip(a.losses, b.losses, strict=True):
                for key in ("kl", "top_logit", "decrement", "relative"):
                    for part in ("value", "low", "high"):
                        assert getattr(getattr(x, key), part) == pytest.approx(getattr(getattr(y, key), part), abs=1e-4)
                assert (x.accuracy, x.accuracy_patched) == (y.accuracy, y.accuracy_patched)


def test_ablating_by_the_own_value_loses_nothing(addition: iv.Study, counting: iv.Study) -> None:
    """The mean of a single input is its own value."""
    for study, texts in ((addition, ["+:x0.post", "*:a0.0", "=:x1.mid"]), (counting, ["query:a0.0", "*:m0"])):
        for each in iv.ablate(study, texts, limit=1).sets:
            for loss in each.losses:
                assert abs(loss.kl.value) < 1e-6
                assert abs(loss.decrement.value) < 1e-4
        with pytest.raises(SettingError, match="give at least two"):
            iv.ablate(study, texts, by="resample", limit=1)
        assert iv.ablate(study, texts, by="zero", limit=1).sets[-1].losses[0].kl.value > 1e-3


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("A1:x0.post", ["A1"]),
        ("A2:m0", ["A1", "A2"]),
        ("A2:a1.0", ["A1", "A2"]),
        ("A2:a0.3", ["A1", "A2"]),
        ("A2:x0.mid", ["A1", "A2"]),
    ],
)
@pytest.mark.parametrize("by", ["mean", "zero", "resample"])
def test_what_is_predicted_before_loses_exactly_nothing(addition: iv.Study, text: str, before: list[str], by: Any) -> None:
    result = iv.ablate(addition, [text], by=by, limit=60)
    for loss in result.sets[0].losses:
        values = [x for mean in (loss.kl, loss.decrement, loss.relative) for x in (mean.value, mean.low, mean.high)]
        if loss.target in before:
            assert values == [0] * 9, loss
            assert loss.accuracy == loss.accuracy_patched
        else:
            assert loss.kl.value > 0 or loss.target == "A4", loss
    assert result.sets[0].losses[len(before)].kl.value > 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.sampled_from(["+:x0.post", "=:a0.0", "*:a1.1", "F1:x0.pre", "A1:m1", "=:m0"]), min_size=1, max_size=3, unique=True
    ),
    st.sampled_from(["mean", "zero", "resample"]),
    st.integers(0, 1000),
)
def test_what_always_holds(addition: iv.Study, activations: list[str], by: Any, seed: int) -> None:
    result = iv.ablate(addition, activations, by=by, limit=40, seed=seed)
    assert len(result.sets) == len(activations) + (len(activations) > 1)
    for each in result.sets:
        for loss in each.losses:
            assert min(loss.kl.value, loss.kl.low) >= 0, "KL is never negative"
            assert 0 <= loss.accuracy <= 1
            assert 0 <= loss.accuracy_patched <= 1
            assert loss.relative.value == pytest.approx(loss.decrement.value / loss.top_logit.value)
            for mean in (loss.kl, loss.top_logit, loss.decrement, loss.relative):
                assert mean.low - 1e-6 <= mean.value <= mean.high + 1e-6
    first = iv.ablate(addition, activations[:1], by=by, limit=40, seed=seed)
    for a, b in zip(first.sets[0].losses, result.sets[0].losses, strict=True):  # alone it is what it is beside others
        assert a.kl.value == pytest.approx(b.kl.value, rel=1e-3, abs=1e-6)
        assert (a.target, a.top_logit) == (b.target, b.top_logit)
    assert len({loss.top_logit for each in result.sets for loss in each.losses if loss.target == "A1"}) == 1


@given(st.integers(2, 300), st.integers(0, 2**32))
def test_a_donor_is_another_and_each_gives_once(count: int, seed: int) -> None:
    donor = _others(count, np.random.default_rng(seed))
    assert sorted(donor) == list(range(count))
    assert (donor != np.arange(count)).all()


def test_donors_are_drawn_uniformly() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 4))
    for _ in range(6000):
        counts[np.arange(4), _others(4, rng)] += 1
    off = counts[~np.eye(4, dtype=bool)]
    assert np.diag(counts).sum() == 0
    assert ((off - 2000) ** 2 / 2000).sum() < 40  # about 12 on average


def test_intervals_are_those_of_the_inputs(addition: iv.Study) -> None:
    """Each input measured alone, drawn again by hand."""
    rows = held_out(addition.inputs, (), 250, 0)
    named = parse_activations(["S1:x0.pre"], addition.model.sites)
    reads = {"A2": addition.inputs.read_at(rows, "A2")}
    whole = loss_of(ablation(addition.model, rows, reads, named, addition.positions, by="zero"), "A2")
    each = [
        loss_of(
            ablation(addition.model, rows[i : i + 1], {"A2": reads["A2"][i : i + 1]}, named, addition.positions, by="zero"),
            "A2",
        )
        for i in range(len(rows))
    ]
    kl, top, fall = (np.array([getattr(loss, key).value for loss in each]) for key in ("kl", "top_logit", "decrement"))
    again = np.random.default_rng(1).integers(250, size=(4000, 250))
    for mean, drawn in (
        (whole.kl, kl[again].mean(1)), (whole.top_logit, top[again].mean(1)), (whole.decrement, fall[again].mean(1)),
        (whole.relative, fall[again].mean(1) / top[again].mean(1)),
    ):  # fmt: skip
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert mean.value == pytest.approx(drawn.mean(), abs=0.05 * (high - low))
        assert mean.low == pytest.approx(low, abs=0.1 * (high - low))
        assert mean.high == pytest.approx(high, abs=0.1 * (high - low))


def test_the_plus_sign_of_addition(addition: iv.Study) -> None:
    """Huang et al. 2024, Table 1: x^{0,post} at + tells what follows hardly anything."""
    result = iv.ablate(addition, ["+:x0.post"], limit=1000)
    for loss in result.sets[0].losses:
        assert loss.kl.value < 0.5
        assert abs(loss.relative.value) < 0.2
        assert loss.accuracy > 0.9
    strong = iv.ablate(addition, ["=:x1.post"], limit=1000)
    assert loss_of(strong, "A1").kl.value > 1
    assert loss_of(strong, "A1").accuracy_patched < 0.7


# -- texts of the user's own -------------------------------------------------------------------------------------------


def test_a_run_on_texts_is_ablated_at_its_end(own_model: Path, tmp_path: Path) -> None:
    from inversionview.corpora.texts import TextInputs
    from tests.conftest import sentences

    study = iv.load(model=own_model)
    study.inputs = TextInputs.tokenize(sentences(), study.model.vocabulary, 32)
    result = iv.ablate(study, ["*:x0.pre", "END:a0.0"], limit=12)
    assert [loss.target for loss in result.sets[0].losses] == ["END"]
    assert result.sets[0].losses[0].kl.value > 0.05
    assert result.sets[0].losses[0].accuracy > result.sets[0].losses[0].accuracy_patched - 1e-9


# -- the command line --------------------------------------------------------------------------------------------------


def test_json_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, addition: iv.Study) -> None:
    files = [tmp_path / "a.csv", tmp_path / "a.parquet"]
    code, out, err = run(
        capsys, "ablate", "addition", "--at", "+:x0.post", "--at", "=:a0.0", "--by", "resample", "--limit", "50", "--seed", "3",
        "--where", "A1=1", "--json", "--out", str(files[0]), "--out", str(files[1]),
    )  # fmt: skip
    assert (code, err) == (0, "")
    value = json.loads(out)
    wanted = iv.ablate(addition, ["+:x0.post", "=:a0.0"], by="resample", limit=50, seed=3, where=["A1=1"])
    assert value == json.loads(json.dumps(wanted.to_json()))
    assert [each["activations"] for each in value["sets"]] == [["+:x0.post"], ["=:a0.0"], ["+:x0.post", "=:a0.0"]]
    rows = list(csv.DictReader(files[0].open(encoding="utf-8")))
    assert len(rows) == 12
    for row, (each, loss) in zip(rows, [(e, x) for e in value["sets"] for x in e["losses"]], strict=True):
        assert row["activations"] == "'" + " ".join(each["activations"])  # no formula
        assert row["target"] == loss["target"]
        for key in ("kl", "top_logit", "decrement", "relative"):
            got = [float(row[name]) for name in (key, f"{key}_low", f"{key}_high")]
            assert got == pytest.approx([loss[key][part] for part in ("value", "low", "high")], rel=1e-12)
        assert float(row["accuracy_patched"]) == loss["accuracy_patched"]
    import pandas

    assert pandas.read_parquet(files[1])["kl"].tolist() == pytest.approx([float(row["kl"]) for row in rows])


def test_the_table(capsys: pytest.CaptureFixture[str], addition: iv.Study) -> None:
    code, out, _ = run(capsys, "ablate", "addition", "--at", "+:x0.post", "--limit", "30")
    assert code == 0
    for said in ("ablation by mean", "A1", "A4", "KL (nats)", "30 inputs", "its mean over them"):
        assert said in " ".join(out.split()), said
    console = Console(width=140, record=True)
    console.print(iv.ablate(addition, ["=:a0.0", "=:a0.1"], by="zero", limit=10, where=["A1=1"]))
    assert "=:a0.0 =:a0.1" in console.export_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("addition",), "No activation is named"),
        (("addition", "--at", "+"), "'+' names no activation"),
        (("addition", "--at", "Q:x0.post"), "no single position 'Q'"),
        (("addition", "--at", "77:x0.post"), "no single position '77'"),
        (("addition", "--at", "A4:x0.post"), "no single position 'A4'"),
        (("addition", "--at", "+:x7.post"), "no site 'x7.post'"),
        (("addition", "--at", "+:embed"), "Embeddings are patched, not ablated"),
        (("addition", "--at", "+:m0", "--at", "+:m0"), "named twice"),
        (("addition", "--at", "+:m0", "--by", "noise"), "'noise': choose mean, zero, resample"),
        (("addition", "--at", "+:m0", "--where", "A1=12"), "satisfies A1=12"),
        (("addition", "--at", "+:m0", "--where", "Q=1"), "no feature 'Q'"),
        (("addition", "--at", "+:m0", "--limit", "0"), "at least 1"),
        (("addition", "--at", "+:m0", "--seed", "-2"), "seed must not be negative"),
        (("addition", "--at", "+:m0", "--out", "x.png"), "x.png cannot be written"),
        (("nowhere", "--at", "+:m0"), "no study 'nowhere'"),
        ((), "study"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    limit = [] if {"--where", "--limit"} & set(arguments) else ["--limit", "40"]
    bad(capsys, "ablate", *arguments, *limit, says=says)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: iv.ablate(s, []), SettingError),
        (lambda s: iv.ablate(s, ["+:m0"], by="average"), SettingError),
        (lambda s: iv.ablate(s, ["+:m9"]), UnknownSiteError),
        (lambda s: iv.ablate(s, ["Q:m0"], limit=5), UnknownPositionError),
        (lambda s: ablation(s.model, np.zeros((0, 14), np.int64), {"A1": np.zeros(0, np.int64)},
                            parse_activations(["+:m0"], s.model.sites), s.positions), SettingError),
    ],
)  # fmt: skip
def test_mistakes_in_the_library(addition: iv.Study, call: Callable[[iv.Study], Any], error: type[InversionViewError]) -> None:
    with pytest.raises(error):
        call(addition)


def test_progress_is_told(addition: iv.Study) -> None:
    shares: list[float] = []
    iv.ablate(addition, ["+:m0"], limit=2000, report=lambda share, note: shares.append(share))
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
