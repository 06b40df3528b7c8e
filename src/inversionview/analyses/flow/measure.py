"""The flow of information to an answer token: which site at which position carries which feature, and from where.

Three measurements are put together. Feature information says what every site knows at every position; attention says where
each head looks; activation patching says whether that matters to the answer. Beginning with the heads at the position that
predicts the answer, each feature is followed back to the tokens (Huang et al. 2024, Fig. 31, which was drawn by hand).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inversionview.analyses.feature_codes import Codes, codes_of
from inversionview.analyses.flow.confirm import Confirming
from inversionview.analyses.flow.result import FLOOR, OTHERS, Edge, Flow, Kind, Node, stream
from inversionview.analyses.inform.measure import place_information
from inversionview.analyses.inform.result import Total
from inversionview.analyses.site_positions import places
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.information import entropy, shares
from inversionview.core.progress import Progress
from inversionview.core.scope import OWN, Own, Scope
from inversionview.corpora.contrasts import check_target, held_out
from inversionview.corpora.filters import Filter, feature_names, parse_filters, said
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import Activation
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_NEW = 0.25
"""A feature is named beside others if so large a share of its entropy is known that does not follow from them."""
_CERTAIN = 0.75
"""Features of which a larger share is known come first, the richest of them before the others."""
_SCOPE = Scope(at=OWN)


def trace_flow(
    bank: ActivationBank,
    positions: Positions,
    target: str | None = None,
    *,
    where: Sequence[str] = (),
    scope: Scope[Own] = _SCOPE,
    queries: int = 100,
    limit: int = 2000,
    least_attention: float = 0.1,
    least_effect: float = 0.05,
    study: str = "",
    seed: int = 0,
    report: Progress | None = None,
) -> Flow:
    """Return the flow of information to an answer token.

    Args:
        bank: of the probed model's activations at the study's named positions.
        positions: finds positions in inputs.
        target: name of the answer token; by default the first.
        where: filters on the inputs, such as ``"A1=1"``; original and contrast satisfy them.
        scope: how preimages are compared: as a rule at each position itself.
        queries: at each site and position.
        limit: inputs whose attention is averaged, and contrasts for each set of changes.
        least_attention: a head reads a position that has at least this mean weight.
        least_effect: see ``Flow.least_effect``.
        study: name of the study, for the record.
        seed: of all random choices.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: there is no such target or feature, nothing satisfies the filters, or a setting is out of range.
        InputError: the study declares no answers.
        UnknownSiteError, UnknownPositionError: the bank lacks a head, the residual stream or a position.
    """
    inputs, model = bank.inputs, bank.model
    name = check_target(inputs, target)
    if not 0 < least_attention <= 1 or not 0 < least_effect < 1:
        raise SettingError("The least attention and the least effect are shares: give numbers between 0 and 1.")
    filters = parse_filters(where, feature_names(inputs))
    tell = report or (lambda share, note: None)
    looks = Looks(model, held_out(inputs, filters, limit, seed), inputs, name, bank.manifest.positions)
    codes, used = _codes(bank, where, name, filters), looks.used(least_attention)
    known = _known(bank, codes, used, scope, queries, seed, lambda share: tell(0.75 * share, "information"))
    edges = list(_Trace(model, codes, known, looks, inputs.answers, name, least_attention).edges())
    confirming = Confirming(model, inputs, positions, name, filters, limit, seed)
    tested = list(confirming.tested(edges, least_effect, lambda share: tell(0.75 + 0.25 * share, "patching")))
    made = _found(bank, scope, looks, codes, known, tested)
    return Flow(
        study=study,
        target=name,
        where=tuple(map(str, filters)),
        pairs=confirming.counts,
        least_attention=least_attention,
        least_effect=least_effect,
        seed=seed,
        **made,
    )


def _found(
    bank: ActivationBank, scope: Scope[Own], looks: Looks, codes: Codes, known: Known, edges: Sequence[Edge]
) -> dict[str, Any]:
    """Return what is told of a flow but what was asked."""
    nodes = list(dict.fromkeys(end for edge in edges for end in (edge.source, edge.to)))
    return {
        "model": bank.model.name,
        "position": looks.position,
        "positions": _on_way(looks, nodes),
        "layers": len(bank.model.shape.heads),
        "epsilon": scope.epsilon,
        "distance": scope.distance,
        "inputs": len(bank) if codes.allowed is None else int(codes.allowed.sum()),
        "nodes": tuple(_node(node, known) for node in nodes),
        "edges": tuple(edges),
    }


def _codes(bank: ActivationBank, where: Sequence[str], target: str, filters: Sequence[Filter]) -> Codes:
    """Return the features of a bank's inputs; raise ``SettingError`` where the filters leave the target no choice."""
    codes = codes_of(bank, where=where)
    if target in feature_names(bank.inputs) and target not in codes.names:
        raise SettingError(f"{target} is the same in every input where {said(filters)}: there is nothing to tell.")
    return codes


