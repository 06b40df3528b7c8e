"""How a tokenizer frames a text: what it puts before and after it, and what its files say of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inversionview.model.pieces import described, parts_of

_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that are their tokenizer.json; any other may make another of it."""
_SILENT = frozenset(
    {
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "is_local",
        "local_files_only",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "padding_side",
        "tokenizer_class",
        "truncation_side",
    }
)
"""Settings of tokenizer_config.json that change no ids."""
_NAMES = frozenset(f"{each}_token" for each in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_BESIDE = ("added_tokens.json", "special_tokens_map.json")
_PATCHED = 100_000
"""Tokenizers of more tokens are mended by transformers on loading, some of them."""


def plain_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, str]] | None:
    """Return a folder's tokenizer.json and its named tokens if ``AutoTokenizer``, too, takes it as it is; else ``None``.

    That spares importing transformers, for character tokenizers and studies that come with the package. Whatever is not known
    to leave the ids alone is a reason to ask ``AutoTokenizer``.
    """
    try:
        config = _config(folder)
        strange = set(config) - _SILENT - _NAMES or any((folder / name).exists() for name in _BESIDE)
        if strange or config.get("tokenizer_class") not in _PLAIN:
            return None
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers raises bare Exception; what is wrong is told by AutoTokenizer
        return None
    given = {key: token.get("content") if isinstance(token, dict) else token for key, token in config.items() if key in _NAMES}
    named = {key: token for key, token in given.items() if isinstance(token, str)}
    if any(token is not None and key not in named for key, token in given.items()):
        return None
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    larger = tokenizer.get_vocab_size(with_added_tokens=True) > _PATCHED
    return None if larger or tokenizer.padding or not known.issuperset(named.values()) else (tokenizer, named)


def _config(folder: Path) -> dict[str, Any]:
    """Return a folder's ``tokenizer_config.json``; raise ``ValueError`` or ``OSError`` where there is none."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("tokenizer_config.json is not an object")
    return config


def bos_stated(tokenizer: Any) -> bool | None:
    """Return what the configuration of a Hugging Face tokenizer says of BOS: transformers itself may have dropped it.

    GGUF files name a BOS of every model, and nearly all say that it is not added: believed where it is the padding, too.
    """
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    try:
        folder = Path(name)
        if name and not folder.is_dir():
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(name, "tokenizer_config.json")
            folder = Path(cached).parent if isinstance(cached, str) else folder
        said = _config(folder).get("add_bos_token") if name else None
    except (OSError, ValueError):  # no such file, or the name of no repository
        said = None
    padding = tokenizer.bos_token == tokenizer.pad_token
    said = said if said is not None or not padding else getattr(tokenizer, "init_kwargs", {}).get("add_bos_token")
    return said if isinstance(said, bool) else None


def frame_of(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a tokenizer's own post-processor puts before a text and after it."""
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    for step in parts_of(described(tokenizer.post_processor)):
        if step["type"] in ("RobertaProcessing", "BertProcessing"):
            before, after = (step["cls"][1], *before), (*after, step["sep"][1])
        if step["type"] == "TemplateProcessing":
            special = step["special_tokens"]
            ids = [special[part["SpecialToken"]["id"]]["ids"] if "SpecialToken" in part else None for part in step["single"]]
            text = ids.index(None)
            before = (*(i for some in ids[:text] for i in some or ()), *before)
            after = (*after, *(i for some in ids[text:] for i in some or ()))
    return before, after


def unprefixed(tokenizer: Tokenizer) -> Tokenizer:
    """Return the same tokenizer, but it puts no space before a text."""
    steps = [*parts_of(described(tokenizer.normalizer)), *parts_of(described(tokenizer.pre_tokenizer))]
    if not any(step["type"] == "Prepend" or _prefixes(step) for step in steps):
        return tokenizer
    whole = json.loads(tokenizer.to_str())
    for step in parts_of(whole["pre_tokenizer"]):
        if _prefixes(step):
            step["prepend_scheme" if step["type"] == "Metaspace" else "add_prefix_space"] = (
                "never" if step["type"] == "Metaspace" else False
            )
    kept = [step for step in parts_of(whole["normalizer"]) if step["type"] != "Prepend"]
    whole["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    made = Tokenizer.from_str(json.dumps(whole))
    made.encode_special_tokens = tokenizer.encode_special_tokens
    return made


def _prefixes(step: Any) -> bool:
    """Return whether a pre-tokenizer puts a space before a text."""
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return bool(step["type"] == "ByteLevel" and step["add_prefix_space"])
