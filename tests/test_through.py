"""Directions and latents of files as sites, and single numbers: against plain hooks, formulas written out, and brute force."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import chisquare
from torch import Tensor

import inversionview as iv
from inversionview.core.errors import InversionViewError, MismatchError, SettingError
from inversionview.decoder.pairs import Drawn
from inversionview.model.backend import Backend, Patch
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site
from inversionview.studies.statistics import learn
from tests.test_balls import FewWalked, balls_of, listed_ball
from tests.test_cli import run as command
from tests.test_kinds import (
    Place,
    assert_near,
    backend,
    everywhere,
    inputs,
    own_patched,
    own_value,
    place,
    plain,
)  # fmt: skip

MODELS = [("gpt2", "plain"), ("llama_unbiased", "plain"), ("pythia", "bridge"), ("qwen3", "bridge")]
PLACES = ["x1.post", "m1", "attn0", "n1", "q1.1", "v0.1", "z0.2", "ln_final"]


@pytest.fixture(params=MODELS, ids="-".join)
def run(request: pytest.FixtureRequest) -> tuple[str, Backend]:
    name, kind = request.param
    return name, backend(name, kind)


def saved(path: Path, width: int, rows: int = 2) -> Tensor:
    """Write random rows, and return an orthonormal basis of what they span, by Gram and Schmidt."""
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(width))
    save_file({"w": made}, path)
    basis: list[Tensor] = []
    for row in made.double():
        rest = row - sum((row @ b) * b for b in basis) if basis else row
        basis.append(rest / rest.norm())
    return torch.stack(basis).float()


def dictionary(folder: Path, width: int, latents: int = 24, seed: int = 0) -> dict[str, Tensor]:
    """Write a dictionary of ReLU latents as SAELens does, and return its tensors."""
    folder.mkdir()
    rng = torch.Generator().manual_seed(seed)
    tensors = {
        "W_enc": torch.randn(width, latents, generator=rng), "b_enc": torch.randn(latents, generator=rng) - 1.0,
        "W_dec": torch.randn(latents, width, generator=rng), "b_dec": torch.randn(width, generator=rng),
    }  # fmt: skip
    save_file(tensors, folder / "sae_weights.safetensors")
    told = {"architecture": "standard", "d_in": width, "d_sae": latents, "apply_b_dec_to_input": True, "dtype": "float32"}
    (folder / "cfg.json").write_text(json.dumps(told))
    return tensors


def codes(x: Tensor, t: dict[str, Tensor]) -> Tensor:
    """ReLU((x − b_dec) W_enc + b_enc), Bricken et al. 2023."""
    return ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).clamp(min=0)


def here(name: str, site: Site) -> Place:
    block = {"gpt2": "transformer.h", "pythia": "gpt_neox.layers"}.get(name, "model.layers")
    if site.kind == "post":
        return Place(f"{block}.{site.layer}", False)
    if site.kind == "mlp":
        return Place(f"{block}.{site.layer}.mlp", False)
    return place(name, site)


@pytest.mark.parametrize("at", PLACES)
def test_directions_are_read_as_coordinates_and_written_as_components(
    run: tuple[str, Backend], at: str, tmp_path: Path
) -> None:
    name, made = run
    base = Site.parse(at)
    where = here(name, base)
    tokens, others = inputs(1), inputs(2)
    x, theirs = (own_value(plain(name), each, where) for each in (tokens, others))
    basis = saved(tmp_path / "p.safetensors", x.size(-1))
    for site, b in (
        (Site.parse(f"{at}@{tmp_path / 'p.safetensors'}:w"), basis),
        (Site.parse(f"{at}@{tmp_path / 'p.safetensors'}:w[0]"), basis[:1]),
    ):
        assert find_site(site, made.shape.sites) == site
        assert site.numbers(made.shape.widths) == len(b)
        assert_near(made.activations(tokens, None, [site], everywhere(tokens))[0], x @ b.T)
        value = theirs[:, 4] @ b.T
        wanted = own_patched(plain(name), tokens, where, 4, x[:, 4] + (value - x[:, 4] @ b.T) @ b)
        found = made.logits(tokens, None, {site: Patch(torch.full((3, 1), 4), value[:, None])})
        assert_near(found, wanted)
        own = made.activations(tokens, None, [site], everywhere(tokens))[0]
        assert_near(made.logits(tokens, None, {site: Patch(everywhere(tokens), own)}), made.logits(tokens, None))


def test_a_direction_of_a_heads_output_is_written_into_what_the_attention_gives(
    run: tuple[str, Backend], tmp_path: Path
) -> None:
    name, made = run
    tokens, z = inputs(1), own_value(plain(name), inputs(1), place(name, Site.parse("z1.2")))
    head = z @ made.w_o(1)[2]
    basis = saved(tmp_path / "p.safetensors", 32, 1)
    site = Site.parse(f"a1.2@{tmp_path / 'p.safetensors'}")
    assert_near(made.activations(tokens, None, [site], everywhere(tokens))[0], head @ basis.T)
    where = place(name, Site.parse("attn1"))
    given = own_value(plain(name), tokens, where)[:, 4]
    wanted = own_patched(plain(name), tokens, where, 4, given + (3.0 - head[:, 4] @ basis.T) @ basis)
    assert_near(made.logits(tokens, None, {site: Patch(torch.full((3, 1), 4), torch.full((3, 1, 1), 3.0))}), wanted)


def test_latents_are_the_formula_and_are_written_along_the_decoders_rows(run: tuple[str, Backend], tmp_path: Path) -> None:
    name, made = run
    where = here(name, Site.parse("x1.post"))
    tokens = inputs(1)
    x = own_value(plain(name), tokens, where)
    t = dictionary(tmp_path / "sae", x.size(-1))
    wanted = codes(x, t)
    every = Site.parse(f"x1.post|sae:{tmp_path / 'sae'}")
    assert_near(made.activations(tokens, None, [every], everywhere(tokens))[0], wanted)
    latent = int(wanted.sum((0, 1)).argmax())
    one = Site.parse(f"x1.post|sae:{tmp_path / 'sae'}#{latent}")
    assert_near(made.activations(tokens, None, [one], everywhere(tokens))[0], wanted[..., [latent]])
    changed = x[:, 4] + (2.5 - wanted[:, 4, [latent]]) * t["W_dec"][latent]
    found = made.logits(tokens, None, {one: Patch(torch.full((3, 1), 4), torch.full((3, 1, 1), 2.5))})
    assert_near(found, own_patched(plain(name), tokens, where, 4, changed))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A direction, two directions and a dictionary for vectors of 32 numbers."""
    folder = tmp_path_factory.mktemp("files")
    saved(folder / "one.safetensors", 32, 1)
    saved(folder / "two.safetensors", 32, 2)
    dictionary(folder / "sae", 32)
    return folder


