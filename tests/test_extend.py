"""Continuing from keys and values, and gradients with respect to the token embeddings, on both backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import inversionview as iv
from inversionview.core.errors import InputError, SettingError, UnknownSiteError
from inversionview.model.backend import Patch
from inversionview.model.bridge import BridgeBackend
from inversionview.model.cache import KeysValues
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.model.tokens import Vocabulary, character_tokenizer
from tests.test_architectures import ARCHITECTURES, CHARACTERS, GROUPED, SIZES, Architecture, assert_near, save

_STATE_SPACE = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
BRIDGED = {name: ARCHITECTURES[name] for name in ("gpt2", "llama", "mistral", "qwen3", "gemma", "gemma2", "pythia", "gptj")} | {
    "bloom": Architecture("Bloom", {**SIZES, "n_layer": 2, "n_head": 4}),
    "falcon_h1": Architecture("FalconH1", {**SIZES, **GROUPED, **_STATE_SPACE, "mamba_chunk_size": 4}),
}
RECOMPUTED = "falcon_h1"
"""Each layer has a state-space part beside its attention: keys and values do not hold all that is to come."""
EMBEDDING = ("wte.weight", "embed_tokens.weight", "embed_in.weight", "word_embeddings.weight")


def bridged(hf_model: Any) -> ProbedModel:
    vocabulary = Vocabulary.from_transformers(character_tokenizer(CHARACTERS))
    return ProbedModel(BridgeBackend(hf_model), vocabulary, "random")


@pytest.fixture(scope="module", params=["addition", "plain_gpt2", *BRIDGED])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ProbedModel:
    torch.set_num_threads(1)
    if request.param == "addition":
        return iv.load("addition").model
    if request.param != "plain_gpt2":
        return bridged(BRIDGED[request.param].model())
    save(ARCHITECTURES["gpt2"], folder := tmp_path_factory.mktemp("gpt2"))
    model = ProbedModel.from_pretrained(folder)
    assert isinstance(model.backend, GPT2Backend)
    return model


@pytest.fixture
def llama() -> ProbedModel:
    return bridged(ARCHITECTURES["llama"].model())


def inputs(model: ProbedModel, batch: int = 3, length: int = 9, seed: int = 1) -> Tensor:
    """Random sequences without padding, of which none holds a token twice."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([i for i in range(model.shape.vocabulary) if i != model.vocabulary.pad])
    return torch.stack([ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(batch)])


def assert_same(a: KeysValues, b: KeysValues) -> None:
    assert (len(a.keys), len(a.values)) == (len(b.keys), len(b.values))
    for x, y in zip([*a.keys, *a.values], [*b.keys, *b.values], strict=True):
        assert_near(x, y)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_pieces_are_one_run(model: ProbedModel, data: st.DataObject) -> None:
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(3, 9))
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), min_size=1, max_size=2)))
    site, logits = data.draw(st.sampled_from(model.sites)), data.draw(st.booleans())
    tokens = inputs(model, batch, length, data.draw(st.integers(0, 99)))
    cache, found = None, []
    for start, stop in zip([0, *cuts], [*cuts, length], strict=True):
        part = model.extend(tokens[:, start:stop], cache, site, logits=logits)
        cache = part.cache
        found.append(part)
    assert (cache.batch, cache.length) == (batch, length)
    assert_near(torch.cat([part.activations for part in found], dim=1), model.activations(tokens, [site])[0])
    if logits:
        assert_near(torch.cat([part.logits for part in found], dim=1), model.logits(tokens))
    else:
        assert all(part.logits is None for part in found)


@pytest.mark.parametrize("name", list(BRIDGED))
def test_against_plain_hugging_face(name: str) -> None:
    model, plain = bridged(BRIDGED[name].model()), BRIDGED[name].model()
    tokens = inputs(model)
    with torch.no_grad():
        wanted = plain(tokens, output_hidden_states=True)
    cache = model.extend(tokens[:, :4]).cache
    found = model.extend(tokens[:, 4:], cache, Site(0, "post"))
    assert_near(found.logits, wanted.logits[:, 4:])
    assert_near(found.activations, wanted.hidden_states[1][:, 4:])
    assert len(found.cache.values) == (0 if name == RECOMPUTED else 2)


