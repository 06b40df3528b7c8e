"""A bank as it is read: a manifest and shards, each shard a folder of plain ``.npy`` arrays that appears by one rename.

bank/manifest.json, statistics.safetensors where the distance needs some
bank/shard-00000/activations.npy  [site, position, row, d_model] fp16 or fp32; zeros where a row lacks the position
                 heads.npy        [head, position, row, d_head] the same of heads, in the coordinates of their frames; and of
                                  all other sites of so many numbers
                 of_N.npy         [site, position, row, N] the same of sites of another number of numbers
                 sums.npy         [site, position, row] a checksum of each of these vectors
                 places.npy       [position, row] index of the named position in the row's tokens, −1 where it lacks it
                 hashes.npy       [row] of the tokens
                 codes.npy, basis.npy, head_codes.npy, head_basis.npy, edges.npy, order.npy, scales.npy    the index of every
                                  [site, position], see ``index.py``; the first four in two as activations and heads are
                 checksums.json   of every block of these files, see ``blocks.py``; checked as they are read
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.bank.blocks import BLOCK
from inversionview.bank.manifest import Manifest, read_manifest
from inversionview.bank.shards import Shard
from inversionview.core.arrays import Ids
from inversionview.core.errors import BankError, UnknownPositionError, did_you_mean
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.naming import ALL
from inversionview.model.distances.metric import Metric
from inversionview.model.distances.registry import moments_needed
from inversionview.model.distances.statistics import FILE as STATISTICS
from inversionview.model.distances.statistics import Statistics
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site

_MAPPED_BYTES = 2**28
"""Files mapped at once while searching: what is mapped counts as the process' memory once it was read."""


class Harvested(NamedTuple):
    """What the model gives at places of a bank's rows."""

    marks: npt.NDArray[np.uint64]
    """Of each row, see ``Placing.marks``."""
    at: Int[np.ndarray, "row name"]
    """Where the places are in it; −1 where a row lacks one."""
    activations: list[Float[Tensor, "row name width"]]
    """For each site, in the coordinates in which the bank keeps them; of no meaning where a row lacks the place."""