def _on_way(looks: Looks, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the positions of nodes, in their order in the input."""
    on_way = {node.partition("@")[2] for node in nodes}
    return tuple(position for position in looks.names if position in on_way)


Known = dict[tuple[Site, str], tuple[Total, dict[str, float]]]
"""For a site at a position: all its bits, and those about each feature."""


def _node(name: str, known: Known) -> Node:
    site, _, position = name.partition("@")
    if not position:
        return Node(name, site, position, None)
    total = known[Site.parse(site), position][0]
    return Node(name, site, position, total.bits.value, total.least if total.bounded else None)


def _id(site: Site, position: str) -> str:
    return f"{site.short}@{position}"


class Looks:
    """Where each head looks, on average over some inputs.

    Attributes:
        names: of the positions up to the one that predicts the answer, in their order.
        position: that one.
    """

    def __init__(self, model: ProbedModel, tokens: Ids, inputs: Inputs, target: str, known: Sequence[str]) -> None:
        read = inputs.read_at(tokens, target)
        named = {n: at for n, at in inputs.named_positions(tokens).items() if n in known and ((at >= 0) & (at <= read)).all()}
        first: dict[bytes, str] = {}
        for n, at in named.items():  # END is another's second name
            first.setdefault(at.tobytes(), n)
        self._at = {n: named[n] for n in sorted(first.values(), key=lambda n: float(named[n].mean()))}
        if (read != self._at.get(first.get(read.tobytes(), ""), -1)).any():
            raise SettingError(f"The position that predicts {target} has no name: its activations are in no bank.")
        self.names, self.position = list(self._at), first[read.tobytes()]
        self.heads = model.shape.heads
        self._weights = [self._mean(model, tokens, layer, read) for layer in range(len(self.heads))]

    def _mean(self, model: ProbedModel, tokens: Ids, layer: int, read: Ids) -> npt.NDArray[np.float64]:
        """Return the mean weights, ``[head, query, key]`` over names, and at the end over all others but BOS."""
        columns = np.stack([self._at[n] for n in self.names], axis=1)
        total = np.zeros((self.heads[layer], len(self.names), len(self.names) + 1))
        for rows in np.array_split(np.arange(len(tokens)), max(1, len(tokens) // 256)):
            cut = torch.from_numpy(tokens[rows, : int(read[rows].max()) + 1])
            pattern, at = model.attention(cut, layer).double().cpu(), torch.from_numpy(columns[rows])
            each = torch.arange(len(rows))[:, None, None]
            mine = pattern[each, :, at[:, :, None], at[:, None, :]].sum(0)  # [query, key, head]
            bos = pattern[each[:, 0], :, at, torch.zeros_like(at)].sum(0)  # [query, head]
            bos *= int(model.vocabulary.bos is not None)
            total[:, :, :-1] += mine.permute(2, 0, 1).numpy()
            total[:, :, -1] += (len(rows) - mine.sum(1) - bos).T.numpy()
        return total / len(tokens)

    def of(self, head: Site, position: str) -> dict[str, float]:
        """Return the mean weight of each named position, and of all others but BOS, for a head at a position."""
        row = self._weights[head.layer][head.head or 0, self.names.index(position)]
        return dict(zip([*self.names, OTHERS], row.tolist(), strict=True))

    def used(self, least: float) -> dict[str, int]:
        """Return up to which level the residual stream matters at each position on a way to the answer."""
        used = {self.position: len(self.heads)}
        for layer in reversed(range(len(self.heads))):
            for position in [p for p, level in used.items() if level > layer]:
                for head in range(self.heads[layer]):
                    for source, weight in self.of(Site(layer, "head", head), position).items():
                        if weight >= least and source != OTHERS:
                            used[source] = max(used.get(source, 0), layer)
        return used


def _known(
    bank: ActivationBank,
    codes: Codes,
    used: Mapping[str, int],
    scope: Scope[Own],
    queries: int,
    seed: int,
    report: Callable[[float], None],
) -> Known:
    """Measure what the heads and the residual stream know at every position, up to the level that matters there."""
    known: Known = {}
    heads = {layer: [Site(layer, "head", h) for h in range(count)] for layer, count in enumerate(bank.model.shape.heads)}
    count = sum(1 + level + sum(len(heads[layer]) for layer in range(level)) for level in used.values())
    for position, level in used.items():
        sites = [stream(i) for i in range(level + 1)] + [head for layer in range(level) for head in heads[layer]]
        for place in places(bank, sites, [position], queries, seed, None, codes.allowed):
            total, cells = place_information(codes, place, scope, seed)
            known[place.site, position] = total, {cell.feature: cell.bits.value for cell in cells}
            report(len(known) / count)
    return known


# -- following features back ------------------------------------------------------------------------------------------


def telling(codes: Codes, bits: Mapping[str, float], answers: Sequence[str] = ()) -> list[str]:
    """Return the features that say what a site knows: none whose bits follow from those before it.

    Features that are known for the most part come first, the richest of them before the others; answers come last, for they are
    made of what the question holds. Of a feature φ the mutual
    information I(φ; those taken) follows from those before it; what is known beyond that must be a fair share of H(φ).
    """
    whole = {name: entropy(prior) for name, prior in zip(codes.names, codes.prior, strict=True)}
    share = {name: bits[name] / whole[name] for name in bits}
    order = sorted(bits, key=lambda n: (n in answers, share[n] < _CERTAIN, -bits[n] if share[n] >= _CERTAIN else -share[n]))
    counted = codes.codes if codes.allowed is None else codes.codes[codes.allowed]
    taken, joint = list[str](), np.zeros(len(counted), np.int64)
    for name in order:
        column = counted[:, codes.names.index(name)]
        new = share[name] - (_mutual(column, joint) / whole[name] if taken else 0.0)
        if new >= (_NEW if taken else FLOOR):
            taken.append(name)
            joint = np.unique(joint * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return taken


def _mutual(a: npt.NDArray[np.integer[Any]], b: npt.NDArray[np.integer[Any]]) -> float:
    """Return I(a; b) in bits of two columns of codes."""
    both = np.unique(b.astype(np.int64) * (int(a.max()) + 1) + a, return_inverse=True)[1]
    h = [entropy(shares(column, int(column.max()) + 1)) for column in (a, b, both)]
    return h[0] + h[1] - h[2]


class _Trace:
    """Follows features from the heads where the answer is predicted back to the tokens."""

    def __init__(
        self, model: ProbedModel, codes: Codes, known: Known, looks: Looks, answers: Sequence[str], target: str, least: float
    ) -> None:
        self.codes, self.known, self.looks, self.answers, self.target, self.least = codes, known, looks, answers, target, least
        self.heads = model.shape.heads
        self.whole = {name: entropy(prior) for name, prior in zip(codes.names, codes.prior, strict=True)}
        self._seen: set[tuple[Site, str, str]] = set()

    def edges(self) -> Iterator[Edge]:
        """Yield every edge once, from the answer back."""
        end, here = len(self.heads), self.looks.position
        if self.target in self.whole:
            bits, via = self._bits(stream(end), here, self.target), Activation(Site(end - 1, "post"), here)
            yield self._edge("answer", _id(stream(end), here), self.target, self.target, bits, via)
        for layer in reversed(range(end)):
            for number in range(self.heads[layer]):
                head = Site(layer, "head", number)
                for feature in self._telling(head, here):
                    yield from self._head(head, here, feature)
        for feature in self._telling(stream(0), here):
            yield from self._keep(end, here, feature)

    def _telling(self, site: Site, position: str) -> list[str]:
        return telling(self.codes, self.known[site, position][1], self.answers)

    def _bits(self, site: Site, position: str, feature: str) -> float:
        return self.known[site, position][1].get(feature, 0.0)

    def _edge(
        self, kind: Kind, source: str, to: str, feature: str, bits: float, via: Activation, attention: float | None = None
    ) -> Edge:
        return Edge(kind, source, to, feature, bits, bits / self.whole[feature], str(via), attention)

    def _enough(self, feature: str, bits: float) -> bool:
        return bits >= FLOOR * self.whole[feature]

    def _head(self, head: Site, position: str, feature: str) -> Iterator[Edge]:
        """Yield how a head comes by a feature, and what it writes."""
        if (head, position, feature) in self._seen:
            return
        self._seen.add((head, position, feature))
        own, via = self._bits(head, position, feature), Activation(head, position)
        yield self._edge("write", _id(head, position), _id(stream(head.layer + 1), position), feature, own, via)
        for source, weight in self.looks.of(head, position).items():
            if weight < self.least:
                continue
            if source == OTHERS:
                yield self._edge("read", OTHERS, _id(head, position), feature, own, via, weight)
                continue
            bits = min(own, self._bits(stream(head.layer), source, feature))
            if self._enough(feature, bits):
                yield self._edge("read", _id(stream(head.layer), source), _id(head, position), feature, bits, via, weight)
                yield from self._stream(head.layer, source, feature)

    def _stream(self, level: int, position: str, feature: str) -> Iterator[Edge]:
        """Yield how the residual stream at a level comes by a feature."""
        yield from self._keep(level, position, feature)
        for layer in range(level):
            for number in range(self.heads[layer]):
                yield from self._head(Site(layer, "head", number), position, feature)

    def _keep(self, level: int, position: str, feature: str) -> Iterator[Edge]:
        """Yield the stream's own way up to a level, where both ends of a step know the feature."""
        for layer in range(level):
            if (stream(layer + 1), position, feature) in self._seen:
                continue
            bits = min(self._bits(stream(i), position, feature) for i in (layer, layer + 1))
            if self._enough(feature, bits):
                self._seen.add((stream(layer + 1), position, feature))
                via = Activation(stream(layer + 1), position)
                yield self._edge("keep", _id(stream(layer), position), _id(stream(layer + 1), position), feature, bits, via)
