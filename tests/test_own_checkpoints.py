"""Checkpoints as people have them: read as transformers and PEFT read them, or refused in a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import inversionview as iv
from inversionview.core.errors import InputError, UnknownSiteError, WeightsError
from inversionview.model.backend import Patch
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.model.tokens import character_tokenizer
from inversionview.studies.counting.corpus import CountingInputs
from inversionview.studies.shipped import FILES
from tests.test_architectures import ARCHITECTURES, CHARACTERS, GPT2_SIZES, SIZES, VOCABULARY, assert_near, inputs, save
from tests.test_cli import run


def plain(folder: Path | str) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def streams(model: Any, tokens: Tensor) -> Any:
    """x0.pre, x1.pre, and so on, of a plain forward pass."""
    return model(tokens, output_hidden_states=True).hidden_states


def every(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.size(1)).expand(len(tokens), -1)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    save(ARCHITECTURES["gpt2"], tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    save(ARCHITECTURES["llama"], tmp_path / "llama")
    return tmp_path / "llama"


# -- adapters ---------------------------------------------------------------------------------------------------------


def adapted(base: Path, targets: list[str], folder: Path, named: str | None = None) -> Path:
    """Save a LoRA adapter of some modules, far from nothing, as PEFT saves it."""
    import peft

    peft_model = peft.get_peft_model(plain(base), peft.LoraConfig(r=3, lora_alpha=12, target_modules=targets))
    torch.manual_seed(3)
    for name, weight in peft_model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    peft_model.peft_config["default"].base_model_name_or_path = named or str(base)
    peft_model.save_pretrained(folder)
    return folder


ADAPTED = [
    ("llama", ["o_proj"]), ("llama", ["q_proj", "v_proj", "down_proj"]), ("gpt2", ["c_attn"]), ("gpt2", ["c_proj"]),
    ("gpt2", ["c_attn", "c_proj", "c_fc"]),
]  # fmt: skip


@pytest.mark.parametrize(("base", "targets"), ADAPTED, ids=lambda value: "+".join(value) if isinstance(value, list) else value)
@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_an_adapter_is_merged(
    request: pytest.FixtureRequest, tmp_path: Path, base: str, targets: list[str], own_tokenizer: bool
) -> None:
    import peft

    source: Path = request.getfixturevalue(base)
    folder, tokens = adapted(source, targets, tmp_path / "adapter"), inputs()
    if own_tokenizer:
        for path in source.glob("tokenizer*"):
            shutil.copy(path, folder)
    merged, given = peft.PeftModel.from_pretrained(plain(source), str(folder)).merge_and_unload().eval(), []
    output = ARCHITECTURES[base]
    module = merged.get_submodule(f"{output.blocks}.1.{output.output}")
    module.register_forward_hook(lambda _, args, out: given.append(out))
    with torch.no_grad():
        wanted, unadapted = merged(tokens).logits, plain(source)(tokens).logits
    assert (wanted - unadapted).abs().max() > 0.1
    model = ProbedModel.from_pretrained(folder)
    assert_near(model.logits(tokens), wanted)
    heads = model.activations(tokens, [Site(1, "head", head) for head in range(4)]).sum(0)
    assert_near(heads if module.bias is None else heads + module.bias.detach(), given[0])
    assert model.encode("ab") == [VOCABULARY - 3, 0, 1, VOCABULARY - 2]


def test_an_adapter_beside_its_base_or_without(llama: Path, tmp_path: Path) -> None:
    """A path that the folder itself holds; a base that is not there; a config that names none; weights cut away."""
    absent = adapted(llama, ["o_proj"], tmp_path / "orphan", named=str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match=r"absent"):
        ProbedModel.from_pretrained(absent)
    folder = adapted(llama, ["o_proj"], tmp_path / "adapter", named="base")
    shutil.copytree(llama, folder / "base")
    assert (ProbedModel.from_pretrained(folder).logits(inputs()) - plain(llama)(inputs()).logits).abs().max() > 0.1
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"does not name the model .*: merge the adapter into it"):
        ProbedModel.from_pretrained(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: w for name, w in weights.items() if "layers.1" not in name}, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks weights .*: copy or download it again"):
        ProbedModel.from_pretrained(folder)
    save_file({name: w[:, :5].contiguous() for name, w in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"The adapter in .* cannot be merged"):
        ProbedModel.from_pretrained(folder)


MORE = 3
"""Tokens that the adapters below were given for chats."""
RESIZED: dict[str, dict[str, Any]] = {
    "saved whole": {"modules_to_save": ["{embedding}", "lm_head"]}, "saved by the way": {},
    "saved input": {"modules_to_save": ["{embedding}"]}, "adapted, too": {"target_modules": ["{target}", "{embedding}"]},
    "single tokens": {"trainable_token_indices": {"{embedding}": [1, VOCABULARY, VOCABULARY + 2]}},
}  # fmt: skip


def resized(base: Path, kind: str, folder: Path) -> Path:
    """Save a LoRA of a model with more tokens than its base has, and the tokenizer that has them."""
    import peft

    names = (
        {"embedding": "wte", "target": "c_attn"} if base.name == "gpt2" else {"embedding": "embed_tokens", "target": "q_proj"}
    )
    options = json.loads(
        json.dumps(RESIZED[kind]).replace("{embedding}", names["embedding"]).replace("{target}", names["target"])
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<{i}>" for i in range(MORE)], special_tokens=True)
    model = plain(base)
    torch.manual_seed(5)
    model.resize_token_embeddings(len(tokenizer))
    options = {"r": 3, "target_modules": [names["target"]], "task_type": "CAUSAL_LM", **options}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            weight.data.normal_(std=0.3)
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", RESIZED)
@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_an_adapter_with_more_tokens_than_its_base(
    request: pytest.FixtureRequest, tmp_path: Path, base: str, kind: str
) -> None:
    import peft

    folder = resized(request.getfixturevalue(base), kind, tmp_path / "adapter")
    tokens = torch.tensor([[VOCABULARY - 3, 0, VOCABULARY, 1, VOCABULARY + 2, 2]])
    wanted = peft.AutoPeftModelForCausalLM.from_pretrained(folder, attn_implementation="eager").merge_and_unload().eval()
    read = ProbedModel.from_pretrained(folder)
    assert read.shape.vocabulary == VOCABULARY + MORE
    assert read.encode("a<0>b<2>c") == [*tokens[0].tolist(), VOCABULARY - 2]
    assert_near(read.logits(tokens), wanted(tokens).logits.detach())
    assert_near(read.activations(tokens, [Site(1, "post")])[0], streams_before_norm(wanted, tokens))
    assert read.fingerprint == ProbedModel.from_pretrained(folder).fingerprint


@torch.no_grad()
def streams_before_norm(model: Any, tokens: Tensor) -> Tensor:
    """The residual stream behind the second block, which Hugging Face's hidden states give normed."""
    given: list[Tensor] = []
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    handle = blocks[1].register_forward_hook(lambda _, args, out: given.append(out[0] if isinstance(out, tuple) else out))
    model(tokens)
    handle.remove()
    return given[0]


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_with_more_tokens_says_so_itself(llama: Path, tmp_path: Path) -> None:
    """Its embedding tells how many, where no tokenizer lies beside it; padded to a round number, too."""
    folder = resized(llama, "saved whole", tmp_path / "adapter")
    for path in folder.glob("*token*"):
        path.unlink()
    assert ProbedModel.from_pretrained(folder).shape.vocabulary == VOCABULARY + MORE
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = weights["base_model.model.lm_head.weight"][:-1].clone()
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"cannot be merged into .* \(.*size mismatch.*\): give the model"):
        ProbedModel.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"])
