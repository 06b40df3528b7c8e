"""Score many given inputs under a decoder at once: log p_θ(x ∣ z) with every shared prefix computed once.

Inputs are sorted, so that equal prefixes lie together: a tree. From BOS on, each distinct prefix (a node) takes one step with
the keys and values of its parent, as in ``sampling.sample``; where the branches no longer share anything, the rest of every
input runs in one pass. ``sampling.token_log_probs`` is the plain way to the same numbers, which tests hold this against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import check_numbers, log_probs_at
from inversionview.decoder.scratch import Layer, ScratchDecoder

_LEAVES = 16384
"""Inputs whose common stem is computed together."""
_TOKENS_PER_PASS = 2400
"""Tokens in one pass over the inputs' ends on a CPU: what stays in the cache runs fastest."""
_SAFE = 60.0
"""Attention scores below this in size need no shift before the exponential."""


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Inputs in lexicographic order; made once, scored under many activations."""

    tokens: Int[Tensor, "input pos"]
    order: npt.NDArray[np.int64]
    """``tokens`` are the given inputs at these places."""
    fresh: npt.NDArray[np.int64]
    """At which position an input first differs from the one before it; 0 for the first input."""
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Ids, pad: int) -> PrefixTree:
        """Sort inputs, padded on the right."""
        order = np.lexsort(_keys(tokens)[::-1])
        tokens = tokens[order]
        differs = tokens[1:] != tokens[:-1]
        fresh = np.where(differs.any(1), differs.argmax(1), tokens.shape[1])
        return cls(torch.from_numpy(tokens), order, np.concatenate([[0], fresh]), (tokens != pad).sum(1))

    def __len__(self) -> int:
        return len(self.order)


def _keys(tokens: Ids) -> list[npt.NDArray[np.int64]]:
    """Return integers that order rows as their tokens do, first key first; as many tokens in each as 63 bits hold."""
    base = int(tokens.max(initial=0)) + 1
    each = max(1, int(63 / np.log2(max(base, 2))))
    keys = []
    for start in range(0, tokens.shape[1], each):
        part = tokens[:, start : start + each]
        keys.append(part @ (base ** np.arange(part.shape[1])[::-1]))
    return keys


@torch.no_grad()
def log_probs(
    decoder: Decoder,
    tree: PrefixTree,
    z: Float[Tensor, "draw d_model"],
    site: int,
    *,
    temperatures: Sequence[float] = (1.0,),
    floors: Sequence[float] | None = None,
    as_drawn: bool = False,
    report: Callable[[int], None] | None = None,
) -> Float[Tensor, "temperature input"]:
    """Return log p_θ(x ∣ z) of every input of the tree, in the order in which they were given.

    Args:
        decoder: the decoder.
        tree: the inputs.
        z: one activation, or several draws of a noisy one: then log of the mean probability over the draws.
        site: index into ``decoder.config.sites``.
        temperatures: logits are divided by each of these; one pass serves all.
        floors: one for each temperature. A prefix whose log-probability is below the floor at every temperature is not
            followed further, and its inputs get the prefix's value: an upper bound of theirs, since every further token can
            only lower it. So a value at or above its floor is exact, and whatever is below the floor has a value below the
            floor. What compares inputs with a threshold at or above the floor, a rank or a quantile, is therefore exact.
        as_drawn: log p as ``sampling.sample`` draws, which never writes BOS or padding.
        report: called with the number of inputs scored so far.
    """
    decoder.eval()
    z = z.to(decoder.device, torch.float32)
    if not isinstance(decoder, ScratchDecoder):
        return _one_by_one(decoder, tree, z, site, temperatures, as_drawn, report)
    scorer = _Scorer(decoder, z, site, temperatures, floors or [-torch.inf] * len(temperatures), as_drawn)
    out = torch.empty(len(temperatures), len(tree))
    for start in range(0, len(tree), scorer.leaves):
        rows = slice(start, start + scorer.leaves)
        own = decoder.own(tree.tokens[rows].to(decoder.device)).cpu()
        scored = scorer.chunk(own.clamp(min=0), tree.fresh[rows], tree.lengths[rows])
        outside = (own < 0) & (torch.arange(own.size(1)) < torch.from_numpy(tree.lengths[rows])[:, None])
        check_numbers(~scored.isnan())
        scored[:, outside.any(1)] = -torch.inf
        out[:, torch.from_numpy(tree.order[rows])] = scored
        if report is not None:
            report(min(start + scorer.leaves, len(tree)))
    return out


def _one_by_one(
    decoder: Decoder,
    tree: PrefixTree,
    z: Float[Tensor, "draw d_model"],
    site: int,
    temperatures: Sequence[float],
    as_drawn: bool,
    report: Callable[[int], None] | None,
) -> Float[Tensor, "temperature input"]:
    """Do what ``log_probs`` says for a decoder around a causal LM, whose attention does not branch: input by input."""
    out = torch.empty(len(temperatures), len(tree))
    for start in range(0, len(tree), _LEAVES // 64):
        tokens = tree.tokens[start : start + _LEAVES // 64].to(decoder.device)
        where = torch.full((len(tokens),), site, device=decoder.device)
        each = torch.stack(
            [
                log_probs_at(decoder, tokens, one.expand(len(tokens), -1), where, temperatures, as_drawn=as_drawn).sum(-1)
                for one in z
            ]
        )
        scored = (each.logsumexp(0) - math.log(len(z))).cpu()
        out[:, torch.from_numpy(tree.order[start : start + len(tokens)])] = scored
        if report is not None:
            report(start + len(tokens))
    return out


class _Scorer:
    """A decoder under fixed activations; see ``log_probs``. The nodes of several draws lie one draw behind the other."""

    def __init__(
        self,
        decoder: ScratchDecoder,
        z: Float[Tensor, "draw d_model"],
        site: int,
        temperatures: Sequence[float],
        floors: Sequence[float],
        as_drawn: bool,
    ) -> None:
        self.decoder, self.temperatures, self.draws, self.device = decoder, temperatures, len(z), z.device
        self.floors = torch.tensor(floors)[:, None]
        self.banned = decoder.config.banned if as_drawn else []
        self.layers = [_Branches(cast(Layer, layer)) for layer in decoder.layers]
        u = decoder.pathway(z, torch.full((len(z),), site, device=z.device))
        self.entrance = decoder.enter(u, decoder.config.max_length)[:, None]  # (draw, 1, pos, width)
        self.memories = decoder.memories(u)
        # a large vocabulary makes the logits the widest of all that is kept
        share = min(1.0, 4 * decoder.config.width / decoder.config.size) / self.draws
        self.leaves = max(1, int(_LEAVES * share))
        self.tokens_per_pass = (1 if z.device.type == "cpu" else 40) * _TOKENS_PER_PASS * share

    def chunk(
        self, tokens: Int[Tensor, "input pos"], fresh: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> Float[Tensor, "temperature input"]:
        """Score neighbouring inputs of a tree: the stem level by level, then the rest of every input."""
        out = torch.empty(len(self.temperatures), len(tokens))
        rows, above = np.arange(len(tokens)), np.zeros(len(tokens), dtype=np.int64)  # inputs, and their node one level up
        caches = [list(memory) for memory in self.memories]
        total = torch.zeros(len(self.temperatures), self.draws, 1, device=self.device)  # log p of every node
        after: Tensor | None = None  # log p of each token after it; at BOS, which is given, there is none
        for place in range(tokens.size(1)):
            node, first = _runs(fresh[rows] <= place)
            parent = torch.from_numpy(above[first]).to(self.device)
            total = total[:, :, parent]
            if after is not None:
                total = total + after[:, :, tokens[rows[first], place].to(self.device), parent]
            value = self._mean(total)
            going = (value >= self.floors).any(0).numpy()[node] & (lengths[rows] > place + 1)
            out[:, rows[~going]] = value[:, node[~going]]
            rows, node = rows[going], node[going]
            if not len(rows):
                break
            above, first = _runs(np.diff(node, prepend=-1) != 0)
            parent, total = parent[node[first]], total[:, :, node[first]]
            if 2 * len(first) > len(rows):
                for part in self._parts(lengths[rows], place):
                    which = above[part]
                    rest = self._branches(tokens[rows[part], : lengths[rows[part[0]]]], place, caches, parent[which])
                    out[:, rows[part]] = self._mean(total[:, :, which] + rest)
                break
            after = self._step(tokens[rows[first], : place + 1], caches, parent)
        return out

    def _step(
        self, prefixes: Int[Tensor, "node pos"], caches: list[list[Tensor]], parent: Int[Tensor, " node"]
    ) -> Float[Tensor, "temperature draw vocabulary node"]:
        """Take every node one token on, its keys and values after its parent's in ``caches``."""
        places, last = self._flat(parent, caches), prefixes.size(1)
        x = (self.decoder.embed(prefixes.to(self.device), start=last - 1) + self.entrance[:, :, last - 1 : last]).flatten(0, 1)
        for layer, cache in zip(self.layers, caches, strict=True):
            x, *cache[:] = layer(x, *(t[places] for t in cache))
        return self._log_softmax(x[:, 0]).unflatten(-1, (self.draws, -1)).transpose(1, 2)

    def _branches(
        self, tokens: Int[Tensor, "input pos"], place: int, caches: list[list[Tensor]], parent: Int[Tensor, " input"]
    ) -> Float[Tensor, "temperature draw input"]:
        """Return log p of the tokens after ``place``, in one pass over inputs of one length."""
        tokens, places = tokens.to(self.device), self._flat(parent, caches)
        fed, target = tokens[:, :-1], tokens[:, place + 1 :]
        x = (self.decoder.embed(fed, start=place) + self.entrance[:, :, place : fed.size(1)]).flatten(0, 1)
        for layer, (keys, values) in zip(self.layers, caches, strict=True):
            x, *_ = layer(x, keys[places], values[places])
        scores = self._log_softmax(x.flatten(0, 1))
        own = scores.gather(1, target.flatten().repeat(self.draws).expand(len(scores), 1, -1))[:, 0]
        return own.unflatten(-1, (self.draws, *target.shape)).sum(-1)

    def _log_softmax(self, x: Float[Tensor, "token width"]) -> Float[Tensor, "temperature vocabulary token"]:
        """Return log p of each token, tokens of the vocabulary first: small sums run fastest over the outer dimension."""
        logits = self.decoder.lm_head.weight @ self.decoder.norm(x).T
        logits[self.banned] = -torch.inf
        return torch.stack([(logits / t).log_softmax(0) for t in self.temperatures])

    def _flat(self, parent: Int[Tensor, " node"], caches: list[list[Tensor]]) -> Int[Tensor, " draw*node"]:
        """Return the places of the parents of every draw in the caches."""
        each = len(caches[0][0]) // self.draws
        return (torch.arange(self.draws, device=self.device)[:, None] * each + parent).flatten()

    def _mean(self, total: Float[Tensor, "temperature draw node"]) -> Float[Tensor, "temperature node"]:
        """Return log of the mean probability over draws, on the CPU."""
        return (total.logsumexp(1) - math.log(self.draws)).cpu()

    def _parts(self, lengths: npt.NDArray[np.int64], place: int) -> Iterator[npt.NDArray[np.int64]]:
        """Yield which inputs go through one pass together: of one length, and not too many."""
        order, start = np.argsort(lengths, kind="stable"), 0
        while start < len(order):
            each = max(1, int(self.tokens_per_pass / (lengths[order[start]] - 1 - place)))
            part = order[start : start + each]
            part = part[lengths[part] == lengths[part[0]]]
            yield part
            start += len(part)


