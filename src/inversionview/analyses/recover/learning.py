"""The map from states to tokens that a study's recoveries use: from the cache, or learned from the text that is at hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np

from inversionview.analyses.recover.state_map import KeptMap, StateMap, embeddings_of, learned, random_windows
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, WeightsError
from inversionview.core.integrity import digest
from inversionview.core.progress import Progress
from inversionview.corpora.natural import speeches
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.records.texts import read_texts
from inversionview.studies.study import Study

TOKENS = 16_384
"""So many are learned from, where the vocabulary is large."""
_PER_TOKEN = 32
"""Else so many times as the vocabulary has tokens."""
_SHORT, _LONG = 32, 128
"""Tokens of the windows that are learned from, where the states are of a short text and of a long one."""
_FEWEST = 2048
"""Of text that its tokenizer can read less than so many tokens are no sample: random ones are taken."""
_SHORTEST, _STRIDE = 100, 7
"""Characters of a line of the packaged text that is learned from, and every how many lines one is."""

_IN_MEMORY: WeakKeyDictionary[ProbedModel, dict[str, StateMap]] = WeakKeyDictionary()
"""Maps by model and what they depend on; those of a model that was in memory are nowhere else."""


def maps_of(
    study: Study, sites: Sequence[Site], rows: int, report: Progress | None = None, seed: int = 0
) -> tuple[list[StateMap], float]:
    """Return the maps of some sites, and how many seconds it took to learn those that were not kept, in one pass.

    Args:
        study: its corpus is learned from; of a model alone the packaged text, or random tokens.
        sites: of which.
        rows: of the states: whether they are of a short text.
        report: called with the share that is done, and a note.
        seed: of random tokens.
    """
    model, began = study.model, time.perf_counter()
    length = min(_SHORT if rows <= _SHORT else _LONG, model.shape.max_length, model.shape.steady or model.shape.max_length)
    windows = windows_of(study, length, min(TOKENS, _PER_TOKEN * model.shape.vocabulary), seed)
    stated = {"model": model.fingerprint, "weights": str(model.embeddings().dtype), "windows": digest(windows.tobytes())}
    kept = {site: KeptMap({**stated, "site": site.key}, _IN_MEMORY.setdefault(model, {})) for site in sites}
    found = {site: made for site in sites if (made := kept[site].read()) is not None}
    lacking = [site for site in sites if site not in found]
    if not lacking:
        return [found[site] for site in sites], 0.0
    told = None if report is None else lambda share: report(share, "learning which tokens to try first")
    for site, made in zip(lacking, learned(model, windows, lacking, embeddings_of(model), told), strict=True):
        found[site] = made
        kept[site].write(made, on_disk=not model.in_memory)
    return [found[site] for site in sites], time.perf_counter() - began


def windows_of(study: Study, length: int, tokens: int, seed: int = 0) -> Ids:
    """Return texts of so many tokens in all, about, cut at ``length``: of the study's corpus, the packaged text, or random."""
    model, front = study.model, len(study.model.vocabulary.front)
    each = max(1, length - front)
    if not study.bare:
        numbers = np.arange(min(len(study.inputs), -(-tokens // each)))
        found: Ids = study.inputs.corpus(numbers)[:, :length]
        return found
    packaged = _packaged(model, length, tokens)
    return random_windows(model, tokens, length, seed) if packaged is None else packaged


def _packaged(model: ProbedModel, length: int, tokens: int) -> Ids | None:
    """Return windows of the packaged text; ``None`` where it is not installed, or not in the model's characters."""
    try:
        lines = (line for line in read_texts(speeches(), None) if len(line) >= _SHORTEST)
        some = list(islice(lines, 0, _STRIDE * 2 * tokens // length, _STRIDE))
    except (WeightsError, InputError):
        return None
    rows = [ids[:-1] for ids in model.vocabulary.encode_many(some, truncate=length + 1) if not isinstance(ids, InputError)]
    rows = rows[: -(-tokens // length)]
    if sum(map(len, rows)) < min(_FEWEST, tokens // 2):
        return None
    made = np.full((len(rows), length), model.vocabulary.pad, dtype=np.int64)
    for row, ids in zip(made, rows, strict=True):
        row[: len(ids)] = ids
    return made