SINGLE = ["n0.5", "x0.post@{files}/one.safetensors", "x0.post|sae:{files}/sae#{latent}"]


def named(text: str, files: Path, addition: iv.Study) -> Site:
    """Return a site; of the dictionary the latent that fires in the most nearly half of cases."""
    if "{latent}" in text:
        every = Site.parse(f"x0.post|sae:{files}/sae")
        tokens = addition.inputs.tokens(np.arange(0, 800_000, 1999))
        z = addition.model.activations(torch.from_numpy(tokens), [every], torch.full((len(tokens), 1), 8))[0, :, 0]
        fired = (z > 0).float().mean(0)
        text = text.replace("{latent}", str(int((fired - 0.5).abs().argmin())))
    return find_site(text.format(files=files), addition.model.sites)


@pytest.mark.parametrize("text", SINGLE)
def test_one_number_is_apart_by_its_spread(addition: iv.Study, files: Path, text: str) -> None:
    """|p − p_q| over the interquartile range of the corpus, of a latent of those that fire; off is nothing's neighbour."""
    site = named(text, files, addition)
    learn(addition, ["euclidean"], [site])
    rows = addition.inputs.corpus(np.arange(3000))
    where = torch.from_numpy(rows)
    p = addition.model.activations(where, [site])[0, ..., 0]
    spread = float(addition.model.statistics.spread(site.key))  # type: ignore[union-attr]
    counted = p[torch.from_numpy(addition.inputs.occurring(rows))].double().numpy()
    some = counted[counted != 0] if "sae" in text else counted
    low, high = np.quantile(some, [0.25, 0.75])
    assert spread == pytest.approx(high - low, rel=0.1)
    metric = addition.model.metric("euclidean", site)
    at = p[:200, 8]
    found = metric.between(at[:, None, None], at[None, :, None])
    gap = (at[:, None] - at).abs() / spread
    if "sae" in text:
        apart = (at[:, None] > 0) != (at > 0)
        assert float(found[apart].min()) > 10
        found, gap = found[~apart], gap[~apart]
    assert float((found - gap).abs().max()) < 1e-4


