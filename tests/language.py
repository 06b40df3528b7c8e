"""A small model with the shape of a real one: a random Llama of 30 layers × 9 heads, its tokens words with their spaces."""

from __future__ import annotations

from pathlib import Path

from inversionview.studies.ioi.corpus import NAMES, OBJECTS, PLACES, TEMPLATES

LAYERS, HEADS = 30, 9
BEGIN, END = "<|im_start|>", "<|im_end|>"


def deep_llama(folder: Path, layers: int = LAYERS) -> Path:
    """Save the model in ``folder``: byte-level BPE that keeps the words of ``ioi`` whole, each with the space before it."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [AddedToken(token, special=True) for token in (BEGIN, END)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=ends, initial_alphabet=alphabet, show_progress=False)
    words = " ".join([*TEMPLATES, NAMES, PLACES, OBJECTS])
    tokenizer.train_from_iterator([f"{words} {words} John"] * 2, trainer)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=72, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=3, max_position_embeddings=128, initializer_range=0.2,
        bos_token_id=tokenizer.token_to_id(BEGIN), eos_token_id=tokenizer.token_to_id(END),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END).save_pretrained(folder)
    return folder
