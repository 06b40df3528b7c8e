"""Notes of a reading: what a reader must know of query, ε and comparison, and the rows do not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from inversionview.bank.store import ActivationBank
from inversionview.core.errors import UnknownPositionError
from inversionview.core.scope import Scope, epsilon_text
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.naming import ALL
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pairs import allowed_positions
from inversionview.model.distances.registry import REGISTRY
from inversionview.model.measure import Finder, distance_to
from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import Preimage, Query

MOST_INSIDE = 0.5
"""An ε that admits so large a share of random inputs tells next to nothing."""
MOST_ADMITTED = 0.05
"""Of natural text, an ε that admits more of all occurrences tells little of the query."""
NOTHING_IN_COMMON = 1.0
"""D of an activation of zero (Euclidean), or of one at right angles to the query's (cosine)."""
BOS_TELLS_NOTHING = "That is BOS, which every text has, so it tells nothing (0 bits): read another token."
_LIGHT, _RANDOM, _FEW = 10**7, 256, 32
"""Of models of so few parameters so many random inputs are measured, of larger ones only some."""


def outside_study(inputs: Inputs, query: Query, study: str) -> list[str]:
    """Return a note where the query is none of the study's inputs."""
    why = None if query.textless else inputs.why_not(query.ids)
    if why is None:
        return []
    return [
        f"{query.text!r} is no input of {study}: {why}. It was read all the same, but the model was not made for it, and what "
        "features of it are called may not fit."
    ]


def untrained_place(decoder: Decoder, inputs: Inputs, query: Query) -> list[str]:
    """Return a note where the decoder was trained at other positions than the query's."""
    if query.textless:
        return []
    allowed = allowed_positions(inputs, np.array([query.ids]), decoder.config.positions)
    if decoder.config.prefix and query.position >= decoder.config.prefix:
        return [
            f"The decoder was trained on tokens with fewer than {decoder.config.prefix} before them, BOS counted, but "
            f"{place(query)} has {query.position}: it writes shorter texts."
        ]
    if allowed[0, query.position]:
        return []
    names = decoder.config.positions or inputs.default_positions
    where = f": it was at {listed(names)}" if names else ""
    return [f"The decoder was not trained at {place(query)}{where}. Its samples may miss much of the preimage; walk there."]


def too_wide(made: Preimage, share: float | None, among: str) -> list[str]:
    """Return a note where ε admits nearly everything: so large a share of inputs, or what has nothing in common with z_q."""
    threshold = epsilon_text(made.epsilon, made.measure)
    if share is not None and share >= MOST_INSIDE:
        return [
            f"{threshold} admits {share:.0%} of {among}: the activation tells next to nothing of its input, or ε is too large."
        ]
    if made.epsilon >= NOTHING_IN_COMMON and not made.query.site.single and not REGISTRY[made.distance].centred:
        what = (
            "an activation of zero" if made.distance.startswith("euclidean") else "activations at right angles to the query's"
        )
        return [f"{threshold} admits {what}, which has nothing in common with it: choose a smaller ε."]
    return []


def random_share(model: ProbedModel, inputs: Inputs, query: Query, scope: Scope[Finder]) -> tuple[float, str]:
    """Return which share of some random inputs lies inside ε, and what these are called."""
    parameters = sum(weight.numel() for _, weight in model.backend.weights())
    rows = np.random.default_rng(37).integers(len(inputs), size=_RANDOM if parameters <= _LIGHT else _FEW)
    tokens = inputs.tokens(rows)
    z = query.z.expand(len(tokens), -1)
    _, nearest, _ = distance_to(model, torch.from_numpy(tokens), z, query.site, scope.distance, scope.at)
    return float((nearest <= scope.epsilon).double().mean()), f"{len(tokens)} random inputs"


def compared(bank: ActivationBank, query: Query, at: str | Sequence[str] | None) -> list[str]:
    """Return a note where a bank holds only some positions of inputs, so that D is the minimum over these alone.

    Raises:
        UnknownPositionError: the bank does not hold the query's own position, and no other is named in ``at``.
    """
    names = [bank.manifest.positions[number] for number in bank.position_numbers(at)]
    if names == [ALL]:
        if bank.inputs.every_token and query.bos and query.position == 0:
            raise UnknownPositionError(BOS_TELLS_NOTHING)
        return []
    if at is None and not query.textless and query.position not in _places(bank.inputs, query.ids, names):
        raise UnknownPositionError(_elsewhere(bank, query, names))
    row = bank.tokens(np.arange(1))[0]
    one = row[row != bank.inputs.pad].tolist()
    first, last = int(bank.inputs.bos is not None), len(one) - int(one[-1] == bank.inputs.eos)
    if at is None and set(range(first, last)) <= _places(bank.inputs, one, names):
        return []
    rest = "" if at is not None else ", which the bank holds, not at all positions"
    return [f"Compared at {listed(names)} only{rest}."]


def _places(inputs: Inputs, ids: Sequence[int], names: Sequence[str]) -> set[int]:
    """Return the indices of named positions in an input."""
    named = inputs.named_positions(np.array([list(ids)]))
    return {int(named[name][0]) for name in names} - {-1}


def _elsewhere(bank: ActivationBank, query: Query, names: Sequence[str]) -> str:
    """Return the sentence for a position that a bank does not hold."""
    held = f"The bank holds {listed(names)} alone, and {place(query)} is another place"
    if query.position == 0 and bank.inputs.bos is not None:
        return f"{held}: BOS, which every input has, so it tells nothing (0 bits); read --at {names[0]}."
    named = bank.inputs.named_positions(np.array([query.ids]))
    own = next((name for name, index in named.items() if index[0] == query.position and name != "END"), None)
    wider = f"build a bank that holds it (`inversionview bank --positions {own}`), " if own and own not in names else ""
    return (
        f"{held}: {wider}read it by a walk (`inversionview walk`, `read --source walk`), read --at {names[-1]}, or name what "
        f"to compare it with, --fixed {names[-1]}."
    )


def place(query: Query) -> str:
    """Return a query's position as a sentence says it: ``' bank' at #5``."""
    return f"{query.tokens[query.position]!r} at #{query.position}"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: ``S1+1, S2 and END``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
