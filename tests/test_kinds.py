"""Queries, keys, values, inputs of W_O, attention layers, neurons, the last norm and the embedding, against plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from inversionview.core.errors import UnknownSiteError
from inversionview.model.backend import Backend, Patch
from inversionview.model.bridge import BridgeBackend
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.llama import LlamaNetwork
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site
from tests.test_architectures import ARCHITECTURES, GROUPED, LENGTH, SIZES, VOCABULARY, Architecture

MODELS = {**ARCHITECTURES, "llama_unbiased": Architecture("Llama", {**SIZES, **GROUPED})}


class Place(NamedTuple):
    """Where a Hugging Face model keeps a value: at a module's input or output, and which of its numbers."""

    module: str
    entering: bool
    numbers: slice = slice(None)


class Names(NamedTuple):
    """An architecture's own names of modules within a block."""

    q: str
    k: str
    v: str
    gathered: str
    down: str
    norm: str


_LLAMA = Names("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj", "model.norm")
NAMES = {
    "gpt2": Names(*["attn.c_attn"] * 3, "attn.c_proj", "mlp.c_proj", "transformer.ln_f"),
    "llama": _LLAMA,
    "llama_unbiased": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "pythia": Names(*["attention.query_key_value"] * 3, "attention.dense", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
}
SITES = [
    "q1.0",
    "q1.3",
    "k1.0",
    "k1.1",
    "v1.0",
    "v1.1",
    "z1.0",
    "z1.3",
    "z1",
    "attn1",
    "n1",
    "n1.0",
    "n1.47",
    "ln_final",
    "embed",
]


def head_size(name: str) -> int:
    """Return d_head: the tests' models have 4 heads."""
    return int(MODELS[name].options.get("head_dim", 8))


def place(name: str, site: Site) -> Place:
    """Return where an architecture keeps a site."""
    names, block = NAMES[name], f"{MODELS[name].blocks}.{site.layer}"
    d, head = head_size(name), site.head or 0
    if site.kind in ("q", "k", "v"):
        part = "qkv".index(site.kind)
        start = {"gpt2": part * 32 + head * d, "pythia": (3 * head + part) * d}.get(name, head * d)
        return Place(f"{block}.{getattr(names, site.kind)}", False, slice(start, start + d))
    if site.kind == "z":
        return Place(f"{block}.{names.gathered}", True, slice(head * d, head * d + d))
    if site.kind == "gathered":
        return Place(f"{block}.{names.gathered}", True)
    if site.kind == "attn":
        return Place(f"{block}.{names.gathered}", False)
    if site.kind in ("neurons", "neuron"):
        return Place(f"{block}.{names.down}", True, slice(None) if site.head is None else slice(head, head + 1))
    return Place(names.norm, False)


@cache
def plain(name: str) -> Any:
    return MODELS[name].model()


@contextmanager
def hooked(model: Any, where: Place, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``change`` with the value at a place; what it returns is put in its stead."""
    module = model.get_input_embeddings() if where.module == "embed" else model.get_submodule(where.module)

    def before(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        made = change(args[0])
        return None if made is None else (made, *args[1:])

    def after(_: Any, args: Any, out: Tensor) -> Tensor | None:
        return change(out)

    handle = module.register_forward_pre_hook(before) if where.entering else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def own_value(model: Any, tokens: Tensor, where: Place) -> Tensor:
    """Return the value at a place in a plain run."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> None:
        found.append(x[..., where.numbers].detach().clone())

    with torch.no_grad(), hooked(model, where, keep):
        model(tokens)
    return found[0]


def own_patched(model: Any, tokens: Tensor, where: Place, position: int, value: Tensor) -> Tensor:
    """Return the logits of a plain run in which a value is replaced at a position."""

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, position, where.numbers] = value
        return x

    with torch.no_grad(), hooked(model, where, put):
        logits: Tensor = model(tokens).logits
    return logits


@cache
def backend(name: str, kind: str) -> Backend:
    """Return what runs the same weights: the bridge, or the plain network of that architecture."""
    made = MODELS[name].model()
    if kind == "bridge":
        return BridgeBackend(made)
    state = {name: weight.detach() for name, weight in made.named_parameters()}
    if name == "gpt2":
        return GPT2Backend(made.config.to_dict(), made.state_dict(), "cpu", torch.float32)
    shape = BridgeBackend(MODELS[name].model()).shape
    frequencies = made.model.rotary_emb.inv_freq
    return LlamaNetwork(shape, state, frequencies, made.model.rotary_emb.attention_scaling, made.config.rms_norm_eps)  # type: ignore[return-value]


RUN = [*((name, "bridge") for name in NAMES), ("gpt2", "plain"), ("llama_unbiased", "plain")]


@pytest.fixture(params=RUN, ids="-".join)
def run(request: pytest.FixtureRequest) -> tuple[str, Backend]:
    name, kind = request.param
    return name, backend(name, kind)


def inputs(seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY - 3, (3, LENGTH), generator=torch.Generator().manual_seed(seed))


def everywhere(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.size(1)).expand(len(tokens), -1)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    assert float((found - wanted).norm()) <= 1e-4 * float(wanted.norm())


def sites_here(made: Backend) -> list[Site]:
    return [site for name in SITES if (site := Site.parse(name)) in made.shape.sites]


def test_every_kind_is_hugging_faces(run: tuple[str, Backend]) -> None:
    name, made = run
    tokens, sites = inputs(), sites_here(made)
    assert len(sites) == len(SITES)
    numbers = [site.numbers(made.shape.widths) for site in sites]
    every = made.activations(tokens, None, sites, everywhere(tokens))
    some = made.activations(tokens, None, sites, torch.tensor([[4, 1]] * 3))
    assert every.size(-1) == max(numbers)
    for i, site in enumerate(sites):
        where = place(name, site) if site.kind != "embed" else Place("embed", False)
        wanted = own_value(plain(name), tokens, where)
        assert_near(every[i, ..., : numbers[i]], wanted)
        assert_near(some[i, ..., : numbers[i]], wanted[:, [4, 1]])
        assert not every[i, ..., numbers[i] :].any()
        assert_near(made.activations(tokens, None, [site], everywhere(tokens))[0], wanted)


def test_a_padded_row_is_as_it_is_alone(run: tuple[str, Backend]) -> None:
    _, made = run
    tokens, sites = inputs(), sites_here(made)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :3] = mask[2, 6:] = False
    found = made.activations(tokens.masked_fill(~mask, 0), mask, sites, everywhere(tokens))
    for row, here in ((1, slice(3, None)), (2, slice(0, 6))):
        alone = made.activations(tokens[row : row + 1, here], None, sites, everywhere(tokens[row : row + 1, here]))
        assert_near(found[:, row, here], alone[:, 0])


