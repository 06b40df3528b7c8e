"""Tiny tokenizers of the kinds that models have, trained here, and tiny models with random weights that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The cat sat on the mat and the dog sat on the log.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "bathe the other lather, sat-the-mat, x-Mary-the-cat",
    "القطة جلست على الحصيرة", "猫がマットの上に座った", "a naïve café 🙂",
] * 20  # fmt: skip


def byte_level(
    specials: tuple[str, ...] = ("<|endoftext|>",), extra: tuple[str, ...] = (), corpus: list[str] = CORPUS, size: int = 420
) -> Tokenizer:
    """A byte-level BPE, as GPT-2's, Llama 3's and Qwen's; ``extra`` are further tokens, in its own alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = {token: i for i, token in enumerate([*specials, *extra, *model["vocab"]])}
    made = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(specials))
    return made


def legacy_llama(bos: bool = True) -> Tokenizer:
    """As Llama 2's: spaces are ▁, one is put before a text, and characters that it lacks fall into bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace("▁", "always"), pre_tokenizers.Split("-", "isolated")]
    )
    trained.train_from_iterator(CORPUS[:3] * 20, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    bytes_of = [f"<0x{i:02X}>" for i in range(256)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *bytes_of, *model["vocab"]])}
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def metaspace(scheme: str) -> Tokenizer:
    """A unigram model whose pre-tokenizer writes spaces as ▁: ``scheme`` says where it puts one of its own."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace("▁", scheme), decoders.Metaspace("▁", scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=130, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS[:3] * 20, trainer)
    return made


def words() -> Tokenizer:
    """Whole words, without any special token."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", "the", "cat", "sat", "mat"])}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def fast(tokenizer: Tokenizer, **special: str | None) -> PreTrainedTokenizerFast:
    """As transformers wraps it."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def save(folder: Path, tokenizer: Tokenizer, config: dict[str, Any], kind: str = "llama") -> Path:
    """Save a two-layer model with random weights and a tokenizer's files as they would be downloaded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return folder