def _runs(starts: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the number of each element's run and where each run begins; the first element begins one in any case."""
    starts = starts.copy()
    starts[:1] = True
    return np.cumsum(starts) - 1, np.flatnonzero(starts)


class _Branches:
    """``Layer.forward`` for several new tokens after cached keys and values, with less work for memory on a CPU."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        scale = (layer.query.out_features // layer.heads) ** -0.5
        self.joint = torch.cat([layer.query.weight * scale, layer.key.weight, layer.value.weight])

    def __call__(
        self,
        x: Float[Tensor, "batch new width"],
        keys: Float[Tensor, "batch head pos d_head"],
        values: Float[Tensor, "batch head pos d_head"],
    ) -> tuple[Float[Tensor, "batch new width"], Tensor, Tensor]:
        """Return the new hidden states, and all keys and values."""
        layer, new, past = self.layer, x.size(1), keys.size(2)
        q, k, v = (layer.split(part) for part in F.linear(layer.norm_1(x), self.joint).chunk(3, dim=-1))
        keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        weights = q @ keys.mT
        seen = torch.ones(new, new, device=x.device).tril()
        if bool(weights.amax() < _SAFE) and bool(weights.amin() > -_SAFE):
            weights.exp_()[..., past:] *= seen
            weights /= weights.sum(-1, keepdim=True)
        else:
            weights[..., past:].masked_fill_(seen == 0, -torch.inf)
            weights = weights.softmax(-1)
        x = x + layer.out((weights @ values).transpose(1, 2).flatten(2))
        return x.add_(layer.down(layer.up(layer.norm_2(x)).relu_().square_())), keys, values
