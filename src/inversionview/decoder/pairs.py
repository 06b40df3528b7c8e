"""Training pairs, an input and one of its activations: from the probed model as it runs, or from a bank on disk.

A stream serves all pairs of an input by one forward pass of the probed model; a bank was harvested once and the model is not
run again. ``batches.py`` puts pairs into batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.texts import TextInputs
from inversionview.decoder.balls.candidates import Ball, Candidates, banked_candidates, drawn_candidates
from inversionview.model.backend import widest
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank


_SCANNED = 2**18
"""Inputs of a corpus that are looked through for the tokens that occur."""


@dataclass(frozen=True)
class Drawn:
    """Inputs that pairs are made of."""

    tokens: Ids
    allowed: npt.NDArray[np.bool_]
    """At which positions an activation may be taken, ``[row, pos]``, or at which of each site, ``[row, pos, site]``."""
    rows: npt.NDArray[np.int64] | None = None
    """Their numbers in the bank, ascending."""


class PairSource(Protocol):
    """Where pairs come from."""

    inputs: Inputs
    sites: Sequence[Site]
    positions: tuple[str, ...]
    """The named positions that activations are taken at; none: wherever ``Inputs.trained_positions`` allows."""
    prefix: int
    """Inputs end where the activation is taken, and have so many tokens at most; 0: they are whole."""
    held: bool
    """Activations lie on disk, so that as many candidates as memory takes cost little."""

    def draw(self, count: int, seed: Sequence[int]) -> Drawn:
        """Draw inputs of the train split."""
        ...

    def read(self, drawn: Drawn, rows: Ids, positions: Ids, sites: Ids) -> Tensor:
        """Return the activations of some pairs, ``[pair, d_model]``; ``rows`` count within ``drawn``; see ``nothing``.

        Where sites have unlike numbers, zeros follow the shorter vectors, here and below.
        """
        ...

    def of_sites(self, drawn: Drawn, positions: Ids) -> Iterator[Tensor]:
        """Yield every site's activations at ``positions`` ``[row, k]``, ``[row·k, d_model]``."""
        ...

    @property
    def population(self) -> int | None:
        """Inputs of the train split; ``None`` where they have no end."""
        ...

    @property
    def places(self) -> int:
        """Positions of an input at which D may be reached, at most."""
        ...

    def candidates(self, balls: Sequence[Ball], count: int, seed: Sequence[int], asked: npt.NDArray[np.bool_]) -> Candidates:
        """Return random inputs of the train split with their vectors at the sites that are ``asked`` for."""
        ...


def nothing(inputs: Inputs) -> int:
    """Return the position whose activation tells nothing of an input: BOS, or −1 where there is none, for which 0 stands."""
    return -1 if inputs.bos is None else 0


class FreshInputs:
    """Fresh inputs, run through the probed model as they are needed."""

    positions: tuple[str, ...] = ()
    prefix, held = 0, False

    def __init__(self, model: ProbedModel, inputs: Inputs, sites: Sequence[Site]) -> None:
        self.model, self.inputs, self.sites = model, inputs, sites

    def draw(self, count: int, seed: Sequence[int]) -> Drawn:
        """See ``PairSource.draw``; the free part of every row is drawn anew."""
        tokens = self.inputs.draw(count, split="train", seed=seed, fresh=True)
        return Drawn(tokens, self.inputs.trained_positions(tokens))

    def read(self, drawn: Drawn, rows: Ids, positions: Ids, sites: Ids) -> Tensor:
        """See ``PairSource.read``: one forward pass for each input, at the positions and sites of all its pairs."""
        order = np.argsort(rows, kind="stable")
        distinct, first, count = np.unique(rows[order], return_index=True, return_counts=True)
        slots = np.arange(count.max())[None].clip(max=count[:, None] - 1) + first[:, None]  # a row's pairs, its last repeated
        at, pick = positions[order][slots], sites[order][slots]
        z = self.model.harvest(drawn.tokens[distinct], self.sites, at.clip(min=0), pick=pick)  # (row, k, d_model)
        z[torch.from_numpy(at < 0)] = 0.0
        out = torch.empty(len(rows), z.size(-1))
        out[torch.from_numpy(order)] = z[torch.from_numpy(np.arange(count.max()) < count[:, None])]
        return out

    @property
    def places(self) -> int:
        """See ``PairSource.places``."""
        return self.inputs.max_length

    @property
    def population(self) -> int | None:
        """See ``PairSource.population``."""
        return None if self.inputs.redrawn else len(self.inputs.split("train"))

    def candidates(self, balls: Sequence[Ball], count: int, seed: Sequence[int], asked: npt.NDArray[np.bool_]) -> Candidates:
        """See ``PairSource.candidates``."""
        return drawn_candidates(self.model, self.inputs, self.sites, balls, count, seed, asked)

    def of_sites(self, drawn: Drawn, positions: Ids) -> Iterator[Tensor]:
        """See ``PairSource.of_sites``; eight sites share a forward pass."""
        for first in range(0, len(self.sites), 8):
            z = self.model.harvest(drawn.tokens, self.sites[first : first + 8], positions.clip(min=0))
            z[:, torch.from_numpy(positions < 0)] = 0.0
            yield from F.pad(z.flatten(1, 2).cpu(), (0, widest(self.model.shape, self.sites) - z.size(-1)))


