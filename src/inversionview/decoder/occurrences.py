"""Training pairs of natural text: the activation of an occurrence, from a bank of every token, and what precedes it.

What precedes is the window up to and including the token itself: in a causal model the activation depends on nothing else. A
pair's input is that prefix with EOS after it, and D is compared where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.corpora.naming import ALL
from inversionview.decoder.balls.candidates import Ball, Candidates
from inversionview.decoder.pairs import Banked, Drawn, PairSource, bos_activations, nothing
from inversionview.model.backend import widest
from inversionview.model.sites.site import Site

LONGEST = 64
"""Tokens of a prefix at most, front counted: occurrences farther into windows are left out, so that prefixes are whole."""
_READ = 2**14
"""Vectors read at once."""


class BankedPrefixes:
    """The occurrences of a bank of natural text in the windows of the train split, see the module's text.

    Attributes:
        rows: which rows of the bank they are.
    """

    positions: tuple[str, ...] = ()
    held = True

    def __init__(self, bank: ActivationBank, sites: Sequence[Site]) -> None:
        """Take pairs of ``sites`` from the bank.

        Raises:
            UnknownSiteError: the bank does not hold one of them.
        """
        for site in sites:
            bank.site_number(site)
        self.bank, self.inputs, self.sites = bank, bank.inputs, sites
        rows = np.arange(len(bank))
        windows, first = bank.places.inputs_of(rows), len(bank.model.vocabulary.front)
        _, starts, which = np.unique(windows, return_index=True, return_inverse=True)
        lengths = first + rows - starts[which] + 1
        self.prefix = int(min(LONGEST, lengths.max()))
        self.rows = rows[(windows < len(self.inputs.split("train"))) & (lengths <= LONGEST)]

    def draw(self, count: int, seed: Sequence[int]) -> Drawn:
        """See ``PairSource.draw``: each row is a prefix, of which only the last token may be taken."""
        rows = np.sort(self.rows[np.random.default_rng(list(seed)).integers(len(self.rows), size=count)])
        tokens, last = self._prefixes(rows)
        return Drawn(tokens, np.arange(tokens.shape[1]) == last[:, None], rows)

    def read(self, drawn: Drawn, rows: Ids, positions: Ids, sites: Ids) -> Tensor:
        """See ``PairSource.read``."""
        assert drawn.rows is not None
        out = torch.zeros(len(rows), widest(self.bank.model.shape, self.sites))
        for site in np.unique(sites):
            mine = np.flatnonzero(sites == site)
            z = self.bank.activations(self.sites[site], ALL, drawn.rows[rows[mine]])
            out[torch.from_numpy(mine), : z.size(1)] = z
        void = np.flatnonzero(positions == nothing(self.inputs))
        out[torch.from_numpy(void)] = self._bos[torch.from_numpy(sites[void])]
        return out

    def of_sites(self, drawn: Drawn, positions: Ids) -> Iterator[Tensor]:
        """See ``PairSource.of_sites``."""
        rows = np.repeat(np.arange(len(positions)), positions.shape[1])
        for number in range(len(self.sites)):
            yield self.read(drawn, rows, positions.ravel(), np.full(len(rows), number))

    @property
    def places(self) -> int:
        """See ``PairSource.places``: D is reached at the end alone."""
        return 1

    @property
    def population(self) -> int | None:
        """See ``PairSource.population``."""
        return len(self.rows)

    def candidates(self, balls: Sequence[Ball], count: int, seed: Sequence[int], asked: npt.NDArray[np.bool_]) -> Candidates:
        """See ``PairSource.candidates``: of a bank that holds no more than so many, all."""
        rows = self.rows[np.random.default_rng(list(seed)).permutation(len(self.rows))[:count]]
        found: list[Tensor | None] = [None] * len(self.sites)
        for number, (site, ball) in enumerate(zip(self.sites, balls, strict=True)):
            if asked[number]:
                parts = [rows[start : start + _READ] for start in range(0, len(rows), _READ)]
                found[number] = torch.cat([ball.vectors(self.bank.activations(site, ALL, part)).half() for part in parts])
        starts = np.arange(len(rows) + 1)
        return Candidates(self._prefixes(rows)[0], starts, starts[:-1], tuple(found))

    @cached_property
    def _bos(self) -> Tensor:
        return bos_activations(self.bank, self.sites)

    def _prefixes(self, rows: npt.NDArray[np.int64]) -> tuple[Ids, Ids]:
        """Return what precedes some occurrences, ``[row, prefix + 1]``, EOS after it; and where each ends."""
        tokens, at = self.bank.located(rows, (ALL,))
        vocabulary = self.bank.model.vocabulary
        return prefixes(tokens, at[:, 0], self.prefix + 1, vocabulary.eos, vocabulary.pad), at[:, 0]


def prefixes(tokens: Ids, last: Ids, width: int, eos: int, pad: int) -> Ids:
    """Return the tokens of each row up to and including ``last``, and EOS, padded to ``width``."""
    out = np.full((len(tokens), width), pad, dtype=np.int64)
    shown = min(width, tokens.shape[1])
    out[:, :shown] = np.where(np.arange(shown) <= last[:, None], tokens[:, :shown], pad)
    out[np.arange(len(tokens)), last + 1] = eos
    return out


def banked(bank: ActivationBank, sites: Sequence[Site], telling: npt.NDArray[np.bool_] | None = None) -> PairSource:
    """Return pairs of a bank: of one of every token of natural text what precedes each, else its inputs; see ``Banked``.

    Raises:
        SettingError: it is a bank of every token of other inputs, or ``telling`` is said of texts.
    """
    if bank.places.names != (ALL,):
        return Banked(bank, sites, telling)
    if not bank.inputs.every_token or telling is not None:
        raise SettingError(
            f"The bank {bank.folder} holds every token of its inputs, but decoders are trained at named positions: build one "
            "of these."
        )
    return BankedPrefixes(bank, sites)
