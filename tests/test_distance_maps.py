"""Distances of the registry and thresholds that mean something: against plain transformers, definitions, closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import BankError, MismatchError, SettingError
from inversionview.core.scope import DISTANCES, Distance, Meaning, epsilon_named
from inversionview.corpora.natural import TextSource
from inversionview.model.distances import measuring
from inversionview.model.distances.metric import Metric
from inversionview.model.distances.registry import REGISTRY
from inversionview.model.distances.statistics import Statistics, moments_of
from inversionview.model.sites.site import Site
from inversionview.studies import statistics as of_studies
from tests.plain import Plain
from tests.test_windows import MODELS, plain_windows, saved, texts

SITES = ("x0.post", "x1.mid", "x1.post", "a1.2", "m0")
CONTEXT = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(texts()), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = saved(tmp_path_factory.mktemp("models") / request.param, request.param, **MODELS[request.param])
    _uneven(made)
    return made


@pytest.fixture(scope="module")
def study(folder: Path, corpus: Path) -> iv.Study:
    return iv.load(model=folder, texts=TextSource(str(corpus), context=CONTEXT))


def _uneven(folder: Path) -> None:
    """Give the model's norms gains that differ: a fresh one has ones alone."""
    from transformers import AutoModelForCausalLM

    model, generator = AutoModelForCausalLM.from_pretrained(folder), torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "norm" in name or "ln_" in name:
            weight.data += torch.randn(weight.shape, generator=generator) * (0.5 if name.endswith("weight") else 0.2)
    model.save_pretrained(folder)


def plain_of(folder: Path) -> Plain:
    from transformers import AutoModelForCausalLM

    return Plain(AutoModelForCausalLM.from_pretrained(folder))


def gain_after(plain: Plain, site: str) -> tuple[Tensor, bool]:
    """The weights of the norm that reads the stream after a site, by the model's own names; whether it centres."""
    layer = int(site[1])
    if plain.gpt2:
        norms = [(block.ln_1, block.ln_2) for block in plain.blocks]
        last = plain.model.transformer.ln_f
    else:
        norms = [(block.input_layernorm, block.post_attention_layernorm) for block in plain.blocks]
        last = plain.model.model.norm
    if site.startswith("a") or site.endswith("mid"):
        norm = norms[layer][1]
    else:
        norm = norms[layer + 1][0] if layer + 1 < len(norms) else last
    plus = 1.0 if "Gemma" in type(plain.model).__name__ else 0.0
    return norm.weight.detach() + plus, plain.gpt2


def defined(distance: Distance, plain: Plain, site: str, known: np.ndarray, q: Tensor, z: Tensor) -> Tensor:
    """The distance by its definition, in fp64 and d_model coordinates, the corpus' activations being ``known``."""
    of, x, y = torch.from_numpy(known).double(), q.double(), z.double()
    covariance = torch.cov(of.T, correction=0)
    if "centred" in distance or "scored" in distance or "whitened" in distance:
        x, y = x - of.mean(0), y - of.mean(0)
    if "normed" in distance:
        gain, centres = gain_after(plain, site)
        x, y = ((v - v.mean(-1, keepdim=True) if centres else v) * gain.double() for v in (x, y))
    if "scored" in distance:
        x, y = x / covariance.diagonal().sqrt(), y / covariance.diagonal().sqrt()
    if "whitened" in distance:
        values, vectors = torch.linalg.eigh(covariance)
        white = (vectors * (0.9 * values + 0.1 * covariance.diagonal().mean()).rsqrt()) @ vectors.T
        x, y = x @ white, y @ white
    if distance.startswith("euclidean"):
        return (y - x).norm(dim=-1) / x.norm()
    return 1 - (y @ x) / (y.norm(dim=-1) * x.norm())


WRITTEN = tuple(d for d in DISTANCES if "fisher" not in d)