@pytest.mark.parametrize("text", [*SINGLE, "x0.post@{files}/two.safetensors", "q1.2", "n0", "attn1", "ln_final"])
def test_a_search_is_brute_force(addition: iv.Study, files: Path, text: str, tmp_path: Path) -> None:
    site = named(text, files, addition)
    learn(addition, ["euclidean"], [site])
    bank = iv.build_bank(addition, tmp_path / "bank", rows=3000, sites=[site.short], positions=["=", "A1"])
    query = addition.query("615+861=1476", at="=", site=site)
    tokens = bank.tokens(np.arange(3000))
    named_at = addition.inputs.named_positions(tokens)
    at = torch.from_numpy(np.stack([named_at["="], named_at["A1"]], axis=1))
    z = addition.model.activations(torch.from_numpy(tokens), [site], at)[0]
    d = addition.model.metric("euclidean", site).between(query.z, z).min(1).values.numpy()
    found = iv.search(addition, query, bank=bank, epsilon=0.2)
    rows = {tuple(sample.ids) for sample in found.samples if sample.distance <= 0.2}
    wanted = {tuple(t for t in tokens[i].tolist() if t != addition.inputs.pad) for i in np.flatnonzero(d <= 0.2)}
    wanted.discard(tuple(query.ids))
    assert rows == wanted
    reopened = iv.load("addition").bank(tmp_path / "bank")
    assert [s.short for s in reopened.sites] == [site.short]


def test_a_bank_whose_file_has_changed_is_refused(addition: iv.Study, tmp_path: Path) -> None:
    saved(tmp_path / "p.safetensors", 32, 2)
    site = f"x0.post@{tmp_path / 'p.safetensors'}"
    iv.build_bank(addition, tmp_path / "bank", rows=300, sites=[site], positions=["="])
    save_file({"w": torch.eye(32)[:2]}, tmp_path / "p.safetensors")
    with pytest.raises(MismatchError, match="has changed since the bank"):
        addition.bank(tmp_path / "bank")


@pytest.mark.parametrize("text", SINGLE)
def test_a_walk_at_one_number_draws_from_its_preimage(addition: iv.Study, files: Path, text: str) -> None:
    """Of one activation many times over, against the listed preimage."""
    site, few = named(text, files, addition), FewWalked()
    learn(addition, ["euclidean"], [site])
    balls = balls_of(addition, few, site.short, batch=64, pool=16)
    balls.__dict__["_empty"] = np.full((1, few.place_count), 1.0)
    every = few.tokens(few.split("train"))
    sites, at = np.zeros(900, dtype=np.int64), np.full(900, 8)
    for number in (100, 200, 400, 700):
        tokens = np.repeat(every[[number]], 900, axis=0)
        drawn = Drawn(tokens, few.trained_positions(tokens))
        z = balls.source.read(drawn, np.arange(900), at, sites)
        inside = listed_ball(addition, balls.source.sites[0], z[0], every)
        if 20 <= len(inside) < 150:
            break
    members = balls.members(3, drawn, np.arange(900), at, sites, z).tokens[:, -1]
    count = (members[:, None] == inside[None]).all(2)
    assert count.any(1).all()
    assert chisquare(count.sum(0)).pvalue > 1e-3


