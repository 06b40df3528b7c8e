"""What a walk goes over in a study: its inputs, with its moves and, where a decoder writes, one more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.markov.independent import IndependentKernel, Writer
from inversionview.markov.kernel import StudyKernel, Target
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.sources.walked import Ground

_FEW = {"chains": 32, "population": 256}
"""Settings where a decoder writes: each chain has to make some steps before all can agree, so few agree sooner."""


def study_ground(
    model: ProbedModel,
    inputs: Inputs,
    target: Target,
    ids: Sequence[int],
    starts: Sequence[Sequence[int]] = (),
    writer: Writer | None = None,
) -> Ground:
    """Return the inputs of a study, under its own distribution and with its moves, to which a ``writer`` adds one."""

    def measure(ids: Ids) -> tuple[npt.NDArray[np.float64], Ids]:
        z = target.z.expand(len(ids), -1)
        _, nearest, position = distance_to(model, torch.from_numpy(ids), z, target.site, target.kind, target.fixed)
        return nearest.double().numpy(), position.numpy()

    kernel = StudyKernel(inputs, measure) if writer is None else IndependentKernel(inputs, measure, writer)
    few = {} if writer is None else _FEW
    return Ground(kernel, tuple(ids), inputs.features, inputs.max_length, few, starts=starts)