class ActivationBank:
    """Activations of every site × place of a corpus.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
        model, inputs: the probed model it was harvested from, and its corpus.
        places: what its rows hold.
        shards: its shards.
        encoded: what ``bank.latents`` has opened of it.
    """

    def __init__(self, folder: Path, manifest: Manifest, model: ProbedModel, inputs: Inputs) -> None:
        self.folder, self.manifest, self.model, self.inputs = folder, manifest, model, inputs
        self.places = inputs.placed(manifest.positions)
        self.sites = [Site.parse(name) for name in manifest.sites]
        self.shards = [Shard(_shard_folder(folder, i), rows, manifest) for i, rows in enumerate(manifest.shards)]
        self._mapped, self._visits = 0, Lock()
        self.encoded: dict[Any, Any] = {}
        if manifest.statistics:
            model.learn(Statistics.load(folder / STATISTICS))

    def metric(self, site: int) -> Metric:
        """Return the distance that the index serves, at a site by its number."""
        return self.model.metric(self.manifest.distance, self.sites[site])

    def serves(self, distance: Distance, site: int) -> bool:
        """Return whether the index serves a distance at a site, by its number: one of the same name and the same statistics."""
        known, where = self.model.statistics, self.sites[site]
        own = known.mark(where.key) if known is not None and moments_needed([distance], where) else ""
        return (where.single or distance == self.manifest.distance) and own == self.manifest.statistics.get(where.short, "")

    def __len__(self) -> int:
        return self.manifest.inputs

    @classmethod
    def open(cls, folder: str | Path, model: ProbedModel, inputs: Inputs) -> ActivationBank:
        """Open a finished bank.

        Raises:
            BankError: there is none, it is not finished, or a shard is missing or truncated.
            MismatchError: it was made of another model or corpus.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        manifest.check(folder, model, inputs)
        count = -(-manifest.inputs // manifest.shard_rows)
        there = {path.name for path in folder.glob("shard-*") if path.is_dir()}
        lacking = next((i for i in range(count) if _shard_folder(folder, i).name not in there), None)
        if lacking is not None:
            raise BankError(
                f"The bank {folder} lacks {max(1, count - len(there))} of {count} shards, "
                f"{_shard_folder(folder, lacking).name} first: give the command that made it again, it goes on there."
            )
        bank = cls(folder, manifest, model, inputs)
        for shard in bank.shards:
            shard.check()
            bank.visit(BLOCK * len(manifest.layout(1)))
        return bank

    def damaged(self, report: Progress | None = None) -> list[str]:
        """Read the whole bank, its index for ``approximate`` searches left out; return which files are missing or damaged."""
        wrong = []
        for shard in self.shards:
            wrong += shard.damaged()
            if report is not None:
                report(shard.rows.stop / len(self), f"{shard.rows.stop:,} of {len(self):,} {self.manifest.unit}")
        return wrong

    def check(self, model: ProbedModel, inputs: Inputs) -> None:
        """Raise ``MismatchError`` unless this is a bank of that model and corpus."""
        self.manifest.check(self.folder, model, inputs)

    def position_numbers(self, at: str | Sequence[str] | None) -> list[int]:
        """Return which of the bank's positions ``at`` means; ``None`` is all of them.

        Raises:
            UnknownPositionError: the bank does not hold it.
        """
        names = self.manifest.positions
        asked = names if at is None else [at] if isinstance(at, str) else list(at)
        if not asked:
            raise UnknownPositionError(f"No position is named: give some of {', '.join(names)}.")
        for name in asked:
            if name not in names:
                raise UnknownPositionError(
                    f"The bank {self.folder} holds no position {name!r}, it holds {', '.join(names)}."
                    + did_you_mean(name, names)
                )
        return [names.index(name) for name in asked]

    def site_number(self, site: str | Site) -> int:
        """Return which of the bank's sites ``site`` is.

        Raises:
            UnknownSiteError: the bank does not hold it.
        """
        return self.sites.index(find_site(site, self.sites))

    def tokens(self, rows: npt.NDArray[np.int64]) -> Ids:
        """Return the tokens of some rows of the bank, ``[len(rows), max_length]``."""
        return self.places.tokens(rows)

    def located(self, rows: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Ids, Int[np.ndarray, "row name"]]:
        """Return the tokens of some rows, and where in each the places of these names are; −1 where it lacks one."""
        tokens, found = self.inputs.placed(names).read(rows)
        grid = (len(rows), len(names))
        return tokens[found.row.reshape(grid)[:, 0]], found.position.reshape(grid)

    def features(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Return the features of the inputs that some rows are, or of the occurrences, by their names."""
        if self.places.names != (ALL,):
            return self.inputs.features(self.tokens(rows))
        tokens, at = self.located(rows, self.manifest.positions)
        return self.inputs.features_at(tokens, at[:, 0])

    def half(self, parity: int, size: int | None = None) -> npt.NDArray[np.int64]:
        """Return the rows, or those of the first ``size``, whose inputs have an even number (0), or an odd one (1).

        So what hangs together in one input, as occurrences in a window do, is in one half.
        """
        rows = np.arange(len(self) if size is None else size)
        return np.flatnonzero(self.places.inputs_of(rows) % 2 == parity)

    def run(self, rows: npt.NDArray[np.int64], sites: Sequence[Site], names: Sequence[str] | None = None) -> Harvested:
        """Run the model at places of some rows of the bank; by default at those of all its positions."""
        places = self.places if names is None else self.inputs.placed(names)
        tokens, found = places.read(rows)
        positions, which = found.by_row(len(tokens))
        z = [part.flatten(0, 1) for part in self.model.harvest_compact(tokens, sites, positions.clip(min=0))]
        if not np.array_equal(which, np.arange(positions.size)):  # as they are with named positions
            z = [part[torch.from_numpy(which)] for part in z]
        grid = (len(rows), len(places.names))
        marks = places.marks(tokens, found)
        return Harvested(marks, found.position.reshape(grid), [part.unflatten(0, grid) for part in z])

    def activations(self, site: str | Site, position: str, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return stored activations, ``[len(rows), d_model]`` in fp32; zeros where a row lacks the position.

        What a site that it does not hold is read of will do as well.
        """
        if isinstance(site, Site) and site not in self.sites and site.base in self.sites and (part := site.part) is not None:
            return part.read(self.activations(site.base, position, rows))
        s, (p,) = self.site_number(site), self.position_numbers(position)
        out = torch.empty(len(rows), self.manifest.width(self.manifest.sites[s]))
        which = rows // self.manifest.shard_rows
        for number in np.unique(which):
            inside = which == number
            part = self.shards[number].gathered(s, p, rows[inside] - self.shards[number].rows.start)
            out[torch.from_numpy(inside)] = torch.from_numpy(part).float()
        frame = self.model.frame(self.sites[s])
        return out if frame is None else out @ frame

    def compacted(self, site: int, z: Float[Tensor, "row d_model"]) -> Float[Tensor, "row width"]:
        """Return activations of a site, by its number, in the coordinates in which the bank keeps them."""
        frame = self.model.frame(self.sites[site])
        return z.float().cpu() if frame is None else z.float().cpu() @ frame.T

    def rows_of(self, ids: Sequence[int], position: int) -> npt.NDArray[np.int64]:
        """Return the rows of the bank that are an input read at a position, or the same as that: they never count.

        Of no input there are none.
        """
        if not len(ids):
            return np.empty(0, dtype=np.int64)
        padded = np.full((1, max(self.inputs.max_length, len(ids))), self.inputs.pad)
        padded[0, : len(ids)] = ids
        wanted = self.places.mark(padded, position)
        found = []
        for shard in self.shards:
            hashes = shard.hashes()
            found.append(shard.rows.start + np.flatnonzero(hashes == wanted))
            self.visit(hashes.nbytes)
        return np.concatenate(found)

    def marks(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the mark of some rows: rows of one mark are alike, as ``Placing.marks`` has it."""
        out, which = np.empty(len(rows), dtype=np.uint64), rows // self.manifest.shard_rows
        for number in np.unique(which):
            inside = which == number
            out[inside] = self.shards[number].hashes()[rows[inside] - self.shards[number].rows.start]
        return out

    def visit(self, bytes_read: int) -> None:
        """Note that so much was read through maps, and unmap it when it is much: memory stays bounded.

        Vectors first, of which each search reads others; what is left of indices only if that is much by itself.
        """
        with self._visits:
            self._mapped += bytes_read
            if self._mapped > _MAPPED_BYTES:
                self._mapped = sum(each.release(self.manifest.vectors) for each in self.shards)
                if self._mapped > _MAPPED_BYTES * 3 // 4:
                    self._mapped = sum(each.release() for each in self.shards)


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"
