"""Models that are in memory already: read over the user's own weights, and left as they were.

What is read is held against hooks of plain transformers on the user's object. bitsandbytes and nnsight are not among the
dependencies: packed layers and nnsight's ``LanguageModel`` are stood for by objects of their shape.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

import inversionview as iv
from inversionview.model.tokens import character_tokenizer
from tests.plain import Plain

CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz ", "B", "E", "P"]
TOKENIZER = character_tokenizer(CHARACTERS)
SIZES = {"vocab_size": len(CHARACTERS), "initializer_range": 0.2}
IDS = [CHARACTERS.index(each) for each in ("B", *"the cat sat")]
SITES = ["x0.pre", "x0.mid", "x0.post", "a0.1", "m0", "a1.3", "m1", "x1.post"]


def llama(**more: Any) -> Any:
    config = transformers.LlamaConfig(
        **SIZES, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, **more,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=32))


MODELS: dict[str, Callable[[], Any]] = {"llama": llama, "gpt2": gpt2}
ADAPTED = {"llama": ["q_proj", "v_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


def adapted(kind: str) -> Any:
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=ADAPTED[kind], init_lora_weights=False, fan_in_fan_out=kind == "gpt2"
    )
    return peft.get_peft_model(MODELS[kind](), config)


def read(model: iv.ProbedModel, sites: list[str] = SITES) -> list[Tensor]:
    """Return the activations of ``IDS`` at some sites, each ``[pos, width]``."""
    chosen = [iv.Site.parse(site) for site in sites]
    return [model.own(z[0], site) for z, site in zip(model.activations(torch.tensor([IDS]), chosen), chosen, strict=True)]


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).norm()) <= 1e-4 * float(wanted.norm())


def state(model: Any) -> list[Any]:
    """Return all that a user can see of a model but its logits."""
    named = [(name, weight.data_ptr(), weight.requires_grad) for name, weight in model.named_parameters()]
    modes = [(name, type(module).__name__, module.training) for name, module in model.named_modules()]
    return [named, list(model.state_dict()), modes, model.config.to_dict(), model.config._attn_implementation]


def test_it_is_what_hooks_on_the_users_object_see(kind: str) -> None:
    model = MODELS[kind]()
    _, seen = Plain(model).run(IDS)
    for site, found in zip(SITES, read(iv.ProbedModel.wrap(model, TOKENIZER)), strict=True):
        assert_near(found, seen[site])


def test_the_object_is_left_as_it_was_and_its_weights_are_shared(kind: str) -> None:
    model = MODELS[kind]().train()
    before, tokens = state(model), torch.tensor([IDS])
    said = copy.deepcopy(model).eval()(tokens).logits
    wrapped = iv.ProbedModel.wrap(model, TOKENIZER)
    read(wrapped)
    wrapped.attention(tokens, 0)  # which of a Llama only the bridge gives
    assert state(model) == before
    assert torch.equal(model.eval()(tokens).logits, said)
    own = {name.removeprefix("transformer."): weight for name, weight in model.named_parameters()}
    read_of = {name: weight.data_ptr() for name, weight in wrapped.backend.weights()}
    assert read_of == {name: weight.data_ptr() for name, weight in own.items()}
    model(tokens).logits.sum().backward()  # and it can be trained on
    assert all(weight.grad is not None for weight in own.values())


def test_it_is_the_model_that_would_be_loaded(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded, wrapped = iv.ProbedModel.from_pretrained(tmp_path), iv.ProbedModel.wrap(model, TOKENIZER)
    assert wrapped.fingerprint == loaded.fingerprint
    assert wrapped.vocabulary.tokens == loaded.vocabulary.tokens
    assert wrapped.name == type(model).__name__
    beside = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert iv.ProbedModel.wrap(beside).vocabulary.tokens == loaded.vocabulary.tokens  # it knows where it came from


def test_an_adapter_is_read_through(kind: str) -> None:
    model = adapted(kind).eval()
    before = [(name, weight.data_ptr(), weight.clone()) for name, weight in model.named_parameters()]
    unmerged = iv.ProbedModel.wrap(model, TOKENIZER)
    within = iv.ProbedModel.wrap(model.get_base_model(), TOKENIZER)  # as after add_adapter of transformers
    assert all(
        weight.data_ptr() == at and torch.equal(weight, was)
        for (_, weight), (_, at, was) in zip(model.named_parameters(), before, strict=True)
    )
    shared = {weight.data_ptr() for _, weight in unmerged.backend.weights()}
    embedded = model.get_input_embeddings().weight.data_ptr()
    assert embedded in shared
    if kind == "llama":  # GPT-2's queries, keys and values are one matrix, which a bridge takes apart
        assert {at for _, at, _ in before} <= shared
    found = [(read(each), [each.backend.w_o(layer) for layer in range(2)]) for each in (unmerged, within)]
    merged = model.merge_and_unload()  # in place: what was wrapped has these weights, too
    with pytest.raises(iv.errors.MismatchError, match="changed since it was wrapped"):
        unmerged.check_unchanged()
    _, seen = Plain(merged).run(IDS)
    plain = iv.ProbedModel.wrap(merged, TOKENIZER)
    for values, outputs in found:
        for site, z, theirs in zip(SITES, values, read(plain), strict=True):
            assert_near(z, seen[site])
            assert_near(z, theirs)
        for layer, w_o in enumerate(outputs):
            assert_near(w_o, plain.backend.w_o(layer))


def test_another_adapter_is_another_model() -> None:
    torch.manual_seed(0)
    model = adapted("llama")
    wrapped = iv.ProbedModel.wrap(model, TOKENIZER)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] *= 2
    assert iv.ProbedModel.wrap(model, TOKENIZER).fingerprint != wrapped.fingerprint
    with model.disable_adapter():
        with pytest.raises(iv.errors.MismatchError, match="changed since it was wrapped"):
            wrapped.check_unchanged()
        _, seen = Plain(model.get_base_model()).run(IDS)
        assert_near(read(iv.ProbedModel.wrap(model, TOKENIZER))[-1], seen["x1.post"])


def bridged(kind: str) -> Any:
    model = MODELS[kind]()
    model.set_attn_implementation("eager")
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config).eval()
    bridge.tokenizer = TOKENIZER
    return bridge


HOOKED = {
    "x0.pre": "blocks.0.hook_resid_pre",
    "m0": "blocks.0.hook_mlp_out",
    "x1.post": "blocks.1.hook_resid_post",
    "k1.1": "blocks.1.attn.hook_k",
}


def test_a_bridge_is_read_as_it_caches(kind: str) -> None:
    bridge = bridged(kind)
    said, cache = bridge.run_with_cache(torch.tensor([IDS]))
    before = state(bridge.original_model)
    wrapped = iv.ProbedModel.wrap(bridge)
    for (site, name), found in zip(HOOKED.items(), read(wrapped, list(HOOKED)), strict=True):
        theirs = cache[name][0]
        assert_near(found, theirs[:, 1] if site == "k1.1" else theirs)
    assert_near(wrapped.logits(torch.tensor([IDS])), said.detach())
    assert state(bridge.original_model) == before
    assert torch.equal(bridge(torch.tensor([IDS])), said)


def test_hooks_of_the_user_take_part_and_stay(kind: str) -> None:
    """A steering hook on a bridge, and one on a module of transformers: what is read is what the steered model computes."""
    bridge, shift = bridged(kind), torch.randn(32)
    bridge.blocks[0].hook_resid_post.add_hook(lambda x, hook: x + shift)
    _, cache = bridge.run_with_cache(torch.tensor([IDS]))
    wrapped = iv.ProbedModel.wrap(bridge)
    for _ in range(2):
        assert_near(read(wrapped, ["x1.post"])[0], cache["blocks.1.hook_resid_post"][0])
    assert len(bridge.blocks[0].hook_resid_post.fwd_hooks) == 1

    model = MODELS[kind]()
    block = (model.transformer.h if kind == "gpt2" else model.model.layers)[0]
    mlp = block.mlp
    mlp.register_forward_hook(lambda module, args, out: out + shift)
    _, seen = Plain(model).run(IDS)
    assert_near(read(iv.ProbedModel.wrap(model, TOKENIZER), ["x1.post"])[0], seen["x1.post"])


class LanguageModel:
    """Stands for nnsight's class, which is not installed: no module itself, it holds one and a tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self.tokenizer = model, tokenizer