def test_prompts_that_were_trained_are_no_weights(
    llama: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import peft

    made = {
        "PREFIX_TUNING": peft.PrefixTuningConfig,
        "PROMPT_TUNING": peft.PromptTuningConfig,
        "P_TUNING": peft.PromptEncoderConfig,
    }
    config = made[kind](task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(plain(llama), config)
    model.peft_config["default"].base_model_name_or_path = str(llama)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(WeightsError, match=f"is no LoRA but {kind}: it cannot be merged into weights; give the model"):
        ProbedModel.from_pretrained(tmp_path / "adapter")
    capsys.readouterr()
    code, _, err = run(capsys, "sites", "--model", str(tmp_path / "adapter"))
    assert (code, len(err.splitlines())) == (2, 1)


@pytest.mark.parametrize("kind", ["IA3", "LOHA"])
def test_other_adapters_that_change_weights_are_merged(llama: Path, tmp_path: Path, kind: str) -> None:
    import peft

    configs = {
        "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "LOHA": peft.LoHaConfig(r=2, target_modules=["q_proj"]),
    }
    model = peft.get_peft_model(plain(llama), configs[kind])
    torch.manual_seed(4)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.normal_(std=0.5)
    model.peft_config["default"].base_model_name_or_path = str(llama)
    model.save_pretrained(tmp_path / "adapter")
    wanted = peft.PeftModel.from_pretrained(plain(llama), str(tmp_path / "adapter"))(inputs()).logits.detach()
    assert (wanted - plain(llama)(inputs()).logits).abs().max() > 1e-3
    assert_near(ProbedModel.from_pretrained(tmp_path / "adapter").logits(inputs()), wanted)


def test_adapters_without_weights_or_of_adapters(llama: Path, tmp_path: Path) -> None:
    first = adapted(llama, ["o_proj"], tmp_path / "first")
    second = adapted(llama, ["q_proj"], tmp_path / "second", named=str(first))
    with pytest.raises(WeightsError, match=r"second adapts .*first, which is an adapter itself: merge that into its model"):
        ProbedModel.from_pretrained(second)
    path = first / "adapter_config.json"
    for kind in ("", None, "NEWEST"):
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "peft_type": kind}), encoding="utf-8")
        with pytest.raises(WeightsError, match=r"is no LoRA but .*: it cannot be merged"):
            ProbedModel.from_pretrained(first)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "peft_type": "LORA"}), encoding="utf-8")
    (first / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no weights \(adapter_model\.safetensors or .*\): copy or download it again"):
        ProbedModel.from_pretrained(first)


# -- positions that depend on the length of the whole text -------------------------------------------------------------

SHORT = 16


def phi3(folder: Path) -> Any:
    """A Phi-3 whose rotations are others in texts of more than 16 tokens."""
    rope = {"rope_type": "longrope", "type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 8.0]}
    options = {**SIZES, "original_max_position_embeddings": SHORT, "rope_scaling": rope}
    config = transformers.Phi3Config(**options)
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight if weight.ndim == 1 else 0))
    model.save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return plain(folder)


