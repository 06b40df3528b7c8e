"""What the heads of a circuit encode, read from exact preimages, and whether that is what their groups are for.

The rows of Huang et al. 2024, Table 2, for the heads of any model. The groups come from interventions and attention
(``heads``), the readings from preimages alone, so each checks the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inversionview.analyses.attribute.cases import Cases, answer_cases
from inversionview.analyses.attribute.measure import Entrances
from inversionview.analyses.feature_codes import Codes, codes_of
from inversionview.analyses.heads.result import FEATURES, POSITIONAL, CircuitRow, CircuitTable, Moved, NamedHead
from inversionview.analyses.inform.measure import place_information
from inversionview.analyses.site_positions import Place, places
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.information import entropy, shares
from inversionview.core.progress import Progress
from inversionview.core.scope import Own, Scope
from inversionview.corpora.inputs import Inputs
from inversionview.model.last_norm import last_norm


@dataclass(frozen=True)
class Expected:
    """What a head of a group should hold: at least a share of the entropy of one of some features, and little of others."""

    features: tuple[str, ...]
    least: float
    without: tuple[str, ...] = ()
    """Features of which it should hold less than ``least``."""

    def met(self, shares: dict[str, float]) -> bool:
        """Return whether shares of entropy are as expected."""
        held = max(shares[name] for name in self.features) >= self.least
        return held and all(shares[name] < self.least for name in self.without)


EXPECTED = {
    "name mover": Expected(("IO",), 0.9),
    "negative name mover": Expected(("IO",), 0.9),
    "copy suppression": Expected(("S",), 0.9),
    "S-inhibition": Expected(("S", *POSITIONAL), 0.5),
    "induction": Expected(POSITIONAL, 0.5, without=("S",)),
    "duplicate token": Expected(("S",), 0.5),
    "previous token": Expected(("S",), 0.5),
}
"""Huang et al. 2024, Table 2: name movers hold the IO name; S-inhibition heads the S name, its position relative to IO, or
both; induction head 5.5 where the last occurrence stands, not who it is; duplicate-token and previous-token heads the S name. A
head that suppresses S must know it. Names that are moved must be known in full, for other features half is enough."""
_ROWS = 1024
"""Activations that are unembedded together."""
_MOVES = {"name mover": 1, "negative name mover": -1}
"""Groups whose heads write the IO name, with or against it."""


def circuit_table(
    bank: ActivationBank,
    heads: Sequence[NamedHead],
    scope: Scope[Own],
    *,
    queries: int = 200,
    seed: int = 0,
    report: Progress | None = None,
) -> CircuitTable:
    """Read each head at its position.

    Args:
        bank: of the study's prompts, with these heads and positions.
        heads: to read.
        scope: how preimages are compared: as a rule against the same position of the bank's inputs.
        queries: at each position.
        seed: of the choice of queries.
        report: called with the share of the heads that is done, and a note.

    Raises:
        SettingError: ``queries`` is below 1, or the inputs lack a feature.
        UnknownSiteError, UnknownPositionError: the bank does not hold a head or its position.
    """
    codes, rows = codes_of(bank, FEATURES), dict[NamedHead, CircuitRow]()
    for position in dict.fromkeys(head.position for head in heads):
        there = {head.site: head for head in heads if head.position == position}
        for place in places(bank, list(there), [position], queries, seed, None):
            head = there[place.site.short]
            rows[head] = _row(codes, place, head, scope, seed)
            if report is not None:
                report(len(rows) / len(heads), f"{len(rows)} of {len(heads)} heads")
    found = tuple(rows[head] for head in heads)
    return CircuitTable(bank.model.name, len(bank), scope.epsilon, scope.distance, queries, seed, found)


def _row(codes: Codes, place: Place, head: NamedHead, scope: Scope[Own], seed: int) -> CircuitRow:
    total, cells = place_information(codes, place, scope, seed)
    shares = {cell.feature: cell.share for cell in cells}
    moved = _moved(codes, place, _MOVES[head.group], scope) if head.group in _MOVES else None
    read = shares if moved is None else {**shares, "IO": moved.share}
    expected = EXPECTED.get(head.group)
    agrees = expected.met(read) if expected is not None and cells else None
    return CircuitRow(head, total.bits, total.found, total.least, shares, moved, agrees)


def _moved(codes: Codes, place: Place, sign: int, scope: Scope[Own]) -> Moved:
    """Return what is told of IO where it is the name that the head itself moves."""
    io, s = codes.names.index("IO"), codes.names.index("S")
    io_names, s_names = codes.values[io][codes.codes[:, io]], codes.values[s][codes.codes[:, s]]
    moves = _moves_io(place, sign)
    prior, among = codes.prior[io], shares(codes.codes[moves, io], len(codes.prior[io]))
    told, told_among, same, either = [], [], [], []
    for row, hits in zip(place.rows.tolist(), place.preimages(scope), strict=True):
        near = hits.rows[hits.rows != row]
        if not moves[row] or not len(near):
            continue
        alike, own = io_names[near] == io_names[row], codes.codes[row, io]
        same.append(alike.mean())
        either.append((alike | (s_names[near] == io_names[row])).mean())
        told.append(_told(alike, float(prior[own])))
        if moves[near].any():
            told_among.append(_told(alike[moves[near]], float(among[own])))
    share, most = _mean(told) / entropy(prior)
    share_among, most_among = _mean(told_among) / (entropy(among) or np.nan)
    queries, plain = moves[place.rows], [float(np.mean(each)) if each else float("nan") for each in (same, either)]
    return Moved(int(queries.sum()), len(queries), share, most, plain[0], plain[1], share_among, most_among)


def _told(alike: npt.NDArray[np.bool_], prior: float) -> tuple[float, float]:
    """Return the bits that a preimage tells of a value, as ``Codes.known`` counts, and those if all of it had the value."""
    said, most = ((count + prior) / (len(alike) + 1) / prior for count in (alike.sum(), len(alike)))
    return float(np.log2(said)), float(np.log2(most))


def _mean(told: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    return np.mean(told, axis=0) if told else np.full(2, np.nan)


@torch.no_grad()
def _moves_io(place: Place, sign: int) -> npt.NDArray[np.bool_]:
    """Return in which of the bank's inputs IO is the name that the head promotes most (``sign`` −1: suppresses), of all."""
    bank, model = place.bank, place.bank.model
    tokens = bank.tokens(np.arange(len(bank)))
    io = bank.inputs.answer_of(tokens, "IO")
    names = torch.from_numpy(np.union1d(io, _subjects(bank.inputs, tokens))).to(model.device)
    nothing, moves = model.backend.unembed(torch.zeros(1, model.shape.d_model, device=model.device)), list[Tensor]()
    norm, entrances = last_norm(model), Entrances(model, [place.site.layer])
    for rows in np.array_split(np.arange(len(bank)), -(-len(bank) // _ROWS)):
        z = bank.activations(place.site, place.position, rows).to(model.device)
        v = entrances.entered(place.site, z)
        written = model.backend.unembed(norm.frozen(v, torch.ones_like(v[:, :1]))) - nothing
        moves.append(names[(sign * written[:, names]).argmax(1)].cpu())
    moved: npt.NDArray[np.bool_] = torch.cat(moves).numpy() == io
    return moved


def _subjects(inputs: Inputs, tokens: Ids) -> Ids:
    """Return the token at S2 of each row."""
    return np.take_along_axis(tokens, inputs.named_positions(tokens)["S2"][:, None], axis=1)[:, 0]


def subject_cases(inputs: Inputs, count: int, *, seed: int = 0) -> Cases:
    """Return what ``answer_cases`` does of IO, but with S for the word that is expected (or suppressed).

    Raises:
        InputError: some S is IO in none of the inputs: draw more.
    """
    cases = answer_cases(inputs, "IO", count, seed=seed)
    number = {token: i for i, forms in enumerate(cases.words) for token in forms}
    subjects = _subjects(inputs, cases.tokens).tolist()
    if any(token not in number for token in subjects):
        raise InputError(f"In {count} inputs some name is S but never IO: draw more.")
    return replace(cases, expected=np.array([number[token] for token in subjects]))
