"""Text that the probed model writes itself: draws from p(x), the prior of walks, so that bits of both can be compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from inversionview.core.errors import InputError
from inversionview.core.progress import Progress
from inversionview.model.cache import KeysValues
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import control

_TOGETHER = 64
"""Windows that are written at once."""


@torch.no_grad()
def written(
    model: ProbedModel, count: int, context: int, *, seed: int = 0, report: Progress | None = None
) -> Iterator[list[list[int]]]:
    """Yield windows of ``context`` tokens that a model writes from BOS on, at temperature 1, special tokens left out.

    Args:
        model: the probed model.
        count: how many windows.
        context: their tokens, BOS counted.
        seed: the same seed gives the same windows.
        report: called with the share that is written.

    Yields:
        some windows at once, each with EOS at its end.

    Raises:
        InputError: texts are run without a BOS, so nothing says how they begin.
    """
    v = model.vocabulary
    if not v.front:
        raise InputError(f"{model.name} begins texts without a BOS, so it cannot write any from nothing: give --texts FILE.")
    banned = torch.zeros(model.shape.vocabulary)
    banned[[i for i in {*control(v), *range(v.size, len(banned))} if i < len(banned)]] = -torch.inf
    for start in range(0, count, _TOGETHER):
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, start)).generate_state(1)[0]))
        rows = torch.tensor(v.front).repeat(min(_TOGETHER, count - start), 1)
        cache: KeysValues | None = None
        while rows.size(1) < context:
            out = model.extend(rows if cache is None else rows[:, -1:], cache, None)
            assert out.logits is not None
            chances = (out.logits[:, -1].float().cpu() + banned).softmax(-1)
            rows = torch.cat([rows, torch.multinomial(chances, 1, generator=generator)], dim=1)
            cache = out.cache
            if report is not None:
                report((start + len(rows) * rows.size(1) / context) / count, f"{start:,} of {count:,} windows written")
        yield [[*row, v.eos] for row in rows.tolist()]
