"""An approximate index for banks of tens of millions: faiss proposes rows, their exact distance decides.

What is found is inside ε for sure; what is missed is not known for a query, but measured when the index is made: its *recall*,
the share of the exact hits of random queries that it proposes, is kept beside it and shown with every result.
Needs ``pip install inversionview[index]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from inversionview.bank.manifest import MOST
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError, SettingError
from inversionview.core.integrity import file_digest, read_sealed, reason, sealed
from inversionview.core.storage import replacing, write_json
from inversionview.model.sites.site import Site

_FILE, _SUM = "index.faiss", "index.checksum"
_LISTED = 40
"""Rows of the training sample for each list of the inverted file, as faiss advises at least."""
_QUERIES = 50
_WANTED = 0.95
"""Recall up to which more and more cells are looked into."""


class Settings(BaseModel):
    """How an index was made, and how well it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lists: int = Field(ge=1)
    """Cells that the space is cut into."""
    probes: int = Field(ge=1)
    """Cells that a query looks into."""
    proposals: int = Field(ge=1, le=MOST)
    """Rows proposed to a query."""
    recall: float = Field(ge=0, le=1)
    """Share of the exact hits at one ε that are proposed, over 50 random queries."""


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise SettingError("The approximate index needs faiss: pip install 'inversionview[index]'.") from error
    return faiss


class ApproximateIndex:
    """An inverted file with product quantization over one site and position of a bank; by Euclidean distance."""

    def __init__(self, index: Any, settings: Settings) -> None:
        self.index, self.settings = index, settings
        index.nprobe = settings.probes

    def propose(self, queries: Float[Tensor, "query d_model"]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return pairs (query, row of the bank) that seem near, by row."""
        _, proposed = self.index.search(queries.float().numpy(), self.settings.proposals)
        which, column = np.nonzero(proposed >= 0)  # −1 where there are fewer
        rows = proposed[which, column]
        order = np.argsort(rows, kind="stable")
        return which[order], rows[order]


def folder_of(bank: ActivationBank, site: Site, position: int) -> Path:
    """Return where an index lies: beside the bank's shards."""
    return bank.folder / "faiss" / f"{site.short}@{bank.manifest.positions[position]}"


def load_or_build(bank: ActivationBank, site: Site, position: int, *, epsilon: float, seed: int = 0) -> ApproximateIndex:
    """Return the index of one site and position; the first call makes it, the first at an ε finds out what recall takes there.

    Raises:
        SettingError: faiss is not installed, or the bank's index is not of the Euclidean distance.
        BankError: the files are damaged.
    """
    faiss, folder = _faiss(), folder_of(bank, site, position)
    if bank.manifest.distance != "euclidean":
        raise SettingError("The approximate index knows the Euclidean distance only: search without it.")
    if not folder.exists():
        _build(bank, site, position, folder, seed)
    path = folder / f"settings-{epsilon:g}.json"
    try:
        if file_digest(folder / _FILE) != read_sealed(folder / _SUM)[_FILE]:
            raise ValueError(f"{_FILE} has another checksum")
        made = faiss.read_index(str(folder / _FILE))
        settings = Settings.model_validate(read_sealed(path)) if path.exists() else None
        if settings is not None and not settings.probes <= settings.lists == made.nlist:
            raise ValueError(f"{path.name} is of another index")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        why = reason(error)
        raise BankError(f"The approximate index in {folder} is damaged ({why}): delete that folder.") from error
    if settings is None:
        settings = _tuned(bank, site, position, made, epsilon, seed)
        write_json(path, sealed(settings.model_dump()))
    return ApproximateIndex(made, settings)


def _rows(bank: ActivationBank, name: str, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return random rows of a bank that have a position."""
    rows = np.random.default_rng(seed).permutation(len(bank))[:count]
    there: npt.NDArray[np.int64] = rows[bank.located(rows, [name])[1][:, 0] >= 0]
    return there


def _build(bank: ActivationBank, site: Site, position: int, folder: Path, seed: int) -> None:
    faiss, number = _faiss(), bank.site_number(site)
    d = bank.manifest.width(site.short)
    lists = int(max(1, min(65_536, 4 * len(bank) ** 0.5, len(bank) // _LISTED)))
    codes = max(c for c in (1, 2, 4, 8, 16, 32) if d % c == 0)
    made = faiss.index_factory(d, f"IVF{lists},PQ{codes}" if len(bank) >= 10_000 else f"IVF{lists},Flat")
    name = bank.manifest.positions[position]
    some = bank.activations(site, name, np.sort(_rows(bank, name, 2 * _LISTED * lists, seed)))
    made.train(bank.compacted(number, some).numpy())
    for shard in bank.shards:
        vectors, places = shard.vectors(number, position), shard.places(position)
        for start in range(0, len(vectors), 2**16):
            there = start + np.flatnonzero(places[start : start + 2**16] >= 0)
            made.add_with_ids(vectors[there].astype(np.float32), shard.rows.start + there)
            bank.visit(len(there) * d * 4)
    with replacing(folder) as temporary:
        temporary.mkdir()
        faiss.write_index(made, str(temporary / _FILE))
        write_json(temporary / _SUM, sealed({_FILE: file_digest(temporary / _FILE)}))


def _tuned(bank: ActivationBank, site: Site, position: int, made: Any, epsilon: float, seed: int) -> Settings:
    """Look into more and more cells until the recall at ε is high enough, or all are looked into."""
    name = bank.manifest.positions[position]
    z = bank.activations(site, name, _rows(bank, name, 20 * _QUERIES, seed + 1)[:_QUERIES])
    compact = bank.compacted(bank.site_number(site), z)
    exact = [hits.rows for hits in search(bank, site, z, epsilon=epsilon, at=name, verify=False)]
    first = max(1, made.nlist // 64)
    settings = Settings(lists=made.nlist, probes=first, proposals=min(len(bank), 2**14), recall=0.0)
    while True:
        settings = settings.model_copy(update={"recall": _recall(ApproximateIndex(made, settings), compact, exact)})
        if settings.recall >= _WANTED or settings.probes == settings.lists:
            return settings
        settings = settings.model_copy(update={"probes": min(settings.lists, 2 * settings.probes)})


def _recall(index: ApproximateIndex, z: Tensor, exact: list[npt.NDArray[np.int64]]) -> float:
    """Return the share of the exact hits that the index proposes, the mean over queries (each of which is a hit of its own)."""
    which, proposed = index.propose(z)
    return float(np.mean([np.isin(rows, proposed[which == i]).mean() for i, rows in enumerate(exact)]))