def test_nothing_is_cut_where_positions_depend_on_the_length(tmp_path: Path) -> None:
    reference, letters = phi3(tmp_path), "thecatsatonthematandthedogsat"
    model = ProbedModel.from_pretrained(tmp_path)
    assert model.shape.steady == SHORT
    long, short = (torch.tensor([model.encode(letters[:n])]) for n in (28, 10))
    whole = streams(reference, long)[1]
    cut = streams(reference, long[:, :4])[1]
    assert (whole[:, 3] - cut[:, 3]).abs().max() > 1e-2, "the beginning alone is the same: the comparison would mean nothing"
    assert_near(model.activations(long, [Site(0, "post")])[0], whole)
    assert_near(model.logits(long), reference(long).logits.detach())
    assert_near(model.attention(long, 1), reference(long, output_attentions=True).attentions[1].detach())
    both = torch.full((2, long.size(1)), model.vocabulary.pad)
    both[0], both[1, : short.size(1)] = long[0], short[0]
    found = model.harvest(both.numpy(), [Site(0, "post")], np.array([[3], [3]]))[0, :, 0]
    assert_near(found, torch.stack([whole[0, 3], streams(reference, short)[1][0, 3]]))
    for side in (slice(0, short.size(1)), slice(long.size(1) - short.size(1), None), slice(9, 9 + short.size(1))):
        both[1] = model.vocabulary.pad
        both[1, side] = short[0]
        for batch in (both, both[1:]):
            found = model.activations(batch, [Site(0, "post")])[0]
            if len(batch) == 2:
                assert_near(found[0], whole[0])
            assert_near(found[-1, side], streams(reference, short)[1][0])
            assert_near(model.logits(batch)[-1, side], reference(short).logits[0].detach())
    study = iv.load(model=str(tmp_path))
    assert_near(study.query(letters[:28], at=3, site="x0.post").z, whole[0, 3])