@pytest.mark.parametrize("site", SITES)
def test_every_distance_is_as_defined_and_its_search_finds_what_brute_force_finds(
    folder: Path, study: iv.Study, site: str, tmp_path: Path
) -> None:
    plain, windows = plain_of(folder), plain_windows(folder, texts())
    runs = [plain.run(ids)[1][site][1:] for ids in windows]
    every, prefixes = torch.cat(runs), [tuple(ids[: t + 1]) for ids in windows for t in range(1, len(ids))]
    query = study.query("by the old bank of it", at=3, site=site)
    others = torch.tensor([prefix != query.ids[: query.position + 1] for prefix in prefixes])
    of_studies.learn(study, DISTANCES, [Site.parse(site)], tokens=10**6)
    head = site.startswith("a")
    for distance in WRITTEN:
        if head and distance in ("cosine-scored", "cosine-whitened", "euclidean-whitened"):
            continue  # of a head, in the coordinates in which it is kept
        truth = defined(distance, plain, site, every.numpy(), query.z, every)
        found = study.model.metric(distance, query.site).between(query.z, every)
        torch.testing.assert_close(found.double(), truth, atol=2e-4, rtol=2e-4)
        epsilon = _between(truth[others])
        made = iv.search(study, query, epsilon=epsilon, distance=distance, k=0, bank=_bank(study, distance, tmp_path, site))
        got = {sample.ids[: sample.position + 1] for sample in made.inside}
        wanted = {p for p, d, other in zip(prefixes, truth.tolist(), others.tolist(), strict=True) if other and d <= epsilon}
        assert got == wanted, distance
        assert made.bits is not None
        assert made.bits.hits == int((truth[others] <= epsilon).sum())
        told = made.to_json()["distance"]
        assert (told if isinstance(told, str) else told["name"]) == distance
        assert isinstance(told, str) is not bool(REGISTRY[distance].needs)


def _between(distances: Tensor) -> float:
    """A threshold in the widest of some gaps, so that rounding decides nothing."""
    ordered = distances.sort().values
    gap = 20 + int(ordered[20:80].diff().argmax())
    return float((ordered[gap] + ordered[gap + 1]) / 2)


def _bank(study: iv.Study, distance: Distance, folder: Path, site: str) -> Any:
    """A bank whose index serves the distance, and for one of them one whose index serves another."""
    served: Distance = "cosine" if distance == "cosine-scored" else distance
    return iv.build_bank(
        study, folder / distance, rows=study.inputs.placed(["all"]).size, sites=[Site.parse(site)], distance=served
    )


