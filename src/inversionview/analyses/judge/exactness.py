"""Whether a statement tells all that its activation tells: of random inputs of which it is true, which lie inside.

The nearest inputs outside may all differ in what is said, while others, farther off, do not: so inputs of which a statement is
true are drawn from the whole corpus, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from inversionview.analyses.interpret.sides import Rows
from inversionview.analyses.judge.conditions import Condition
from inversionview.analyses.judge.evidence import Evidence, apart_rows, of_rows
from inversionview.analyses.judge.rulings import share
from inversionview.analyses.judge.subjects import Subject
from inversionview.bank.store import ActivationBank
from inversionview.core.information import Mean
from inversionview.corpora.naming import ALL

_INPUTS, _OCCURRENCES = 2**18, 2**15
"""So many rows of a bank are looked at; of natural text, whose windows are longer, fewer."""
_MOST = 400
"""Inputs that are measured, a random choice of those of which a statement is true."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The unseen inputs of a bank, without regard to any activation."""

    bank: ActivationBank
    gap: float

    @cached_property
    def inputs(self) -> Evidence:
        """The inputs, of odd number, one occurrence of each window; all count as outside here."""
        size = min(len(self.bank), _OCCURRENCES if self.bank.places.names == (ALL,) else _INPUTS)
        rows = apart_rows(self.bank, self.bank.half(1, size))
        return of_rows(self.bank, rows, np.zeros(len(rows), dtype=bool))

    def exactness(self, subject: Subject, condition: Condition) -> Mean | None:
        """Return the share of inputs inside among those of which a statement is true, what lies between ε and gap · ε left out.

        ``None``: there is no such input. The interval is Wilson's.
        """
        rows = self.inputs.rows[condition.of(self.inputs).holds]
        rows = rows[~np.isin(rows, subject.own)][:_MOST]  # the corpus is in random order
        near = stored(self.bank, subject, rows)
        inside, outside = int((near <= subject.epsilon).sum()), int((near > self.gap * subject.epsilon).sum())
        return share(inside, inside + outside) if inside + outside else None


def stored(bank: ActivationBank, subject: Subject, rows: Rows) -> npt.NDArray[np.float32]:
    """Return D of some rows of a bank, by the activations that it holds, ``[row]``."""
    site = subject.query.site
    metric = bank.model.metric(subject.distance, site)
    names = bank.manifest.positions if subject.names is None else subject.names
    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    if not len(rows):
        return nearest
    _, places = bank.located(rows, names)
    z = subject.query.z.float().cpu()
    for column, name in enumerate(names):
        distances = metric.between(z, bank.activations(site, name, rows)).numpy()
        nearest = np.minimum(nearest, np.where(places[:, column] >= 0, distances, np.inf))
    return nearest
