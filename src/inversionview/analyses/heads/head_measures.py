"""What is measured of every attention head on prompts with an indirect object: effects, attention, copying, repetition.

Prompts have the named positions IO, S1, S1+1, S2 and END; LD is logit(IO) − logit(S) at END. The contrast of a prompt is the
same with IO at S2, so that the other name gives: which name stands there and how far behind its first occurrence both change,
and LD turns round. The measures are those by which Wang et al. 2022 (arXiv 2211.00593, section 3) tell heads apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.analyses.attribute.measure import Entrances
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.information import Mean, means
from inversionview.corpora.contrasts import Pairs
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import Activation
from inversionview.intervene.patched_runs import PatchedRuns
from inversionview.model.last_norm import last_norm, token_count
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site

POSITIONS = ("S1+1", "S2", "END")
"""Where heads are read."""
KEYS = ("IO", "S1", "S1+1", "S2")
"""What their attention is measured to."""
Values = npt.NDArray[np.float64]
_TOP = 5
"""A head copies a name that is among so many most promoted tokens (Wang et al. 2022, section 3.1)."""
_HALF, _SEQUENCES = 24, 32
"""Length of what is repeated, about a prompt's, and how many random sequences there are."""
_TOKENS = 800
"""Of a pass whose graph is kept."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts, with where their names stand."""

    tokens: Ids
    """``[row, pos]``, padded on the right."""
    at: dict[str, Ids]
    """Each named position's index, ``[row]``."""

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, inputs: Inputs, tokens: Ids) -> Prompts:
        """Return those of ``tokens`` that have every position.

        Raises:
            InputError: the inputs have no such positions, or none of the rows has them all.
        """
        named = inputs.named_positions(tokens)
        lacking = [name for name in (*POSITIONS, *KEYS) if name not in named]
        if lacking:
            raise InputError(f"These inputs have no position {lacking[0]}: heads are told apart on prompts of ioi.")
        there = np.all([named[name] >= 0 for name in (*POSITIONS, *KEYS)], axis=0)
        if not there.any():
            raise InputError("None of the prompts has IO, S1, S2 and END: give others.")
        return cls(tokens[there], {name: at[there] for name, at in named.items()})

    def first(self, count: int) -> Prompts:
        """Return the first of them."""
        return Prompts(self.tokens[:count], {name: at[:count] for name, at in self.at.items()})

    def rows(self, rows: npt.NDArray[np.int64]) -> Prompts:
        """Return some of them, cut behind END."""
        return Prompts(self.tokens[rows, : self.at["END"][rows].max() + 1], {name: at[rows] for name, at in self.at.items()})

    @property
    def positions(self) -> Ids:
        """Where heads are read, ``[row, position]``."""
        return np.stack([self.at[name] for name in POSITIONS], axis=1)

    @property
    def names(self) -> Ids:
        """IO and S, ``[row, 2]``."""
        each = np.arange(len(self))
        return np.stack([self.tokens[each, self.at["IO"]], self.tokens[each, self.at["S2"]]], axis=1)

    @cached_property
    def contrasts(self) -> Ids:
        """The same prompts with IO at S2, in which S is what is given to."""
        contrast = self.tokens.copy()
        contrast[np.arange(len(self)), self.at["S2"]] = self.names[:, 0]
        return contrast

    def pairs(self, inputs: Inputs) -> Pairs:
        """Return the prompts with their contrasts, both read at END; the answers are IO and S."""
        return Pairs(self.tokens, self.contrasts, self.at["END"], inputs.named_positions(self.contrasts)["END"], self.names)

    def batches(self, tokens: int) -> Iterator[npt.NDArray[np.int64]]:
        """Yield rows of like length, about so many tokens at once."""
        order = np.argsort(self.at["END"], kind="stable")
        size = max(1, tokens // (int(self.at["END"].max()) + 1))
        yield from (order[start : start + size] for start in range(0, len(order), size))


def heads_of(model: ProbedModel) -> list[Site]:
    """Return the attention heads, in the order of computation."""
    return [site for site in model.sites if site.is_head]


# -- direct effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Direct:
    """How the model does on the prompts, and what each head adds to LD by itself."""

    ld: Float[np.ndarray, " row"]
    """logit(IO) − logit(S), in nats."""
    first: npt.NDArray[np.bool_]
    """IO has the largest logit of all names in the prompts, ``[row]``."""
    effect: Float[np.ndarray, "row head"]
    """Its output at END through the last norm, frozen, and W_U, on IO less S."""


@torch.no_grad()
def direct_effects(model: ProbedModel, prompts: Prompts) -> Direct:
    """Return the direct effects of all heads at END."""
    last = Site(len(model.shape.heads) - 1, "post")
    heads, width = heads_of(model), model.shape.d_model
    z = model.harvest(prompts.tokens, [*heads, last], prompts.at["END"][:, None])[:, :, 0].to(model.device)
    logits = model.backend.unembed(model.backend.final_norm(z[-1])).float()
    norm, own = last_norm(model), torch.from_numpy(prompts.names).to(model.device)
    bias = model.backend.unembed(z.new_zeros(1, width)).float()
    w_u = model.backend.unembed(torch.eye(width, device=model.device)).float() - bias
    direction = (w_u[:, own[:, 0]] - w_u[:, own[:, 1]]).T
    scale = norm.scale(z[-1])
    entrances = Entrances(model, [head.layer for head in heads])
    scales = entrances.scales(prompts.tokens, prompts.at["END"])
    entered = (entrances.entered(head, each, scales) for head, each in zip(heads, z[:-1], strict=True))
    effect = torch.stack([(norm.frozen(each, scale) * direction).sum(-1) for each in entered], dim=1)
    both = logits.gather(1, own)
    best = logits[:, own.unique()].amax(1)
    return Direct(
        (both[:, 0] - both[:, 1]).double().cpu().numpy(), (both[:, 0] >= best).cpu().numpy(), effect.double().cpu().numpy()
    )


# -- attention --------------------------------------------------------------------------------------------------------


def attention(model: ProbedModel, prompts: Prompts) -> Float[np.ndarray, "head position key"]:
    """Return every head's mean attention from ``POSITIONS`` to ``KEYS``; what stands behind a position gets none."""
    total: Any = 0
    for rows in prompts.batches(16 * _TOKENS):
        some = prompts.rows(rows)
        patterns = model.patterns(torch.from_numpy(some.tokens), torch.from_numpy(some.positions))
        keys = torch.from_numpy(np.stack([some.at[name] for name in KEYS], axis=1)).to(patterns.device)
        keys = keys[None, :, None, None].expand(*patterns.shape[:-1], -1)
        total = total + patterns.gather(-1, keys).double().sum(1)
    found: Values = (total / len(prompts)).flatten(0, 1).cpu().numpy()
    return found


def repetition(model: ProbedModel, seed: int) -> Float[np.ndarray, "head kind"]:
    """Return every head's mean attention on random sequences that are repeated, from the second half on.

    To the token before (previous-token score), to the same token in the first half (duplicate-token score), and to the token
    after that (induction score); Olsson et al. 2022, Wang et al. 2022, appendix H.
    """
    ids = ordinary(model)
    half = np.random.default_rng((seed, 41)).choice(ids, size=(_SEQUENCES, _HALF))
    begin = model.vocabulary.bos
    start = np.full((_SEQUENCES, 0 if begin is None else 1), begin or 0)
    tokens, queries = np.concatenate([start, half, half], axis=1), np.arange(_HALF) + start.shape[1] + _HALF
    queries = queries[1:]  # the first repeated token cannot be told from a new one
    keys = torch.from_numpy(np.stack([queries - 1, queries - _HALF, queries - _HALF + 1], axis=1)).to(model.device)
    total: Any = 0
    for part in np.array_split(tokens, 4):
        patterns = model.patterns(torch.from_numpy(part), torch.from_numpy(queries).expand(len(part), -1))
        total = total + patterns.gather(-1, keys.expand(*patterns.shape[:-1], -1)).double().sum((1, 3))
    found: Values = (total / (_SEQUENCES * len(queries))).flatten(0, 1).cpu().numpy()
    return found


def ordinary(model: ProbedModel) -> Ids:
    """Return the ids of all tokens but special ones and those of the tokenizer that the model does not embed."""
    special = {model.vocabulary.bos, model.vocabulary.eos, model.vocabulary.pad}
    return np.array([i for i in range(token_count(model)) if i not in special])


# -- copying ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def copy_scores(
    model: ProbedModel, prompts: Prompts, heads: Sequence[Site], advance: Callable[[float], None]
) -> Float[np.ndarray, "head 2"]:
    """Return how often heads copy a name they attend to, and how often they suppress it.

    The residual stream at a name after the first block, times the head's OV matrix, through the last norm and W_U: the share of
    names that are among the five most promoted, and most suppressed, tokens (Wang et al. 2022, section 3.1: copy score,
    negative copy score). Each name counts once, where it first stands.
    """
    where = np.stack([prompts.at["IO"], prompts.at["S1"]], axis=1)
    ids = np.take_along_axis(prompts.tokens, where, axis=1).ravel()
    names, one = np.unique(ids, return_index=True)
    x = model.harvest(prompts.tokens, [Site(0, "post")], where)[0].flatten(0, 1)[one].to(model.device)
    wanted = torch.from_numpy(names).to(model.device)[:, None]
    norm, entrances = last_norm(model), Entrances(model, [head.layer for head in heads])
    bias = model.backend.unembed(torch.zeros(1, model.shape.d_model, device=model.device))
    out, written = np.zeros((len(heads), 2)), dict[int, Tensor]()
    for i, head in enumerate(heads):
        assert head.head is not None
        if head.layer not in written:
            written = {head.layer: model.attended(head.layer, x)}
        v = entrances.entered(head, written[head.layer][head.head].float())
        logits = (model.backend.unembed(norm.frozen(v, torch.ones_like(v[:, :1]))) - bias)[:, : token_count(model)]
        own = logits.gather(1, wanted)
        for j, sign in enumerate((1, -1)):
            out[i, j] = float(((sign * logits >= sign * own).sum(1) <= _TOP).double().mean())
        advance((i + 1) / len(heads))
    return out


