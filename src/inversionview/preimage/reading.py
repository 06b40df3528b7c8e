"""A preimage as the pages' JSON: with its place, and the features of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.page import contract, preimages
from inversionview.preimage.common import Told, background, common
from inversionview.preimage.preimage import Preimage, Query, Reader, Sample

_EXACT = {"corpus": 0, "walk": 1, "decoder": 2}


def identifier(study: Reader) -> str:
    """Return what addresses and readings call a study: its name, of a path the last part."""
    return Path(study.name).name


# -- readings ----------------------------------------------------------------------------------------------------------


def reading(
    study: Reader | None, preimage: Preimage, id: str | None = None, parts: Sequence[Preimage] = ()
) -> contract.Reading:
    """Return a preimage with all that a panel shows beside it; without its study no named positions and no features.

    Of a preimage that was merged, ``parts`` are those of single sources; features are told from the most exact of them.
    """
    exact = min(parts or [preimage], key=lambda part: _EXACT.get(part.source, len(_EXACT)))
    query = preimage.query
    names = {} if study is None or query.textless else study.positions.names(query.ids)
    tokens, ids = list(query.tokens), list(query.ids)
    place = contract.Place(
        text=query.text, tokens=tokens, ids=ids, position=query.position, names=names, bos=query.bos, vector=query.vector
    )
    return contract.Reading(
        version=1,
        study=id or (query.model if study is None else identifier(study)),
        place=place,
        site=query.site.short,
        preimage=preimages.Preimage.model_validate(preimage.to_json()),
        features=None if study is None else features(study, query, preimage.samples, common(replace(exact, study=study))),
    )


# -- features ---------------------------------------------------------------------------------------------------------


def features(study: Reader, query: Query, samples: Sequence[Sample], told: Told | None = None) -> contract.Features | None:
    """Return the features of the query and of samples, and what is told of all inside ε; ``None`` for a model alone.

    ``prior`` and ``entropy`` are over 20,000 random inputs of the study, of natural text over so many occurrences.
    """
    if study.bare or query.textless:  # which has no features of its own
        return None
    inputs = study.inputs
    tokens = padded([query.ids, *(sample.ids for sample in samples)], inputs)
    at = np.array([query.position, *(sample.position for sample in samples)])
    columns = {name: values.tolist() for name, values in inputs.features_at(tokens, at).items()}
    known, of_query = background(inputs), {name: values[0] for name, values in columns.items()}
    return contract.Features(
        names=list(columns),
        query=of_query,
        prior={name: float((values == of_query[name]).mean()) for name, values in known.columns.items()},
        entropy=known.entropy,
        values=[list(row) for row in zip(*columns.values(), strict=True)][1:],
        inside=None if told is None else _inside(told),
    )


def _inside(told: Told) -> contract.Inside:
    names = contract.FeatureInside.model_fields
    listed = [contract.FeatureInside(**{name: getattr(one, name) for name in names}) for one in told.features]
    return contract.Inside(**{**vars(told), "features": listed})


def padded(rows: Sequence[Sequence[int]], inputs: Inputs) -> Ids:
    """Return rows of ids, padded on the right, at least as wide as the longest input."""
    out = np.full((len(rows), max(inputs.max_length, *map(len, rows))), inputs.pad, dtype=np.int64)
    for i, ids in enumerate(rows):
        out[i, : len(ids)] = ids
    return out