def test_gradients_are_those_of_autograd(folder: Path, study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of log p of the tokens that really follow, in place of drawn ones, summed up over each window."""
    tokens = study.inputs.corpus(np.arange(4))
    counted = study.inputs.occurring(tokens)
    following = torch.from_numpy(np.roll(tokens, -1, 1)).clamp(max=study.model.shape.vocabulary - 1)
    order = measuring._passes(torch.from_numpy(counted), measuring._GRADIENT_PASS)

    def drawn(log_p: Tensor, generator: torch.Generator) -> Tensor:
        rows, width = next(order)
        return following[rows, :width]

    monkeypatch.setattr(measuring, "_drawn", drawn)
    sites = [Site.parse(site) for site in SITES]
    found = measuring.measured(
        study.model, tokens, torch.from_numpy(counted), sites, ["gradients"], corpus="c", fingerprint="f"
    )
    plain = plain_of(folder)
    for site in sites:
        each = []
        for row, here, after in zip(tokens, counted, following, strict=True):
            ids = row[: int(here.nonzero()[0].max()) + 1]
            each.append(_slopes(plain, ids, here[: len(ids)], after[: len(ids)], site.short)[here[: len(ids)]])
        g = torch.cat(each).double()
        frame = study.model.frame(site)
        g = g if frame is None else g @ frame.double().T
        torch.testing.assert_close(
            found.moments[site.short]["gradients"].double(), g.T @ g / len(g), rtol=1e-3, atol=1e-6 * float(g.norm())
        )


def _slopes(plain: Plain, ids: np.ndarray, here: np.ndarray, after: Tensor, site: str) -> Tensor:
    """d Σ log p / dz at every position, by a variable that is added to what is at the site."""
    layer, block = int(site[1]), plain.blocks[int(site[1])]
    added = torch.zeros(1, len(ids), plain.model.config.hidden_size, requires_grad=True)
    attention = block.attn if plain.gpt2 else block.self_attn
    module = {"a": attention, "m": block.mlp, "x": block}[site[0]]
    if site.endswith("mid"):
        module = attention  # what the attention adds moves the stream after it alone
    handle = module.register_forward_hook(
        lambda m, a, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
    )
    try:
        log_p = plain.model(torch.from_numpy(ids)[None]).logits.log_softmax(-1)
        (log_p[0, torch.arange(len(ids)), after] * torch.from_numpy(here)).sum().backward()
    finally:
        handle.remove()
    assert added.grad is not None
    assert layer >= 0
    return added.grad[0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-8, 8))
def test_invariances(seed: int, power: int) -> None:
    """Turning the stream, its statistics with it, changes nothing but z-scores; of cosines without a mean, nor does scaling."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 6, generator=generator) * torch.tensor([9.0, 3, 1, 1, 0.5, 2]) + torch.randn(6, generator=generator)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    g = torch.randn(300, 6, generator=generator)

    def metric(distance: Distance, z: Tensor, gradients: Tensor) -> Metric:
        (moments,) = moments_of([[z]], ("mean", "covariance"))
        known = Statistics("m", "c", "f", len(z), {"s": {**moments, "gradients": gradients.T @ gradients / len(gradients)}})
        made = REGISTRY[distance]
        matrix = known.whitening("s") if made.whitened else known.sensitivity("s", None) if made.sensitive else None
        return Metric(distance, known.mean("s") if made.centred else None, None, matrix)

    for distance in DISTANCES:
        if "scored" in distance or "normed" in distance:
            continue
        before, after = metric(distance, x, g), metric(distance, x @ turn, g @ turn)
        torch.testing.assert_close(
            before.between(x[0], x[:50]), after.between(x[0] @ turn, x[:50] @ turn), rtol=2e-3, atol=2e-4
        )
        if not REGISTRY[distance].centred:
            scaled = before.between(x[0] * 2.0**power, x[:50] * 2.0**power)
            torch.testing.assert_close(before.between(x[0], x[:50]), scaled, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([2.0**-11, 1e-3, 0.1]), centres=st.booleans())
def test_what_rounding_moves_is_never_more_than_is_said(seed: int, share: float, centres: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(200, 12, generator=generator) * 10 ** torch.randn(12, generator=generator)
    gain, matrix = torch.randn(12, generator=generator), torch.randn(12, 12, generator=generator)
    off = z * (1 + share * (2 * torch.rand(z.shape, generator=generator) - 1))
    for metric in (Metric("cosine", z[0], gain, None, centres), Metric("cosine", None, None, matrix, centres)):
        moved = (metric.mapped(off) - metric.mapped(z)).norm(dim=1)
        assert bool((moved <= metric.moved(z, share) * (1 + 1e-4) + 1e-6).all())


def test_statistics_are_those_of_numpy_and_survive_a_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(500, 7)) * 3 + 100
    batches = [[torch.from_numpy(part).float()] for part in np.array_split(x, 4)]
    (moments,) = moments_of(batches, ("mean", "covariance"))
    np.testing.assert_allclose(moments["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments["covariance"], np.cov(x.T, bias=True), rtol=1e-3, atol=1e-3)
    known = Statistics("m", "speeches", "f", 500, {"x0.post": moments})
    known.save(tmp_path / "statistics.safetensors")
    again = Statistics.load(tmp_path / "statistics.safetensors")
    assert (again.digest, again.mark("x0.post"), again.to_json()) == (known.digest, known.mark("x0.post"), known.to_json())
    data = bytearray((tmp_path / "statistics.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "statistics.safetensors").write_bytes(bytes(data))
    with pytest.raises(BankError, match="measure the statistics again"):
        Statistics.load(tmp_path / "statistics.safetensors")


def test_a_constant_site_and_a_site_nothing_depends_on_are_told() -> None:
    (constant,) = moments_of([[torch.full((9, 4), 3.0)]], ("mean", "covariance"))
    known = Statistics("m", "c", "f", 9, {"x0.post": {**constant, "gradients": torch.zeros(4, 4)}})
    for wrong in (known.deviation, known.whitening):
        with pytest.raises(SettingError, match=r"same at x0\.post"):
            wrong("x0.post")
    with pytest.raises(SettingError, match="changes what the model says"):
        known.sensitivity("x0.post", None)
    with pytest.raises(SettingError, match=r"hold no mean at x1\.post"):
        known.mean("x1.post")
    with pytest.raises(SettingError, match="no token"):
        moments_of([], ("mean",))
    (two,) = moments_of([[torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]])]], ("mean", "covariance"))
    scored = Statistics("m", "c", "f", 3, {"s": two}).deviation("s")
    assert bool(scored.isfinite().all() and (scored > 0).all())


def test_statistics_of_another_model_are_refused(study: iv.Study) -> None:
    with pytest.raises(MismatchError, match="another model"):
        study.model.learn(Statistics("other", "speeches", "f", 9, {}))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.1", 0.1), ("1e-3", 0.001), ("1/1000", Meaning(0.001, "share")), (" 2 / 50 ", Meaning(0.04, "share")),
        ("10bits", Meaning(10, "bits")), ("9.5 bits", Meaning(9.5, "bits")), ("1bit", Meaning(1, "bits")),
        ("0.1nat", Meaning(0.1, "nats")), ("2 nats", Meaning(2, "nats")), (0.3, 0.3),
    ],
)  # fmt: skip
def test_thresholds_are_read(text: Any, meant: Any) -> None:
    assert epsilon_named(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "x", "1/0", "1/1", "2/1", "-1/5", "0bits", "-3bits", "61bits", "0nat", "nan", "nanbits", "1/x", "3 apples", "inf"],
)
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="ε"):
        epsilon_named(text)