class Banked:
    """Activations of a corpus that lie on disk, at the bank's named positions."""

    prefix, held = 0, False

    def __init__(self, bank: ActivationBank, sites: Sequence[Site], telling: npt.NDArray[np.bool_] | None = None) -> None:
        """Take pairs of ``sites`` from the bank; with ``telling``, ``[site, row, position]``, of these activations alone.

        Raises:
            UnknownSiteError: the bank does not hold one of them.
            InputError: none of its inputs is in the train split, or nothing of them tells anything.
        """
        for site in sites:
            bank.site_number(site)
        self.bank, self.inputs, self.sites, self.positions = bank, bank.inputs, sites, tuple(bank.manifest.positions)
        self.telling = telling
        cut = len(self.inputs.split("train"))
        self._train = np.flatnonzero(np.arange(len(bank)) % len(self.inputs) < cut)
        if not len(self._train):
            raise InputError(f"No input of the bank {bank.folder} is in the train split: build one of more inputs.")
        if telling is not None:  # an input of which nothing may be taken would be read at BOS
            self._train = self._train[telling[:, self._train].any((0, 2))]
            if not len(self._train):
                raise InputError("Nothing is left to train on: on every input these heads rest on BOS. Name other heads.")

    def draw(self, count: int, seed: Sequence[int]) -> Drawn:
        """See ``PairSource.draw``."""
        picked = np.random.default_rng(list(seed)).integers(len(self._train), size=count)
        rows = np.sort(self._train[picked])
        tokens = self.bank.tokens(rows)
        allowed = allowed_positions(self.inputs, tokens, self.positions)
        if self.telling is not None:
            named = self.inputs.named_positions(tokens)
            told = np.zeros((*allowed.shape, len(self.sites)), dtype=bool)
            for number, name in enumerate(self.positions):
                there = np.flatnonzero(named[name] >= 0)
                told[there, named[name][there]] |= self.telling[:, rows[there], number].T
            allowed = told & allowed[:, :, None]
        return Drawn(tokens, allowed, rows)

    def read(self, drawn: Drawn, rows: Ids, positions: Ids, sites: Ids) -> Tensor:
        """See ``PairSource.read``: rows in ascending order from each site × position of the bank."""
        assert drawn.rows is not None
        named = self.inputs.named_positions(drawn.tokens)
        at = np.stack([named[name] for name in self.positions], axis=1)[rows]
        place = (at == positions[:, None]).argmax(1)
        place[positions == nothing(self.inputs)] = len(self.positions)
        out = torch.zeros(len(rows), widest(self.bank.model.shape, self.sites))
        order = np.lexsort((rows, place, sites))
        key = (sites * (len(self.positions) + 1) + place)[order]
        for part in np.split(order, np.flatnonzero(np.diff(key)) + 1) if len(order) else []:
            s, p = int(sites[part[0]]), int(place[part[0]])
            if p == len(self.positions):
                out[torch.from_numpy(part)] = self._bos[s]
            else:
                z = self.bank.activations(self.sites[s], self.positions[p], drawn.rows[rows[part]])
                out[torch.from_numpy(part), : z.size(1)] = z
        return out

    def of_sites(self, drawn: Drawn, positions: Ids) -> Iterator[Tensor]:
        """See ``PairSource.of_sites``."""
        rows = np.repeat(np.arange(len(positions)), positions.shape[1])
        for number in range(len(self.sites)):
            yield self.read(drawn, rows, positions.ravel(), np.full(len(rows), number))

    @property
    def places(self) -> int:
        """See ``PairSource.places``."""
        return len(self.positions)

    @property
    def population(self) -> int | None:
        """See ``PairSource.population``."""
        return len(self._train)

    def candidates(self, balls: Sequence[Ball], count: int, seed: Sequence[int], asked: npt.NDArray[np.bool_]) -> Candidates:
        """See ``PairSource.candidates``: of a bank that holds no more than so many, all."""
        picked = np.random.default_rng(list(seed)).permutation(len(self._train))[:count]
        return banked_candidates(self.bank, self.sites, balls, self._train[picked], asked)

    @cached_property
    def _bos(self) -> Tensor:
        return bos_activations(self.bank, self.sites)


