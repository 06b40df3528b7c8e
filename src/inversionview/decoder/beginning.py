"""A decoder as its training begins: new for the sites of a source of pairs, or with the weights of another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inversionview.core.errors import MismatchError, SettingError
from inversionview.core.memory import check_bytes
from inversionview.core.principal import principal
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pairs import PairSource, nothing, pick_pairs, written_tokens
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.decoder.spelling import longest_spelt, pieces_of
from inversionview.decoder.whitening import fit_site
from inversionview.model.backend import widest
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import Vocabulary

_LARGE = 1024
"""A vocabulary above this is restricted to the tokens that occur in the corpus."""
_COPIES = 4 * 4
"""Bytes of a number that is trained: itself, its gradient, two moments of it."""
_HEAD = 0.2
"""How large the rows of an output head begin that are not zero, and what they are multiplied with: logits begin near 0."""
_FEWEST = 256
"""Activations that a site's whitening is fitted to at least."""


def fit_whitening(decoder: Decoder, source: PairSource, seed: int) -> None:
    """Set the whitening of each site in ``decoder``, from 16,384 activations."""
    drawn = source.draw(4096, (seed, 0, 1))
    places, alike = source.inputs.places(drawn.tokens), np.ones((1, source.inputs.place_count))
    allowed = np.any(drawn.allowed, axis=2) if drawn.allowed.ndim == 3 else drawn.allowed
    positions, _ = pick_pairs(places, allowed, np.random.default_rng((seed, 0, 2)), 4, 0.0, alike, nothing(source.inputs))
    for number, z in enumerate(source.of_sites(drawn, positions)):
        if drawn.allowed.ndim == 3:
            told = torch.from_numpy(np.take_along_axis(drawn.allowed[:, :, number], positions.clip(min=0), axis=1).ravel())
            z = z[told] if int(told.sum()) >= _FEWEST else z
        fit_site(decoder.pathway, number, z.float().cpu(), seed)


def new_decoder(
    model: ProbedModel, source: PairSource, *, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any
) -> Decoder:
    """Return an untrained decoder for the sites of a source of pairs, its activations' mean and whitening measured.

    Where the model's vocabulary is large, the decoder writes the tokens of the corpus only.

    Args:
        model: the probed model.
        source: what it will be trained on.
        seed: of its initial weights.
        dtype: of the weights of a pretrained decoder's LM.
        sizes: fields of ``DecoderConfig``: ``layers``, ``heads``, ``width``, ``pathway``, ``blocks``, ``occurrences``,
            ``tokens``, and of a pretrained decoder ``base``, ``tuning`` and ``lora``.

    Raises:
        WeightsError, MismatchError: the causal LM ``base`` cannot be loaded, or has another vocabulary than the model.
        SettingError: it does not suit.
    """
    vocabulary, inputs = model.vocabulary, source.inputs
    unread = vocabulary.bos is None
    size = max(model.shape.vocabulary, vocabulary.size, vocabulary.eos + 1)
    torch.manual_seed(seed)
    made: dict[str, Any] = {
        "sites": tuple(site.short for site in source.sites), "positions": source.positions,
        "d_model": widest(model.shape, source.sites), "vocabulary": size, "max_length": inputs.max_length + int(unread),
        "bos": vocabulary.eos if unread else vocabulary.bos,
        "eos": vocabulary.eos, "pad": vocabulary.pad, "unread": unread, "fingerprint": model.fingerprint, "model": model.name,
    }  # fmt: skip
    if source.prefix:
        made |= _of_prefixes(source, vocabulary, scratch=not sizes.get("base"))
    elif size > _LARGE and "tokens" not in sizes:
        made["tokens"], made["shares"] = written_tokens(inputs)
    config = DecoderConfig(**{**made, **sizes})
    if config.base and not vocabulary.ended:
        raise SettingError(
            f"The tokenizer of {model.name} names no token that ends a text, so no causal LM can be its decoder: leave out "
            "--decoder-from."
        )
    if not config.base:
        check_bytes(_COPIES * _numbers(config), f"A decoder of {config.layers:,} layers and width {config.width:,}")
    if config.base:
        from inversionview.decoder.pretrained import PretrainedDecoder

        decoder = PretrainedDecoder.on(config, vocabulary, dtype)
    else:
        decoder = ScratchDecoder(config)
        if source.prefix:
            _embed(decoder, model)
    fit_whitening(decoder, source, seed)
    return decoder.speak(vocabulary).to(model.device)


def _of_prefixes(source: PairSource, vocabulary: Vocabulary, *, scratch: bool) -> dict[str, Any]:
    """Return what is set of a decoder of what precedes: from scratch it writes pieces, backwards, for z knows the end best."""
    unread = int(vocabulary.bos is None)
    made: dict[str, Any] = {"prefix": source.prefix, "max_length": source.prefix + 1 + unread, "backwards": scratch}
    tokens = pieces_of(source.inputs, vocabulary) if scratch else ()
    if not tokens:
        made["tokens"], made["shares"] = written_tokens(source.inputs)
        return made
    longest = longest_spelt(source.inputs, vocabulary, tokens, source.prefix)
    return {**made, "tokens": tokens, "respelled": True, "max_length": max(longest, source.prefix + 1) + unread}


@torch.no_grad()
def _embed(decoder: ScratchDecoder, model: ProbedModel) -> None:
    """Begin with tokens as the probed model embeds them, in so many principal directions as the decoder is wide.

    So rare tokens begin near those that are like them, where what is learned of frequent ones holds for them, too.
    """
    site = next((site for site in model.sites if site.short == "x0.pre"), None)
    ids = decoder.own.back(torch.arange(decoder.config.size))
    known = torch.nonzero(ids < model.shape.vocabulary)[:, 0]
    if site is None:
        return
    front = model.vocabulary.front
    rows = np.concatenate([np.tile(front, (len(known), 1)), ids[known, None].numpy()], axis=1).astype(np.int64)
    z = model.harvest(rows, [site], np.full((len(rows), 1), len(front)))[0, :, 0].float().cpu()
    _, _, directions = principal(z)
    low = (z - z.mean(0)) @ directions[:, -decoder.config.width :]
    low = low / low.std()
    shown = slice(0, low.size(1))
    decoder.embed_token.weight[known, shown] = 0.5 * low
    decoder.lm_head.weight[known, shown] = _HEAD * low
    decoder.norm.weight.fill_(_HEAD)


def _numbers(config: DecoderConfig) -> int:
    """Return about how many numbers of a decoder are trained: a layer has 12 · width², the rest is tables of vectors."""
    tables = 2 * config.size + config.max_length * (config.pathway + 1)
    return config.width * (12 * config.layers * config.width + tables)


def begin_from(decoder: Decoder, start: str | Path) -> None:
    """Copy the weights of another decoder for the same model, sites and sizes.

    Raises:
        MismatchError: it has another shape or belongs to another model.
    """
    other = Decoder.from_pretrained(start)
    mine, theirs = asdict(decoder.config), asdict(other.config)
    changed = sorted(k for k in mine if k != "model" and mine[k] != theirs[k])
    if changed:
        raise MismatchError(f"The decoder {start} cannot be begun from: it has another {', '.join(changed)}.")
    decoder.restore(other.kept())