def test_anothers_value_is_a_plain_intervention(run: tuple[str, Backend]) -> None:
    """Every kind but the embedding, which is replaced as a part of x0.pre, at one position."""
    name, made = run
    tokens, others, at = inputs(1), inputs(2), torch.full((3, 1), 5)
    clean = made.logits(tokens, None)
    for site in sites_here(made):
        if site.kind != "embed":
            where = place(name, site)
            value = own_value(plain(name), others, where)[:, 5]
            wanted = own_patched(plain(name), tokens, where, 5, value)
            found = made.logits(tokens, None, {site: Patch(at, value[:, None])})
            assert_near(found, wanted)
            assert not torch.equal(found[:, 5:], clean[:, 5:]), site
            assert_near(found[:, :5], clean[:, :5])


def test_own_values_patch_nothing(run: tuple[str, Backend]) -> None:
    _, made = run
    tokens = inputs()
    logits = made.logits(tokens, None)
    for site in sites_here(made):
        if site.kind != "embed":
            own = made.activations(tokens, None, [site], everywhere(tokens))[0]
            assert_near(made.logits(tokens, None, {site: Patch(everywhere(tokens), own)}), logits)


def test_a_sequence_that_goes_on_has_the_same_values(run: tuple[str, Backend]) -> None:
    _, made = run
    tokens = inputs()
    for site in sites_here(made):
        whole = made.activations(tokens, None, [site], everywhere(tokens))[0]
        begun = made.extend(tokens[:, :4], None, site, logits=False)
        later = made.extend(tokens[:, 4:], begun.cache, site, logits=False)
        assert begun.activations is not None
        assert later.activations is not None, site
        assert_near(torch.cat([begun.activations, later.activations], dim=1), whole)