# -- patching ---------------------------------------------------------------------------------------------------------


def estimated_effects(
    model: ProbedModel, prompts: Prompts, advance: Callable[[float], None]
) -> Float[np.ndarray, "head position"]:
    """Return the first-order estimate of what patching every head at ``POSITIONS`` does to LD (attribution patching).

    LD_orig − LD_patched ≈ ∂LD/∂z · (z − z′) with z′ the contrast's, the gradient being the mean of those at both ends: one
    alone would miss attention that is saturated. It ranks heads; what is reported is patched (Nanda 2023; Syed et al. 2023).
    """
    heads = heads_of(model)
    layer = torch.tensor([head.layer for head in heads])
    total, done = torch.zeros(len(heads), len(POSITIONS), dtype=torch.double), 0
    for rows in prompts.batches(_TOKENS):
        some = prompts.rows(rows)
        here = torch.from_numpy(some.positions)
        change = model.harvest(some.tokens, heads, some.positions)
        there = _named(prompts, some)
        change -= model.harvest(some.contrasts, heads, there)
        gradient = _gradient(model, some.tokens, here, some) + _gradient(model, some.contrasts, torch.from_numpy(there), some)
        for i, own in enumerate(layer.tolist()):
            total[i] += (change[i] * gradient[own] / 2).sum(-1).double().sum(0)
        done += len(rows)
        advance(done / len(prompts))
    found: Values = (total / len(prompts)).numpy()
    return found