def test_garbage_on_the_right_changes_nothing(model: ProbedModel) -> None:
    tokens, site = inputs(model), Site(1, "mlp")
    other = torch.cat([tokens[:, :6], inputs(model, seed=2)[:, :2], torch.full((3, 1), model.vocabulary.pad)], dim=1)
    cache = model.extend(tokens[:, :3]).cache
    a, b = (model.extend(x[:, 3:], cache, site) for x in (tokens, other))
    assert_near(a.activations[:, :3], b.activations[:, :3])
    assert_near(a.logits[:, :3], b.logits[:, :3])
    again = model.extend(tokens[:, 6:], b.cache.cut(6), site)
    assert_near(again.activations, a.activations[:, 3:])
    assert_same(again.cache, a.cache)


@pytest.mark.parametrize("boolean", [False, True])
def test_edited_sequences_put_back_are_a_fresh_run(model: ProbedModel, boolean: bool) -> None:
    tokens, site, start = inputs(model), Site(1, "pre"), 5
    rows = torch.tensor([True, False, True]) if boolean else torch.tensor([2, 0])
    edited = tokens.clone()
    edited[rows, start:] = inputs(model, seed=3)[rows, start:]
    cache = model.extend(tokens, logits=False).cache
    before = cache.rows(torch.arange(3))
    new = model.extend(edited[rows][:, start:], cache.rows(rows).cut(start), logits=False).cache
    assert_same(cache, before)
    cache.put(rows, new, start)
    assert_same(cache, model.extend(edited).cache)
    at = start + 2
    found = model.extend(edited[:, at:], cache.cut(at), site)
    assert_near(found.activations, model.activations(edited, [site])[0][:, at:])
    assert_near(found.logits, model.logits(edited)[:, at:])


@pytest.mark.parametrize("start", [0, 6])
def test_variants_of_a_token_are_runs_of_their_own(model: ProbedModel, start: int) -> None:
    """Each row of a patched token is what a whole run with that patch alone gives, and rows without one are as they were."""
    torch.manual_seed(2)
    tokens = inputs(model, batch=1, length=start + 1)
    cache = model.extend(tokens[:, :start]).cache if start else None
    sites = [*[site for site in model.sites if site.layer == 1][-2:], model.sites[0]]
    values = torch.randn(len(sites), 2, model.shape.d_model)
    at = torch.full((2, 1), start)
    patches = {site: Patch(at, values[i, :, None], torch.tensor([2 * i, 2 * i + 1])) for i, site in enumerate(sites)}
    found = model.variants(int(tokens[0, -1]), cache, 2 * len(sites) + 1, patches)
    for i, site in enumerate(sites):
        for j in range(2):
            alone = model.logits(tokens, {site: Patch(at[:1], values[i, j][None, None])})[0, -1]
            assert_near(found[2 * i + j], alone)
    assert_near(found[-1], model.logits(tokens)[0, -1])
    full = KeysValues([torch.zeros(1, 1, model.shape.max_length, 1)], [])
    with pytest.raises(InputError, match="the model reads"):
        model.variants(0, full, 1, {})


def test_without_logits_the_run_stops_at_the_site(model: ProbedModel) -> None:
    tokens = inputs(model)
    full = model.extend(tokens[:, :4]).cache
    for site in model.sites:
        whole, part = (model.extend(tokens[:, 4:], full, site, logits=logits) for logits in (True, False))
        assert_near(whole.activations, part.activations)
        if whole.cache.values:
            layers = max(1, site.layer + (site.kind != "pre"))
            assert len(part.cache.keys) == len(part.cache.values) == layers
            assert_same(part.cache, whole.cache.layers(layers))


def test_put_leaves_the_positions_before_the_start(llama: ProbedModel) -> None:
    old, new = (llama.extend(inputs(llama, seed=seed)).cache for seed in (1, 2))
    cache = old.rows(torch.arange(3))
    cache.put(torch.arange(3), new, 6)
    assert_same(cache.cut(6), old.cut(6))
    assert torch.equal(cache.values[1][:, :, 6:], new.values[1][:, :, 6:])