def test_a_walk_does_not_go_beyond_what_it_can_go_on_from(tmp_path: Path) -> None:
    reference, letters = phi3(tmp_path), "thecatsatonthematandthedogsat"
    study = iv.load(model=str(tmp_path))
    with pytest.raises(InputError, match=f"Beyond {SHORT} tokens the positions of"):
        iv.walk(study, study.query(letters, at=3, site="x1.post"), steps=2)
    query = study.query(letters[:12], at="END", site="x0.post")
    preimage = iv.walk(study, query, steps=40, seed=0, epsilon=0.5, distance="cosine")
    assert preimage.samples
    for sample in preimage.samples:
        assert len(sample.ids) <= SHORT
        z = streams(reference, torch.tensor([list(sample.ids)]))[1][0]
        assert sample.position == len(sample.ids) - 2  # texts end where they are read
        there = float(torch.cosine_similarity(z[sample.position], query.z, dim=0))
        assert 1 - there == pytest.approx(sample.distance, abs=1e-4)


# -- tokenizers that are not there, or too large -----------------------------------------------------------------------


def byte_gpt2(folder: Path, rows: int | None = None) -> Any:
    """A GPT-2 with a byte-level tokenizer that holds <|endoftext|>, as the stock one does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*alphabet, "<|endoftext|>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    size = tokenizer.get_vocab_size()
    ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**GPT2_SIZES, **ends, "vocab_size": rows or size})).save_pretrained(
        folder
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("config", ['{"model_max_length": 1024}', None, "{}"])
def test_a_stock_gpt2_folder(tmp_path: Path, config: str | None) -> None:
    """With the tokenizer_config.json that its repository has, and without one: what AutoTokenizer says."""
    tokenizer = byte_gpt2(tmp_path)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.bos_token == "<|endoftext|>"
    model = ProbedModel.from_pretrained(tmp_path)
    assert (model.vocabulary.bos, model.vocabulary.eos) == (auto.bos_token_id, auto.eos_token_id)
    ids = model.encode("The cat")
    assert ids == [auto.bos_token_id, *tokenizer.encode("The cat").ids, auto.eos_token_id]
    assert_near(model.logits(torch.tensor([ids])), plain(tmp_path)(torch.tensor([ids])).logits.detach())


def test_tokens_beyond_the_embedding(tmp_path: Path) -> None:
    tokenizer = byte_gpt2(tmp_path, rows=200)
    model = ProbedModel.from_pretrained(tmp_path)
    beyond = next(c for c in "abcdefghijklmnopqrstuvwxyz~" if tokenizer.token_to_id(c) >= 60)
    assert max(tokenizer.encode(beyond).ids) < 200  # this one is embedded; the ends of a text are not
    with pytest.raises(
        InputError, match=r"has the id 256, but the model embeds 200 tokens: .*give the model its own tokenizer"
    ):
        model.encode(beyond)
    with pytest.raises(InputError, match="embeds 200 tokens"):
        iv.load(model=str(tmp_path)).query("a", at=1, site="x0.post")


@pytest.mark.parametrize("backend", ["gpt2", "bridge"])
def test_a_checkpoint_of_a_study_without_a_tokenizer(counting: iv.Study, tmp_path: Path, backend: str) -> None:
    folder = Path(
        shutil.copytree(
            FILES / "counting" / "model", tmp_path / "mine", ignore=shutil.ignore_patterns("*token*", "vocab*", "*special*")
        )
    )
    assert not list(folder.glob("*token*"))
    if backend == "bridge":
        named = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        config = transformers.LlamaConfig(**{**SIZES, **named, "vocab_size": counting.model.shape.vocabulary})
        shutil.rmtree(folder)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    text = "vvzccvczvvvzvcvc|v:8"
    study = iv.load("counting", model=str(folder))
    assert study.model.encode(text) == counting.model.encode(text)
    assert isinstance(study.inputs, CountingInputs)
    tokens = torch.tensor([study.model.encode(text)])
    assert_near(study.model.logits(tokens), plain(folder)(tokens).logits.detach())
    with pytest.raises(WeightsError, match="tokenizer"):
        iv.load(model=str(folder))


def test_a_checkpoint_of_another_size_is_no_study_s(tmp_path: Path) -> None:
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**GPT2_SIZES, "vocab_size": 12})).save_pretrained(tmp_path)
    with pytest.raises(iv.errors.InversionViewError) as error:
        iv.load("counting", model=str(tmp_path)).query("vvzccvczvvvzvcvc|v:8", at=":", site="x0.post")
    assert "12" in str(error.value)


# -- weights under other names, in other precisions --------------------------------------------------------------------

KEPT: dict[str, Callable[[str], str | None]] = {
    "head alone": lambda name: None if name == "transformer.wte.weight" else name,
    "embedding alone": lambda name: None if name == "lm_head.weight" else name,
    "both": lambda name: name,
    "as on the hub": lambda name: None if name == "lm_head.weight" else name.removeprefix("transformer."),
    "head alone, no prefix": lambda name: None if name == "transformer.wte.weight" else name.removeprefix("transformer."),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("pickled", [False, True])
def test_tied_weights_under_either_name(gpt2: Path, kept: str, pickled: bool) -> None:
    """A tied matrix is saved once, by ``save_model`` of safetensors under whichever name comes first."""
    model, tokens = plain(gpt2), inputs()
    state = {KEPT[kept](name): weight.clone() for name, weight in model.state_dict().items()}
    state.pop(None, None)
    (gpt2 / "model.safetensors").unlink()
    if pickled:
        torch.save(state, gpt2 / "pytorch_model.bin")
    else:
        save_file(state, gpt2 / "model.safetensors", metadata={"format": "pt"})
    found = ProbedModel.from_pretrained(gpt2)
    assert_near(found.logits(tokens), model(tokens).logits.detach())
    assert_near(found.activations(tokens, [Site(0, "pre")])[0], streams(model, tokens)[0])


def test_a_head_of_its_own_is_not_taken_for_the_embedding(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text(encoding="utf-8"))
    (gpt2 / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    state = {name: weight.clone() for name, weight in plain(gpt2).state_dict().items()}
    state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    save_file(state, gpt2 / "model.safetensors", metadata={"format": "pt"})
    assert_near(ProbedModel.from_pretrained(gpt2).logits(inputs()), plain(gpt2)(inputs()).logits.detach())
    del state["transformer.wte.weight"]
    save_file(state, gpt2 / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 'wte\.weight'"):
        ProbedModel.from_pretrained(gpt2)


def test_tied_llama_under_the_head_s_name(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    (llama / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8")
    model = plain(llama)
    model.tie_weights()
    state = {name: weight.clone() for name, weight in model.state_dict().items() if name != "model.embed_tokens.weight"}
    wanted = model(inputs()).logits.detach()
    save_file(state, llama / "model.safetensors", metadata={"format": "pt"})
    assert_near(ProbedModel.from_pretrained(llama).logits(inputs()), wanted)


@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_what_half_precision_does_not_reach_is_told(request: pytest.FixtureRequest, base: str) -> None:
    """Weights that are finite, activations that are not: by whichever way they are read."""
    folder: Path = request.getfixturevalue(base)
    weights = load_file(folder / "model.safetensors")
    name = {"gpt2": "transformer.h.1.mlp.c_proj.weight", "llama": "model.layers.1.mlp.down_proj.weight"}[base]
    assert name in weights
    weights[name] *= 6e4 / weights[name].abs().max()
    for other in weights:
        if "mlp.c_fc.weight" in other or "mlp.up_proj.weight" in other:
            weights[other] *= 100
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    wide = ProbedModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert bool(torch.isfinite(wide.activations(inputs(), [Site(1, "post")])).all())
    with pytest.raises(WeightsError, match=r"not finite in float16: load it in fp32 or bf16 \(--dtype\)"):
        ProbedModel.from_pretrained(folder, dtype=torch.float16)


def test_a_run_keeps_the_precision_of_its_weights(own_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"ann has {i} figs" for i in range(1, 40)), encoding="utf-8")
    options = ("--texts", str(texts), "--steps", "1", "--batch", "8", "--sites", "x0.post", "--out", str(tmp_path / "run"))
    assert run(capsys, "train", "--model", str(own_model), *options, "--dtype", "bf16")[0] == 0
    assert iv.load(tmp_path / "run").model.backend.shape == iv.load(model=str(own_model)).model.backend.shape
    assert next(iter(iv.load(tmp_path / "run").model.backend.weights()))[1].dtype == torch.bfloat16
    code, out, err = run(capsys, "read", str(tmp_path / "run"), "ann has 3 figs", "--source", "decoder", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["samples"]


# -- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["model-00001-of-00003.gguf", "model-00003-of-00003.gguf"])
def test_a_split_gguf_is_to_be_merged(tmp_path: Path, asked: str) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"model-0000{number}-of-00003.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(WeightsError, match=r"is one of 3 parts: merge them with .*llama-gguf-split --merge"):
        ProbedModel.from_pretrained(tmp_path / asked)


def test_a_folder_of_ggufs_is_asked_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.Q4_1.gguf", "a.Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(WeightsError, match=r"holds GGUF files: name one, such as .*a\.Q8_0\.gguf\.$"):
        ProbedModel.from_pretrained(tmp_path)
    code, _, err = run(capsys, "sites", "--model", str(tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "name one, such as" in err


def test_an_assertion_of_the_bridge_is_a_sentence(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("inversionview.model.bridge.opened", fails)
    with pytest.raises(WeightsError, match=r"of LlamaForCausalLM \(it is not as .* assumes\): choose a causal LM"):
        ProbedModel.from_pretrained(llama)


# -- what a model does not have ----------------------------------------------------------------------------------------

OPT_350M = {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}


@pytest.fixture(scope="module")
def opt_350m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OPT as of 350m: it norms the stream itself after attention and after the MLP."""
    folder = tmp_path_factory.mktemp("opt")
    torch.manual_seed(0)
    model = transformers.OPTForCausalLM(transformers.OPTConfig(**OPT_350M))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight if weight.ndim == 1 else 0))
    model.save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return folder