def test_a_latent_is_a_site_of_every_command(
    addition: iv.Study, files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    site = named(SINGLE[2], files, addition).short
    text = ("addition", "615+861=1476", "--at", "=", "--site", site)
    code, out, _ = command(capsys, "walk", *text, "--steps", "20", "--json")
    assert code == 0
    assert json.loads(out)["query"]["site"] == site
    code, out, _ = command(capsys, "patch", "addition", "--at", f"=:{site}", "--limit", "50", "--json")
    assert code == 0
    assert json.loads(out)["activations"] == [f"=:{site}"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x0.post@{files}/none.npy", "is not there"),
        ("n0@{files}/one.safetensors", "is for vectors of 32 numbers, but n0 has 128"),
        ("x9.post@{files}/one.safetensors", "layers 0, 1"),
        ("x0.post|sae:{files}/sae#24", "24"),
        ("x0.post|sae:{files}/sae#x", "names no latent"),
        ("x0.post|sae:", "names no latent"),
        ("x0.post|sae:{files}/nothing", "nothing"),
        ("x0.post@", "names no file"),
    ],
)
def test_what_cannot_be_read_through(addition: iv.Study, files: Path, text: str, says: str) -> None:
    with pytest.raises(InversionViewError) as error:
        find_site(text.format(files=files), addition.model.sites)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dictionary_of_another_place_is_refused_unless_it_is_meant(addition: iv.Study, files: Path) -> None:
    cfg = files / "sae" / "cfg.json"
    told = json.loads(cfg.read_text())
    cfg.write_text(json.dumps({**told, "hook_name": "blocks.1.hook_resid_pre"}))
    try:
        known = addition.model.sites
        assert find_site(f"x0.post|sae:{files}/sae#3", known).single  # the stream after a layer is the one before the next
        with pytest.raises(SettingError, match=r"belongs at blocks.1.hook_resid_pre, .* not at blocks.1.hook_resid_post"):
            find_site(f"x1.post|sae:{files}/sae#3", known)
        assert find_site(f"x1.post|sae!:{files}/sae#3", known).single
    finally:
        cfg.write_text(json.dumps(told))


def test_a_latent_that_never_fires_is_said(addition: iv.Study, tmp_path: Path) -> None:
    tensors = dictionary(tmp_path / "sae", 32)
    tensors["b_enc"][3] = -1e6
    save_file(tensors, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(SettingError, match="never fires in"):
        learn(addition, ["euclidean"], [Site.parse(f"x0.post|sae:{tmp_path / 'sae'}#3")])


def test_patterns_leave_what_stands_in_a_files_name_alone(addition: iv.Study, tmp_path: Path) -> None:
    saved(tmp_path / "p[1].safetensors", 32, 2)
    site = f"x0.post@{tmp_path / 'p[1].safetensors'}:w[0]"
    assert [s.short for s in expand([site, "x0.post"], addition.model.sites)] == ["x0.post", site]


def test_a_vector_from_outside_has_the_preimage_of_the_input_that_it_is_of(
    addition: iv.Study, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """But the input counts, too, which nothing says it is of."""
    bank = iv.build_bank(addition, tmp_path / "bank", rows=20_000, sites=["x0.post"], positions=["="])
    inside = bank.tokens(np.arange(1))[0]
    text = addition.model.vocabulary.decode([t for t in inside.tolist() if t != addition.inputs.pad])
    query = addition.query(text, at="=", site="x0.post")
    np.save(tmp_path / "z.npy", query.z.numpy()[None])
    for vector in (query.z, query.z.numpy(), str(tmp_path / "z.npy"), f"{tmp_path / 'z.npy'}[0]"):
        found = addition.query(vector=vector, site="x0.post")
        assert found.textless
        assert torch.equal(found.z, query.z)
    assert torch.equal(iv.query(addition, vector=query.z, site="x0.post").z, query.z)
    assert torch.equal(iv.query(addition, text, "=", "x0.post").z, query.z)
    known, unknown = (iv.search(addition, each, bank=bank) for each in (query, found))
    inside_of = [{s.ids for s in made.samples if s.inside} for made in (known, unknown)]
    assert inside_of[1] == inside_of[0] | {tuple(query.ids)}
    assert unknown.bits is not None
    assert unknown.bits.inputs == 20_000
    walked = iv.walk(addition, found, starts=[unknown], steps=30)
    assert walked.inside
    assert all(sample.distance <= 0.1 for sample in walked.inside)
    for asked in (("search",), ("read", "--seconds", "0.5")):
        code, out, err = command(
            capsys, asked[0], "addition", "--vector", str(tmp_path / "z.npy"), "--site", "x0.post", *asked[1:], "--json"
        )
        assert (code, err) == (0, "")
        told = json.loads(out)["query"]
        assert (told["vector"], told["tokens"], told["position"]) == (str(tmp_path / "z.npy"), [], -1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("read", "addition", "615+861=1476", "--vector", "{files}/one.safetensors", "--site", "x0.post"), "without a text"),
        (("read", "addition", "--vector", "{files}/one.safetensors", "--site", "n0"), "has the shape (32,)"),
        (("read", "addition", "--vector", "{files}/two.safetensors", "--site", "x0.post"), "holds 2 vectors: name one"),
        (("read", "addition", "--vector", "{files}/none.npy", "--site", "x0.post"), "is not there"),
        (("read", "--vector", "{files}/one.safetensors", "--site", "x0.post"), "a study, or --model"),
        (
            ("read", "addition", "--vector", "{files}/one.safetensors", "--site", "x0.post", "--source", "walk"),
            "no input there is known",
        ),
        (
            ("read", "addition", "--vector", "{files}/one.safetensors", "--site", "x0.post", "--epsilon", "0.1nat"),
            "a vector alone has none",
        ),
        (("search", "addition", "--vector", "{files}/one.safetensors", "--site", "x0.post", "--fixed", "#3"), "no text"),
    ],
)
def test_vectors_that_cannot_be_read(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = command(capsys, *(each.format(files=files) for each in arguments))
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())