@pytest.fixture(scope="module")
def reading(study: iv.Study) -> tuple[iv.Study, Any, Any]:
    query = study.query("by the old bank of it", at=3, site="x0.post")
    return study, query, iv.build_bank(study, rows=study.inputs.placed(["all"]).size, sites=["x0.post"])


def test_a_share_and_bits_admit_so_many(reading: tuple[iv.Study, Any, Any]) -> None:
    """And no more but for what is as near, or nearly: rounding of stored vectors moves the threshold."""
    study, query, bank = reading
    for epsilon, share in (("1/20", 1 / 20), ("3bits", 1 / 8), ("1/7", 1 / 7)):
        made = iv.search(study, query, epsilon=epsilon, bank=bank)
        closer = iv.search(study, query, epsilon=made.epsilon * (1 - 5e-3), bank=bank)
        assert made.bits is not None
        assert closer.bits is not None
        wanted = share * made.bits.inputs
        assert closer.bits.hits < wanted + 1 <= made.bits.hits + 1


@pytest.mark.parametrize("distance", ["cosine-normed", "euclidean", "cosine-fisher"])
def test_what_ties_at_the_threshold_lies_inside(folder: Path, tmp_path: Path, distance: Distance) -> None:
    """Windows that are all the same: every occurrence has as many others as there are windows, and the share is no estimate."""
    file = tmp_path / "same.txt"
    file.write_text("the the the the the\n" * 60, encoding="utf-8")
    study = iv.load(model=folder, texts=TextSource(str(file), context=CONTEXT))
    query = study.query("by the old bank of it", at=3, site="x1.post")
    bank = iv.build_bank(study, tmp_path / "bank", rows=study.inputs.placed(["all"]).size, sites=["x1.post"])
    for epsilon in ("1/100", "3bits"):
        made = iv.search(study, query, epsilon=epsilon, distance=distance, bank=bank)
        assert made.bits is not None
        assert made.bits.hits >= made.bits.inputs * (0.01 if epsilon == "1/100" else 0.125)
        assert made.bits.hits % 60 == 0