def test_a_model_that_goes_on_wrongly_is_run_again() -> None:
    """Its rotary embedding counts each run's positions from 0, so that keys and values mislead it."""
    plain = ARCHITECTURES["llama"].model()

    def restart(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
        args = (*args[:1], *(ids - ids.min() for ids in args[1:]))
        return args, {name: ids - ids.min() for name, ids in kwargs.items()}

    plain.model.rotary_emb.register_forward_pre_hook(restart, with_kwargs=True)
    model = bridged(plain)
    tokens = inputs(model)
    cache = model.extend(tokens[:, :4]).cache
    assert cache.values == []
    assert_near(model.extend(tokens[:, 4:], cache).logits, model.logits(tokens)[:, 4:])


def test_views_and_copies(llama: ProbedModel) -> None:
    cache = llama.extend(inputs(llama)).cache
    cut, rows = cache.cut(4), cache.rows(torch.tensor([1]))
    assert (cut.batch, cut.length, rows.batch, rows.length) == (3, 4, 1, 9)
    assert tuple(cache.keys[0].shape) == (3, 2, 9, 8)
    cache.keys[0].zero_()
    assert not cut.keys[0].any()
    assert rows.keys[0].any()


def embedding_weight(model: ProbedModel) -> Tensor:
    return next(weight for name, weight in model.backend.weights() if name.endswith(EMBEDDING))


def energy(z: Tensor) -> Tensor:
    """A loss that looks at the last position and, less, at all."""
    return z[:, -1].square().sum(-1) + 0.1 * z.square().sum((1, 2))


@pytest.mark.parametrize("site", [Site(0, "pre"), Site(0, "head", 1), Site(1, "mlp"), Site(1, "post")])
def test_gradient_against_finite_differences(model: ProbedModel, site: Site) -> None:
    """One token's row of the embedding moves along the gradient, forth and back."""
    tokens, weight, at = inputs(model, batch=1), embedding_weight(model), 4
    losses, gradient = model.pull(tokens, site, energy)
    assert_near(losses, energy(model.activations(tokens, [site])[0]))
    assert gradient.shape == (1, 9, model.shape.d_model)
    original, token = weight.clone(), tokens[0, at]
    step = gradient[0, at] / gradient[0, at].norm() * 0.01
    sides = []
    for sign in (1, -1):
        weight[token] += sign * step
        sides.append((model.pull(tokens, site, energy)[0], model.embeddings()[token].clone()))
        weight.copy_(original)
    (up, above), (down, below) = sides
    assert (up - down).item() == pytest.approx(((above - below) @ gradient[0, at]).item(), rel=0.02)


@pytest.mark.parametrize("name", ["plain", "gpt2", "llama", "pythia", "bloom"])
def test_gradient_against_hugging_face(name: str, tmp_path: Path) -> None:
    architecture = BRIDGED["gpt2" if name == "plain" else name]
    plain = save(architecture, tmp_path)
    model = ProbedModel.from_pretrained(tmp_path) if name == "plain" else bridged(architecture.model())
    tokens = inputs(model)
    embedded = plain.get_input_embeddings()(tokens).detach().requires_grad_()
    wanted = energy(plain(inputs_embeds=embedded, output_hidden_states=True).hidden_states[1])
    wanted.sum().backward()
    losses, gradient = model.pull(tokens, Site(0, "post"), energy)
    torch.testing.assert_close(losses, wanted.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, embedded.grad, rtol=1e-3, atol=1e-3)


def test_each_input_has_its_own_gradient_and_padding_none(model: ProbedModel) -> None:
    tokens, site = inputs(model), Site(1, "post")
    pads = torch.full((1, 3), model.vocabulary.pad)
    batch = torch.cat([tokens[:2], torch.cat([pads, tokens[2:, :6]], dim=1)])
    losses, gradient = model.pull(batch, site, lambda z: z[:, -1].square().sum(-1))
    for row, alone in enumerate((tokens[:1], tokens[1:2], tokens[2:, :6])):
        loss, own = model.pull(alone, site, lambda z: z[:, -1].square().sum(-1))
        torch.testing.assert_close(losses[row : row + 1], loss, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient[row, -alone.size(1) :], own[0], rtol=1e-3, atol=1e-3)
    assert not gradient[2, :3].any()


def test_pulling_leaves_no_trace(model: ProbedModel) -> None:
    tokens = inputs(model)
    before, weights = model.logits(tokens), {name: weight.clone() for name, weight in model.backend.weights()}
    with torch.no_grad():
        first, second = (model.pull(tokens, Site(1, "mid" if not model.shape.parallel else "mlp"), energy) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert not any(x.requires_grad for x in (*first, model.embeddings()))
    assert torch.equal(model.logits(tokens), before)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.backend.weights())


def test_nothing_behind_the_site_is_computed_for_a_gradient(llama: ProbedModel) -> None:
    runs: list[int] = []
    block = llama.backend.bridge.blocks[1].original_component  # type: ignore[attr-defined]
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    llama.pull(inputs(llama), Site(0, "post"), energy)
    assert runs == []
    llama.pull(inputs(llama), Site(1, "mid"), energy)
    assert runs == [1]


def test_no_weight_gets_a_gradient() -> None:
    plain = ARCHITECTURES["qwen2"].model()
    parameters = list(plain.parameters())
    model = bridged(plain)
    model.pull(inputs(model), Site(1, "post"), energy)
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize("name", ["llama", "gemma", "gemma2", "gpt2", "bloom"])
def test_embeddings(name: str) -> None:
    model, plain = bridged(BRIDGED[name].model()), BRIDGED[name].model()
    ids = torch.arange(model.shape.vocabulary)
    with torch.no_grad():
        assert_near(model.embeddings(), plain.get_input_embeddings()(ids))
    if name in ("llama", "gemma"):
        assert_near(model.activations(ids[None, :20], [Site(0, "pre")])[0, 0], model.embeddings()[:20])


@pytest.mark.parametrize("site", [Site(9, "post"), Site(0, "head", 9)])
def test_unknown_site(model: ProbedModel, site: Site) -> None:
    with pytest.raises(UnknownSiteError, match="There is no site"):
        model.extend(inputs(model), None, site)
    with pytest.raises(UnknownSiteError, match="There is no site"):
        model.pull(inputs(model), site, energy)


def test_cache_of_another_batch(model: ProbedModel) -> None:
    cache = model.extend(inputs(model)[:, :4]).cache
    with pytest.raises(SettingError, match="cache is of 3 sequences, but 2 go on: take its rows"):
        model.extend(inputs(model)[:2, 4:], cache)


def test_cache_with_too_few_layers(model: ProbedModel) -> None:
    tokens = inputs(model)
    part = model.extend(tokens[:, :4], None, Site(0, "mid" if not model.shape.parallel else "mlp"), logits=False).cache
    if not part.values:  # of the tokens themselves, everything can be had
        return
    with pytest.raises(SettingError, match=r"holds 1 layers, but \d are run: make it with logits, or with a later site"):
        model.extend(tokens[:, 4:], part)
    with pytest.raises(SettingError, match="cannot replace"):
        model.extend(tokens[:, :4]).cache.put(torch.arange(3), part, 2)


def test_what_cannot_be_put(llama: ProbedModel) -> None:
    cache = llama.extend(inputs(llama)).cache
    for rows, new in [(torch.arange(2), cache), (torch.arange(3), cache.cut(8)), (torch.tensor([True] * 2 + [False]), cache)]:
        with pytest.raises(SettingError, match="layers, rows and positions cannot replace"):
            cache.put(rows, new, 4)


def test_sequences_longer_than_the_model(model: ProbedModel) -> None:
    short = ProbedModel(model.backend, model.vocabulary, "short")
    shape = model.shape
    short.backend.shape = replace(shape, max_length=8)
    try:
        cache = short.extend(inputs(model)[:, :4]).cache
        with pytest.raises(InputError, match="sequences have 9 tokens, the model reads 8: shorten them"):
            short.extend(inputs(model)[:, 4:], cache)
    finally:
        short.backend.shape = shape