def test_the_distance_of_one_number_is_called_what_it_is(addition: iv.Study, capsys: pytest.CaptureFixture[str]) -> None:
    text = ("addition", "615+861=1476", "--at", "=", "--site", "n0.5", "--steps", "20")
    code, out, _ = command(capsys, "walk", *text, "--json")
    assert code == 0
    assert json.loads(out)["distance"]["name"] == "spread"
    _, out, _ = command(capsys, "walk", *text)
    assert re.search(r"p_q ± [\d.]+, ε of its spread", out)
    assert "euclidean" not in out


@pytest.mark.parametrize("study", ["addition", "counting"])
def test_a_shipped_dictionary_is_named_by_its_study(request: pytest.FixtureRequest, study: str) -> None:
    loaded: iv.Study = request.getfixturevalue(study)
    site = find_site(f"x0.post|sae:{study}#3", loaded.model.sites)
    assert site.single
    with pytest.raises(SettingError, match=r"belongs at blocks.0.hook_resid_post"):
        find_site(f"x1.post|sae:{study}#3", loaded.model.sites)


def stated(folder: Path, told: dict[str, object]) -> str:
    """Write a dictionary whose settings say so, and return its folder."""
    dictionary(folder, 32)
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    return str(folder)


def test_a_dictionary_of_centred_weights_is_refused_unless_it_is_meant(addition: iv.Study, tmp_path: Path) -> None:
    folder = stated(tmp_path / "sae", {"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    with pytest.raises(SettingError, match="writing weights were centred"):
        find_site(f"x0.post|sae:{folder}#3", addition.model.sites)
    assert find_site(f"x0.post|sae!:{folder}#3", addition.model.sites).single


def test_latents_of_activations_that_are_normalised_are_read_and_not_replaced(addition: iv.Study, tmp_path: Path) -> None:
    folder = stated(tmp_path / "sae", {"normalize_activations": "layer_norm"})
    site, tokens = find_site(f"x0.post|sae:{folder}#3", addition.model.sites), torch.zeros(1, 3, dtype=torch.long)
    patch = Patch(torch.arange(3)[None], addition.model.activations(tokens, [site])[0])
    with pytest.raises(SettingError, match="write no fixed direction"):
        addition.model.logits(tokens, {site: patch})