def test_nats_are_those_of_a_patch_by_hooks(folder: Path, reading: tuple[iv.Study, Any, Any]) -> None:
    """Of every row, and so the largest ε whose members change the prediction by as much in the median."""
    study, query, bank = reading
    plain = plain_of(folder)
    base = plain.run(query.ids[:-1])[0][query.position].log_softmax(-1)

    def changed(ids: Any, position: int) -> float:
        z = plain.run(ids[: position + 1])[1]["x0.post"][position]
        said = plain.run(query.ids[:-1], [("x0.post", query.position, z)])[0][query.position].log_softmax(-1)
        return float((base.exp() * (base - said)).sum())

    from inversionview.sources.stand_in import with_nats

    every = with_nats(study, iv.search(study, query, epsilon="1/3", bank=bank, distance="euclidean"))
    for sample in every.samples:
        assert sample.nats == pytest.approx(changed(sample.ids, sample.position), rel=2e-3, abs=2e-5)
    rows = [sample for sample in every.samples for _ in range(sample.count)]
    most = float(np.median([sample.nats for sample in rows[:20]]))
    made = iv.search(study, query, epsilon=f"{most + 1e-6}nat", bank=bank, distance="euclidean")
    inside = [sample.nats for sample in rows if sample.distance <= made.epsilon * (1 + 1e-3)]
    assert len(inside) >= 10
    assert np.mean([each <= most + 1e-6 for each in inside]) >= 0.4  # half but for chance, of so many patches as are tried
    assert made.stand_in is not None
    assert made.to_json()["nats"]["members"] == made.stand_in.members


def test_a_wide_threshold_says_so_first_and_names_another(reading: tuple[iv.Study, Any, Any]) -> None:
    study, query, bank = reading
    made = iv.search(study, query, epsilon="1/3", bank=bank)
    assert "admits" in made.notes[0]
    assert "of random occurrences" in made.notes[0]
    narrow = iv.search(study, query, epsilon="1/40", bank=bank)
    assert not any("admits" in note for note in narrow.notes)


def test_what_a_threshold_cannot_mean_is_told(reading: tuple[iv.Study, Any, Any], folder: Path) -> None:
    study, query, bank = reading
    with pytest.raises(SettingError, match="too few to tell"):
        iv.search(study, query, epsilon="1/1000000", bank=bank)
    with pytest.raises(SettingError, match="can stand in for the query"):
        iv.search(study, query, epsilon="0.0000001nat", bank=bank)
    with pytest.raises(SettingError, match="many: give a number"):
        iv.inform(study, sites="x0.post", queries=3, epsilon="10bits")
    alone = iv.load(model=folder)
    with pytest.raises(SettingError, match="give texts"):
        iv.walk(alone, alone.query("by the old bank", at=2, site="x0.post"), epsilon="10bits", steps=2)
    with pytest.raises(SettingError, match="give texts"):
        iv.walk(alone, alone.query("by the old bank", at=2, site="x0.post"), distance="cosine-centred", steps=2)


def test_the_command_line_takes_and_tells_them(
    folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = [
        "search",
        "--model",
        str(folder),
        "--texts",
        str(corpus),
        "--context",
        "12",
        "by the old bank of it",
        "--index",
        "3",
    ]
    for more in (["--epsilon", "1/20", "--nats"], ["--epsilon", "4bits", "--distance", "cosine-fisher"]):
        main([*asked, "--site", "x0.post", *more, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert told["nats"]["members"] > 0
        if "--nats" in more:
            assert all(sample["nats"] >= 0 for sample in told["samples"])
        else:
            assert told["distance"]["statistics"]["corpus"].endswith("corpus.txt")
    with pytest.raises(SystemExit):
        main([*asked, "--site", "x0.post", "--epsilon", "3 apples"])
    assert "1/1000, 10bits or 0.1nat" in " ".join(capsys.readouterr().err.split())