def bos_activations(bank: ActivationBank, sites: Sequence[Site]) -> Tensor:
    """Return the activation of BOS at every site, ``[site, d_model]``: nothing comes before it, so it is one and the same.

    Where inputs have no BOS it is 0.
    """
    if bank.inputs.bos is None:
        return torch.zeros(len(sites), widest(bank.model.shape, sites))
    bos = torch.tensor([[bank.inputs.bos]])
    return bank.model.activations(bos, sites, torch.zeros(1, 1, dtype=torch.long))[:, 0, 0].float().cpu()


def allowed_positions(inputs: Inputs, tokens: Ids, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return where a decoder is trained and measured, ``[row, pos]``: ``Inputs.trained_positions``, of these names if any."""
    allowed = inputs.trained_positions(tokens)
    if not names:
        return allowed
    named = inputs.named_positions(tokens)
    held = np.zeros((len(tokens), tokens.shape[1] + 1), dtype=bool)  # −1 marks the extra column
    np.put_along_axis(held, np.stack([named[name] for name in names], axis=1), True, axis=1)
    return allowed & held[:, :-1]


def written_tokens(inputs: Inputs) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the ids that occur in a corpus, ascending, BOS and EOS among them, and the share of its inputs that hold each.

    Of generated inputs the first 262,144 are looked through. Padding is none of them; an end that no input holds has share 1.
    """
    last, counts = len(inputs) if isinstance(inputs, TextInputs) else min(len(inputs), _SCANNED), np.zeros(0, dtype=np.int64)
    for start in range(0, last, 2**14):
        ids = np.sort(inputs.corpus(np.arange(start, min(start + 2**14, last))), axis=1)
        first = np.concatenate([np.ones((len(ids), 1), dtype=bool), ids[:, 1:] != ids[:, :-1]], axis=1)
        found = np.bincount(ids[first])
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    ends = {end for end in (inputs.bos, inputs.eos) if end is not None}
    tokens = sorted(({int(token) for token in np.flatnonzero(counts)} | ends) - ({inputs.pad} - ends))
    share = [float(counts[token] / last) if token < len(counts) and counts[token] else 1.0 for token in tokens]
    return tuple(tokens), tuple(share)


def pick_pairs(
    places: Ids,
    allowed: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    count: int,
    bos_share: float,
    weights: npt.NDArray[np.float64],
    nothing: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each row ``count`` positions to train on and a site for each, ``[rows, count]`` both.

    A pair's probability is ∝ ``weights[site, place]`` at the ``allowed`` positions, ``[row, pos]`` or ``[row, pos, site]``,
    without replacement while a row has pairs left; with probability ``bos_share`` its position becomes ``nothing``, BOS.
    """
    allowed = np.broadcast_to(allowed if allowed.ndim == 3 else allowed[:, :, None], (*places.shape, len(weights)))
    odds = weights.T[places] * allowed  # (row, position, site)
    race = rng.standard_exponential(odds.shape, dtype=np.float32) / np.maximum(odds, 1e-30)  # the quickest are such a draw
    most = min(count, race[0].size)
    first = torch.from_numpy(race.reshape(len(places), -1)).topk(most, largest=False).indices.numpy()
    available = np.clip(allowed.sum((1, 2)), 1, most)[:, None]
    chosen = np.take_along_axis(first, np.arange(count)[None] % available, axis=1)
    positions, drawn = np.divmod(chosen, len(weights))
    positions[rng.random(positions.shape) < bos_share] = nothing
    positions[~allowed.any((1, 2))] = nothing
    return positions, drawn