def test_what_fails_is_not_offered_and_said(opt_350m: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, tokens = iv.load(model=str(opt_350m)), inputs()
    assert "mid" not in {site.kind for site in study.model.sites}
    assert {"pre", "post", "head"} <= {site.kind for site in study.model.sites}
    assert_near(study.model.logits(tokens), plain(opt_350m)(tokens).logits.detach())
    for site in study.model.sites:  # what is offered is what it is said to be
        own = study.model.activations(tokens, [site])[0]
        assert_near(study.model.logits(tokens, {site: Patch(every(tokens), own)}), study.model.logits(tokens))
    assert_near(study.model.activations(tokens, [Site(0, "post")])[0], streams(plain(opt_350m), tokens)[1])
    for name in ("x0.mid", "x1.mid", "blocks.0.hook_resid_mid"):
        with pytest.raises(UnknownSiteError, match=r"x[01]\.mid is not offered: "):
            study.query("the cat", at=2, site=name)
    code, out, err = run(capsys, "sites", "--model", str(opt_350m))
    assert code == 0
    assert "x*.mid is not offered: " in (out + err).replace("\n", " ")
    code, out, _ = run(capsys, "sites", "--model", str(opt_350m), "--json")
    assert set(json.loads(out)["withheld"]) == {"mid", "ln_final"}  # it ends without a norm
    code, _, err = run(capsys, "read", "--model", str(opt_350m), "the cat", "--at", "2", "--site", "x0.mid")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "x0.mid is not offered: " in err