def test_an_object_shaped_like_nnsights(kind: str) -> None:
    model = MODELS[kind]()
    within = iv.ProbedModel.wrap(LanguageModel(model, TOKENIZER))
    assert within.fingerprint == iv.ProbedModel.wrap(model, TOKENIZER).fingerprint
    assert_near(read(within)[-1], Plain(model).run(IDS)[1]["x1.post"])


class Packed(nn.Linear):
    """Stands for a quantised layer, as bitsandbytes has them: its weight is bytes, unpacked by a scale in each pass."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__(own.in_features, own.out_features, bias=own.bias is not None)
        self.register_buffer("scale", own.weight.detach().abs().amax() / 127)
        self.weight = nn.Parameter((own.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = own.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale, self.bias)


def test_packed_weights_are_read_as_they_are_run() -> None:
    torch.manual_seed(0)
    model = llama(attention_bias=True)
    nn.init.normal_(model.model.layers[1].self_attn.o_proj.bias)
    for module in list(model.model.layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Packed(child))
    wrapped = iv.ProbedModel.wrap(model, TOKENIZER)
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Packed):
                own = nn.Linear(child.in_features, child.out_features)
                own.weight = nn.Parameter(child.weight.float() * child.scale)
                own.bias = child.bias
                setattr(module, name, own)
    _, seen = Plain(plain).run(IDS)
    for site, found in zip(SITES, read(wrapped), strict=True):
        assert_near(found, seen[site])
    bias = wrapped.backend.b_o(1)
    assert bias is not None
    assert_near(bias, plain.model.layers[1].self_attn.o_proj.bias.detach())
    first = wrapped.fingerprint
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.scale.mul_(2)  # of the same bytes another weight
    assert iv.ProbedModel.wrap(model, TOKENIZER).fingerprint != first


def test_verbs_take_a_model_and_a_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = llama()
    study = iv.load(model=model, tokenizer=TOKENIZER)
    query = study.query("the cat sat", at="c", site="x0.post")
    wanted = iv.walk(study, query, epsilon=0.5, steps=3, seed=2)
    told: dict[str, Any] = {"at": "c", "site": "x0.post", "epsilon": 0.5, "steps": 3, "seed": 2}
    found = [
        iv.read(model, "the cat sat", tokenizer=TOKENIZER, **told),
        iv.read(model, "the cat sat", **told),  # its tokenizer is known by now
        iv.read(iv.ProbedModel.wrap(model, TOKENIZER), "the cat sat", **told),
        iv.read(study, "the cat sat", **told),
        iv.walk(study, query=query, epsilon=0.5, steps=3, seed=2),
    ]
    for each in found:
        assert each.query.model == "LlamaForCausalLM"
        assert [(s.text, s.distance) for s in each] == [(s.text, s.distance) for s in wanted]

    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat on a mat\nthe dog sat\na cat ran to the mat\n" * 3)
    hits = iv.search(model, "the cat sat", at="c", site="x0.post", texts=texts, k=4)
    again = iv.load(model=iv.ProbedModel.wrap(model, TOKENIZER), texts=texts)
    same = iv.search(again, again.query("the cat sat", at="c", site="x0.post"), k=4)
    assert hits.source == "corpus"
    assert len(hits.samples) == len(same.samples) > 0
    assert [s.distance for s in hits] == [s.distance for s in same]
    assert again.spec.model == ""  # it lies nowhere: nothing may name a path


def test_a_model_that_is_trained_on_is_not_read_from_what_was_kept() -> None:
    torch.manual_seed(0)
    model = llama()
    study = iv.load(model=model, tokenizer=TOKENIZER)
    query = study.query("the cat sat", at="c", site="x1.post")
    first = iv.read(model, "the cat sat", at="c", site="x1.post", tokenizer=TOKENIZER, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([IDS])).logits.square().mean().backward()
    optimizer.step()
    for stale in (
        lambda: study.query("the cat sat", at="c", site="x1.post"),
        lambda: iv.read(study, query),
        lambda: iv.search(study, query),
    ):
        with pytest.raises(iv.errors.MismatchError, match="changed since it was wrapped: wrap it again"):
            stale()
    after = iv.read(model, "the cat sat", at="c", site="x1.post", tokenizer=TOKENIZER, steps=1)  # laid open anew
    assert_near(after.query.z, Plain(model).run(IDS)[1]["x1.post"][5])
    assert not torch.allclose(after.query.z, first.query.z)
    model.resize_token_embeddings(len(CHARACTERS) + 2)
    again = iv.read(model, "the cat sat", at="c", site="x1.post", tokenizer=TOKENIZER, steps=1)
    assert_near(again.query.z, after.query.z)


def test_a_model_is_laid_open_once_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    wrap = iv.ProbedModel.wrap
    monkeypatch.setattr(iv.ProbedModel, "wrap", lambda *given: opened.append(1) or wrap(*given))
    model = llama()
    for _ in range(2):
        iv.read(model, "the cat sat", site="x0.post", tokenizer=TOKENIZER, steps=1)
    assert len(opened) == 1
    iv.read(model, "the cat sat", site="x0.post", tokenizer=character_tokenizer(CHARACTERS), steps=1)
    assert len(opened) == 2
    weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    del model
    gc.collect()
    assert weight() is None


def test_studies_for_any_language_model_take_one_in_memory() -> None:
    torch.manual_seed(0)
    counting = iv.load("counting")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(counting.model_path)
    mine = iv.load("counting", model=loaded)
    assert mine.model.fingerprint == counting.model.fingerprint
    query = mine.query("vvzccvczvvvzvcvc|v:8", at=":", site="a1.0")
    assert_near(query.z, counting.query("vvzccvczvvvzvcvc|v:8", at=":", site="a1.0").z)


def refused() -> dict[str, tuple[Callable[[], Any], str]]:
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}

    def meta() -> Any:
        with torch.device("meta"):
            return llama()

    return {
        "no tokenizer": (lambda: iv.ProbedModel.wrap(llama()), "without a tokenizer: give it"),
        "another vocabulary": (
            lambda: iv.ProbedModel.wrap(llama(), character_tokenizer([*CHARACTERS, "0", "1"])),
            "has 32 tokens, but LlamaForCausalLM embeds 30",
        ),
        "an encoder": (
            lambda: iv.ProbedModel.wrap(transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **bert)), TOKENIZER),
            "does not say which token comes next",
        ),
        "an encoder and decoder": (
            lambda: iv.ProbedModel.wrap(
                transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=30, **t5)), TOKENIZER
            ),
            "has an encoder",
        ),
        "no head": (lambda: iv.ProbedModel.wrap(llama().model, TOKENIZER), "does not say which token comes next"),
        "no weights": (lambda: iv.ProbedModel.wrap(meta(), TOKENIZER), "meta device"),
        "a module": (lambda: iv.ProbedModel.wrap(nn.Linear(2, 2), TOKENIZER), "no language model"),
        "a number": (lambda: iv.ProbedModel.wrap(3, TOKENIZER), "int is no model"),
        "a name": (lambda: iv.read("gpt2", "the cat"), "load it, as in iv.load"),
        "a study with texts": (lambda: iv.search(iv.load("counting"), "v", texts="x.txt"), "is a study already"),
        "a tokenizer of a file": (lambda: iv.load(model="/no/where", tokenizer=TOKENIZER), "lies beside it"),
        "prompts of PEFT": (
            lambda: iv.ProbedModel.wrap(
                peft.get_peft_model(llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)), TOKENIZER
            ),
            "not what it computes",
        ),
    }


@pytest.mark.parametrize("case", refused())
def test_bad_input(case: str) -> None:
    attempt, said = refused()[case]
    with pytest.raises(iv.InversionViewError, match=said) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_a_run_cannot_keep_what_lies_nowhere(tmp_path: Path) -> None:
    from inversionview.studies.load import keep

    study = iv.load(model=llama(), tokenizer=TOKENIZER)
    with pytest.raises(iv.errors.WeightsError, match="save it"):
        keep(study, tmp_path)
