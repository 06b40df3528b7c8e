"""What a user hands over as a model, and whether it can be read: the object in whatever wraps it, and its tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from inversionview.core.errors import WeightsError
from inversionview.model.tokens import Vocabulary

_WANTED = "give a causal LM of transformers (…ForCausalLM), a PeftModel of one, or a TransformerBridge"


class Taken(NamedTuple):
    """A model and what belongs to it."""

    model: Any
    """What computes logits: a causal LM of transformers, a ``PeftModel`` or a ``TransformerBridge``."""
    vocabulary: Vocabulary
    name: str


def taken(model: Any, tokenizer: Any = None) -> Taken:
    """Return a model as it can be laid open.

    Args:
        model: a causal LM of transformers, a ``PeftModel`` of one, a ``TransformerBridge``, or an nnsight ``LanguageModel``.
        tokenizer: its tokenizer of transformers, or a ``Vocabulary``; that of a bridge or of nnsight is its own. Where none is
            given, the one of the folder or hub name that the model was loaded from, if it has one.

    Raises:
        WeightsError: it is no causal LM, has no weights (the meta device) or no tokenizer, or the tokenizer is another model's.
    """
    inner = _inner(model)
    _check(inner)
    name = name_of(inner)
    rows = _language_model(inner).get_input_embeddings().weight.shape[0]
    found = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None) or _beside(_language_model(inner))
    if found is None:
        raise WeightsError(f"{name} comes without a tokenizer: give it, as in iv.ProbedModel.wrap(model, tokenizer).")
    size = found.size if isinstance(found, Vocabulary) else len(found)
    if size > rows:
        raise WeightsError(
            f"The tokenizer has {size:,} tokens, but {name} embeds {rows:,}: give the model's own tokenizer, or "
            "model.resize_token_embeddings(len(tokenizer)) first."
        )
    return Taken(inner, found if isinstance(found, Vocabulary) else Vocabulary.from_transformers(found), name)


def is_bridge(model: Any) -> bool:
    """Return whether an object is a ``TransformerBridge``; TransformerLens is not imported for that."""
    module = sys.modules.get("transformer_lens.model_bridge")
    return module is not None and isinstance(model, module.TransformerBridge)


def is_adapted(model: Any) -> bool:
    """Return whether an object is a ``PeftModel``."""
    module = sys.modules.get("peft")
    return module is not None and isinstance(model, module.PeftModel)


def name_of(model: Any) -> str:
    """Return what a model is called: as it was loaded, else by its class."""
    own = _language_model(model)
    return str(getattr(own, "name_or_path", "") or type(own).__name__)


def _inner(model: Any) -> Any:
    """Return the module that an object which is none holds, as nnsight's ``LanguageModel`` does."""
    if isinstance(model, nn.Module):
        return model
    held = (vars(model).get(name) for name in ("_model", "_module")) if hasattr(model, "__dict__") else ()
    return next((each for each in held if isinstance(each, nn.Module)), model)


def _language_model(model: Any) -> Any:
    """Return the model of transformers in whatever wraps it."""
    if is_bridge(model):
        return model.original_model
    return model.get_base_model() if is_adapted(model) else model


def _check(model: Any) -> None:
    """Raise ``WeightsError`` at what is no causal LM, or has no weights."""
    if not isinstance(model, nn.Module):
        raise WeightsError(f"{type(model).__name__} is no model: {_WANTED}.")
    own = _language_model(model)
    config, called = getattr(own, "config", None), type(own).__name__
    if config is None or not hasattr(own, "get_input_embeddings"):
        raise WeightsError(f"{called} is a module of PyTorch, no language model: {_WANTED}.")
    if getattr(config, "is_encoder_decoder", False):
        raise WeightsError(f"{called} has an encoder, and only decoders are read: {_WANTED}.")
    if not own.can_generate() or own.get_output_embeddings() is None:
        raise WeightsError(f"{called} does not say which token comes next: {_WANTED}.")
    if any(weight.is_meta for weight in own.parameters()):
        raise WeightsError(
            f"{called} has no weights yet, for it is on the meta device: load them (of nnsight, by dispatch=True)."
        )


def _beside(model: Any) -> Any:
    """Return the tokenizer of the folder or hub name that a model was loaded from; ``None`` where there is none."""
    from inversionview.model.loading import load_tokenizer
    from inversionview.model.naming import is_hub_name

    where = str(getattr(model, "name_or_path", "") or "")
    if not where or not (Path(where).is_dir() or is_hub_name(where)):
        return None
    try:
        return load_tokenizer(where)
    except WeightsError:
        return None
