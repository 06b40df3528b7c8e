"""A decoder around a pretrained causal LM (Huang et al. 2024, appendix on factual recall, where it is GPT-2 Medium).

The activation pathway is that of every decoder. From its result every layer of the LM gets one key and one value, by a linear
map of its own: a cache of one position that all tokens see. The slot is position 0, tokens go on from 1, as they would after
any first token. The LM is frozen, gets adapters of low rank (LoRA), or is trained whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from inversionview.core.errors import MismatchError, SettingError, WeightsError
from inversionview.core.ranges import whole
from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder, initialise
from inversionview.decoder.loading import Shapes
from inversionview.decoder.pathway import Pathway
from inversionview.model.loading import load_causal_lm
from inversionview.model.tokens import Vocabulary

_ROWS = 256
"""Inputs written together: the keys and values of all layers are kept for each."""
_BUFFERS = 2**30
"""Bytes that a causal LM keeps beside its weights, at most."""
_TRAINED = 16
"""Inputs trained on together on a CPU: what every layer needs for its gradient is kept for each."""


class PretrainedDecoder(Decoder):
    """See the module's text; what it is asked and answers is what ``Decoder`` says."""

    def __init__(self, config: DecoderConfig, lm: Any) -> None:
        """Build the pathway to a Hugging Face causal LM, and adapters into it, in place.

        Raises:
            SettingError: the inputs are longer than the LM reads, or its architecture does not suit.
        """
        lm.eval()
        text = lm.config.get_text_config()
        most = getattr(text, "max_position_embeddings", None)
        if most is not None and config.max_length + 1 > most:
            raise SettingError(
                f"Inputs have up to {config.max_length} tokens and the activation takes one more, but {config.base} reads "
                f"{most}: choose another --decoder-from, or a smaller --max-length."
            )
        super().__init__(config)
        self._shape = _cache_shape(lm, config.base)
        layers, heads, d_head = self._shape
        self.slots = nn.ModuleList(nn.Linear(config.pathway, 2 * heads * d_head) for _ in range(layers))
        for module in (self.pathway, self.slots):
            module.apply(initialise)
        for parameter in lm.parameters():
            parameter.requires_grad_(config.tuning == "full")
        self.lm = _with_adapters(lm, config.lora) if config.tuning == "lora" else lm

    @classmethod
    def on(cls, config: DecoderConfig, vocabulary: Vocabulary | None = None, dtype: torch.dtype = torch.float32) -> Decoder:
        """Return a decoder on the LM that ``config.base`` names.

        Args:
            config: the decoder's.
            vocabulary: the probed model's, which the LM must share.
            dtype: of the LM's weights.

        Raises:
            WeightsError: the LM cannot be loaded.
            MismatchError: it has another vocabulary.
        """
        if config.architecture and vocabulary is None:  # its weights come with the decoder's
            return cls(config, AutoModelForCausalLM.from_config(_architecture(config)).to(dtype))
        try:
            lm, tokenizer = load_causal_lm(config.base, dtype=dtype)
        except WeightsError as error:
            raise WeightsError(
                f"The decoder's causal LM is missing: {error} If it lies elsewhere now, write that place as base into the "
                'decoder\'s config.json and delete its line "checksum".'
            ) from error
        if vocabulary is not None:
            _check_tokenizer(config.base, Vocabulary.from_transformers(tokenizer), vocabulary)
        if config.tuning == "full":
            config = replace(config, architecture=lm.config.to_dict())
        return cls(config, lm)

    @property
    def device(self) -> torch.device:
        """Where the decoder runs."""
        return self.slots[0].weight.device  # type: ignore[return-value]

    @property
    def rows_at_once(self) -> int:
        """How many inputs are written together."""
        return _ROWS

    @property
    def rows_trained(self) -> int:
        """How many inputs go through the LM together in training: on a CPU, which gains nothing from more, few."""
        return _TRAINED if self.device.type == "cpu" else super().rows_trained

    def train(self, mode: bool = True) -> PretrainedDecoder:
        """Set the mode of all but the LM, whose dropout stays off."""
        super().train(mode)
        self.lm.eval()
        return self

    def memory(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> DynamicCache:
        """Return the cache of one position that holds every layer's key and value of z."""
        u, cache = self.pathway(z, site), DynamicCache()
        kind = self.lm.get_input_embeddings().weight.dtype
        _, heads, d_head = self._shape
        for number, slot in enumerate(self.slots):
            key, value = slot(u).to(kind).view(len(z), 2, heads, 1, d_head).unbind(1)
            cache.update(key, value, number)
        return cache

    def run(self, tokens: Int[Tensor, "batch pos"], cache: DynamicCache) -> Float[Tensor, "batch pos width"]:
        """Run own tokens after what the cache holds, and add them to it."""
        out: Tensor = self.lm.base_model(
            input_ids=self.own.back(tokens), past_key_values=cache, use_cache=True
        ).last_hidden_state
        return out

    def hidden(
        self, tokens: Int[Tensor, "batch pos"], z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        """Return what the output head reads at every position; ``site`` indexes ``config.sites``."""
        return self.run(tokens, self.memory(z, site))

    def head(self) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
        """Return weight and bias of the output head: the rows of the tokens that the decoder writes."""
        head = self.lm.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if self.own.restricted:
            weight = weight[self.own.written]
            bias = None if bias is None else bias[self.own.written]
        return weight[: self.config.size], None if bias is None else bias[: self.config.size]

    def begin(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> _Steps:
        """Return what writes inputs one token at a time."""
        return _Steps(self, z, site)

    def kept(self) -> dict[str, Tensor]:
        """Return all that a checkpoint holds: the pathway and what was trained of the LM."""
        own = {name: t for name, t in self.state_dict().items() if not name.startswith("lm.")}
        return own | {f"lm.{name}": p.detach() for name, p in self.lm.named_parameters() if p.requires_grad}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``kept`` returned.

        Raises:
            RuntimeError: names or shapes are others.
        """
        if state.keys() != (wanted := self.kept()).keys():
            raise RuntimeError(f"other tensors: {sorted(state.keys() ^ wanted.keys())[:3]}")
        self.load_state_dict(state, strict=False)


class _Steps:
    """See ``Steps``."""

    def __init__(self, decoder: PretrainedDecoder, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> None:
        self.decoder, self.cache = decoder, decoder.memory(z, site)
        self.weight, self.bias = decoder.head()

    def next(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocabulary"]:
        hidden = self.decoder.run(tokens[:, -1:], self.cache)[:, 0]
        return nn.functional.linear(hidden, self.weight, self.bias)

    def keep(self, rows: Bool[Tensor, " batch"]) -> None:
        self.cache.batch_select_indices(rows.nonzero()[:, 0])


def check_parts(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless the weights that were trained have these shapes, before memory is taken for any."""
    with torch.device("meta"):
        if config.blocks > len(shapes):
            raise ValueError(f"{config.blocks} blocks are more than its {len(shapes)} tensors")
        files.check_shapes(shapes, {f"pathway.{name}": tuple(t.shape) for name, t in Pathway(config).state_dict().items()})
        ranks = {shape[0] for name, shape in shapes.items() if "lora_A" in name}
        if config.tuning == "lora" and ranks != {config.lora}:
            raise ValueError(f"its adapters are not of rank {config.lora}")
        if not config.architecture:
            return
        architecture = _architecture(config)
        if architecture.get_text_config().num_hidden_layers > len(shapes):
            raise ValueError(f"the causal LM has more layers than its {len(shapes)} tensors")
        lm = AutoModelForCausalLM.from_config(architecture)
        files.check_shapes(shapes, {f"lm.{name}": tuple(p.shape) for name, p in lm.named_parameters()})
        if sum(buffer.nbytes for buffer in lm.buffers()) > _BUFFERS:
            raise ValueError("the causal LM asks for tables larger than those of any")


def _architecture(config: DecoderConfig) -> Any:
    kind = dict(config.architecture)
    return AutoConfig.for_model(kind.pop("model_type"), **kind)


def _with_adapters(lm: Any, rank: int) -> Any:
    """Put LoRA adapters beside every linear layer but the output head.

    Raises:
        SettingError: peft is not installed, or the rank is none.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SettingError("LoRA needs the library peft: pip install 'inversionview[lora]', or train with --frozen.") from error
    whole(rank, "The rank of the adapters, of the LM's width at most,", most=lm.config.get_text_config().hidden_size)
    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), lm)


@torch.no_grad()
def _cache_shape(lm: Any, name: str) -> tuple[int, int, int]:
    """Return layers, key/value heads and width of a head, from a run on two tokens.

    Raises:
        SettingError: the LM keeps no plain cache, or its logits are not a linear map of its last hidden states.
    """
    tokens = torch.zeros(1, 2, dtype=torch.long, device=lm.device)
    problem = "it keeps no plain keys and values"
    try:
        cache = DynamicCache()
        hidden = lm.base_model(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        shapes = {tuple(layer.keys.shape) for layer in cache.layers} | {tuple(layer.values.shape) for layer in cache.layers}
        ((_, heads, length, d_head),) = shapes
        head, logits = lm.get_output_embeddings(), lm(input_ids=tokens).logits
        if length == 2 and torch.allclose(head(hidden), logits, rtol=1e-3, atol=1e-3):
            return len(cache.layers), heads, d_head
        problem = "its logits are scaled or capped after the output head"
    except Exception as error:  # whatever an architecture without a plain cache does with one
        problem += f" ({type(error).__name__})"
    raise SettingError(f"{name} cannot be a decoder, {problem}: choose for instance a GPT-2, Llama, Qwen or Pythia.")


def _check_tokenizer(name: str, found: Vocabulary, wanted: Vocabulary) -> None:
    """Raise ``MismatchError`` unless both give every token the same id."""
    if found.tokenizer.get_vocab(True) != wanted.tokenizer.get_vocab(True):
        raise MismatchError(
            f"{name} has another vocabulary than the probed model, so it cannot write its inputs: choose a causal LM with the "
            "same tokenizer for --decoder-from, or train a decoder from scratch."
        )


def empty(config: DecoderConfig, shapes: Shapes, device: str) -> Decoder:
    """Return a decoder around a causal LM, whose own weights are still to come.

    Raises:
        ValueError: what was trained of it is not of these shapes; found out before memory is taken.
    """
    check_parts(config, shapes)
    return PretrainedDecoder.on(config)