def _named(prompts: Prompts, some: Prompts) -> Ids:
    """Return ``POSITIONS`` in the contrasts: the name at S2 is IO, which first stands where IO does."""
    return np.stack([some.at["IO"] + 1, some.at["S2"], some.at["END"]], axis=1)


def _gradient(
    model: ProbedModel, tokens: Ids, at: Int[Tensor, "row position"], prompts: Prompts
) -> Float[Tensor, "layer row position d_model"]:
    """Return the gradient of LD with respect to what the attention layers give at some positions."""
    end, names = torch.from_numpy(prompts.at["END"]).to(model.device), torch.from_numpy(prompts.names).to(model.device)
    each = torch.arange(len(tokens), device=model.device)

    def difference(logits: Float[Tensor, "row pos vocabulary"]) -> Float[Tensor, " row"]:
        return logits[each, end, names[:, 0]] - logits[each, end, names[:, 1]]

    gradients = model.gradients(
        torch.from_numpy(tokens), [Tap(i, "attn_out") for i in range(len(model.shape.heads))], difference
    )
    return gradients[:, each[:, None], at.to(model.device)].float().cpu()


def patched_effects(
    model: ProbedModel,
    pairs: Pairs,
    at: str,
    heads: Sequence[Site],
    positions: Positions,
    seed: int,
    advance: Callable[[float], None],
) -> tuple[list[Mean], tuple[float, float]]:
    """Return what patching each head at one position does, LD_orig − LD_patched, the mean over pairs with its interval.

    And the means of LD_orig and of LD_contrast.
    """
    runs = PatchedRuns(model, pairs, [Activation(head, at) for head in heads], positions)
    found = runs.differences([(i,) for i in range(len(heads))], lambda share, _: advance(share))
    effects = means(found.original[:, None].astype(np.float64) - found.patched, seed=seed)
    return effects, (float(found.original.mean(dtype=np.float64)), float(found.contrast.mean(dtype=np.float64)))