def test_gradients_reach_the_embeddings(run: tuple[str, Backend]) -> None:
    """Along a direction, against the difference that a small step makes."""
    name, made = run
    tokens, model = inputs(), plain(name)
    table = model.get_input_embeddings().weight
    for site in [s for s in sites_here(made) if s.kind not in ("embed", "neuron")]:
        losses, gradient = made.pull(tokens, None, site, lambda z: z.square().sum((1, 2)))
        where = place(name, site)
        assert_near(losses, own_value(model, tokens, where).square().sum((1, 2)))
        leaf = table[tokens].detach().requires_grad_()
        scale = own_value(model, tokens, Place("embed", False)) / table[tokens]
        found: list[Tensor] = []

        def keep(x: Tensor, found: list[Tensor] = found, where: Place = where) -> None:
            found.append(x[..., where.numbers])

        def begin(_: Tensor, leaf: Tensor = leaf, scale: Tensor = scale) -> Tensor:
            return leaf * scale

        with hooked(model, where, keep), hooked(model, Place("embed", False), begin):
            model(tokens)
        (wanted,) = torch.autograd.grad(found[0].square().sum(), leaf)
        assert_near(gradient, wanted / scale)


def test_heads_are_their_inputs_of_w_o_and_add_up_to_the_attention(run: tuple[str, Backend]) -> None:
    _, made = run
    tokens, w_o, bias = inputs(), made.w_o(1), made.b_o(1)
    parts = [Site(1, kind, head) for kind in ("z", "head") for head in range(4)]
    found = made.activations(tokens, None, [*parts, Site(1, "attn")], everywhere(tokens))
    d = made.shape.widths.d_head
    for head in range(4):
        assert_near(found[head, ..., :d] @ w_o[head], found[4 + head])
    total = found[4:8].sum(0)
    assert_near(total if bias is None else total + bias, found[8])
    whole = made.activations(tokens, None, [Site(1, "gathered")], everywhere(tokens))[0]
    assert torch.equal(whole, found[:4, ..., :d].movedim(0, 2).flatten(2))
    assert_near(whole @ w_o.flatten(0, 1) + (0 if bias is None else bias), found[8])


def test_which_there_are(run: tuple[str, Backend]) -> None:
    name, made = run
    known, shape = made.shape.sites, made.shape
    groups = 4 if name in ("gpt2", "pythia") else 2
    inner = 128 if name == "gpt2" else 48
    assert (shape.kv_heads, shape.d_mlp, shape.widths.d_head) == (groups, inner, head_size(name))
    assert [s.short for s in expand("q*.*", known)] == [f"q{layer}.{h}" for layer in range(2) for h in range(4)]
    assert [s.short for s in expand("k0.*,v1.*", known)] == [f"k0.{h}" for h in range(groups)] + [
        f"v1.{h}" for h in range(groups)
    ]
    assert [s.short for s in expand(["attn*", "ln_final", "x1.post", "embed"], known)] == [
        "embed", "attn0", "attn1", "x1.post", "ln_final",
    ]  # fmt: skip
    assert len(expand("n1.*", known)) == inner
    assert [s.short for s in expand("z*", known)] == ["z0", "z1"]
    assert [s.short for s in expand("n*", known)] == ["n0", "n1"]
    assert shape.widths.d_heads == 4 * head_size(name)
    assert not {"q", "gathered", "neurons", "neuron", "attn"} & {site.kind for site in expand("*", known)}
    for wrong, said in (
        ("q1.4", "layer 1 has heads 0–3"),
        (f"k0.{groups}", f"layer 0 has heads 0{'–3' if groups == 4 else ', 1'}"),
        (f"n0.{inner}", f"layer 0 has neurons 0–{inner - 1}"),
        ("n7", "layers 0, 1"),
        ("attn2", "layers 0, 1"),
    ):
        with pytest.raises(UnknownSiteError, match=said):
            find_site(wrong, known)


def test_a_model_of_experts_has_no_neurons() -> None:
    made = BridgeBackend(MODELS["mixtral"].model())
    for name in ("n0", "n0.1", "n0.*"):
        with pytest.raises(UnknownSiteError, match="not two matrices with neurons between them"):
            expand(name, made.shape.sites)
    assert Site(0, "q", 3) in made.shape.sites


@pytest.mark.parametrize("site", ["q0.1", "k0.0", "v0.1", "z0.3", "z0", "attn0", "n0", "n0.17", "ln_final", "embed"])
def test_every_style_of_name(site: str) -> None:
    parsed = Site.parse(site)
    assert parsed.short == site
    assert Site.parse(parsed.hook) == Site.parse(parsed.latex) == Site.parse(f"${parsed.latex}$".strip("$")) == parsed
