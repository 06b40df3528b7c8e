"""Can the rows of a reading stand in for the query? Each row's activation, put in its place, and what the model then says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from inversionview.core.errors import SettingError
from inversionview.intervene.stand_in import nats
from inversionview.preimage.preimage import Preimage, StandIn
from inversionview.studies.study import Study


def with_nats(study: Study, made: Preimage) -> Preimage:
    """Return a reading whose rows say by how many nats they change what the model says next in the query's place.

    Args:
        study: that made it.
        made: the reading.

    Raises:
        InputError: the query is longer than the model can go on from.
    """
    if not len(made):
        return made
    query, pad = made.query, study.model.vocabulary.pad
    if query.textless:
        raise SettingError(
            "Whether others can stand in for a vector, its text would tell, and there is none: leave --nats out."
        )
    tokens = np.full((len(made), max(sample.position + 1 for sample in made)), pad)
    for row, sample in enumerate(made):
        tokens[row, : sample.position + 1] = sample.ids[: sample.position + 1]
    positions = np.array([[sample.position] for sample in made])
    z = study.model.harvest(tokens, [query.site], positions)[0, :, 0]
    found = nats(study.model, query.ids, query.position, query.site, z).tolist()
    samples = tuple(replace(sample, nats=each) for sample, each in zip(made, found, strict=True))
    inside = [each for sample, each in zip(made, found, strict=True) if sample.inside]
    known = made.stand_in or (StandIn(float(torch.tensor(inside).median()), len(inside)) if inside else None)
    return replace(made, samples=samples, stand_in=known)
