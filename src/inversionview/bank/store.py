"""The bank's files: a manifest and shards, each shard a folder of plain ``.npy`` arrays that appears by one rename.

    bank/manifest.json
    bank/shard-00000/activations.npy  [site, position, row, d_model] fp16 or fp32; zeros where a row lacks the position
                     heads.npy        [head, position, row, d_head] the same of heads, in the coordinates of their frames
                     sums.npy         [site, position, row] a checksum of each of these vectors
                     places.npy       [position, row] index of the named position in the row's tokens, −1 where it lacks it
                     hashes.npy       [row] of the tokens
                     sketches.npy, order.npy, basis.npy, scales.npy    the index of every [site, position], see ``index.py``
                     checksums.json   of every block of these files, see ``blocks.py``; checked as they are read

A shard depends on nothing but the manifest and its number: an interrupted build goes on with the shards that lack, and
several processes share the shards of one bank among them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from inversionview.bank import index
from inversionview.bank.blocks import BLOCK, sums_of
from inversionview.bank.shards import Shard, write_checksums
from inversionview.errors import (
    BankError,
    MismatchError,
    SettingError,
    UnknownPositionError,
    did_you_mean,
)
from inversionview.inputs import Ids, Inputs, mix
from inversionview.integrity import KEY, read_sealed, reason, sealed
from inversionview.locks import clear, locked
from inversionview.memory import check_disk
from inversionview.probed import ProbedModel
from inversionview.progress import Progress
from inversionview.ranges import whole
from inversionview.scope import Distance
from inversionview.sites import Site, expand, find_site
from inversionview.storage import replacing, sweep, write_json

Precision = Literal["float16", "float32"]
VECTORS = ("activations", "heads")
"""Arrays of vectors: of d_model numbers, and of d_head."""
SHARD_BYTES = 2**29
"""Activations in a shard, at most; with at most ``SHARD_ROWS`` rows."""
SHARD_ROWS = 2**18
MOST = 2**34
"""Inputs of a bank, at most."""
_PASS_BYTES = 2**25
"""Activations in memory at once while a shard is written, in fp32."""
_MAPPED_BYTES = 2**28
"""Files mapped at once while searching: what is mapped counts as the process' memory once it was read."""


class Manifest(BaseModel):
    """What ``manifest.json`` holds: all that fixes a bank's content."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format: Literal[3] = 3
    model: str
    fingerprint: str
    """Of the probed model's weights."""
    corpus: str
    """Fingerprint of the inputs."""
    inputs: int = Field(ge=1, le=MOST)
    """How many: the first so many of the corpus, in its fixed random order."""
    sites: list[str]
    positions: list[str]
    d_model: int = Field(ge=1)
    d_head: int = Field(ge=1)
    """Numbers of a head's output, kept in the coordinates of ``ProbedModel.frame``; d_model where heads are kept whole."""
    precision: Precision = "float16"
    distance: Distance = "euclidean"
    """Which distance the index serves; the other is searched without it."""

    @cached_property
    def shard_rows(self) -> int:
        """Rows of every shard but the last."""
        return int(min(SHARD_ROWS, max(256, 2 ** int(np.log2(max(1, SHARD_BYTES // self.row_bytes))))))

    @property
    def row_bytes(self) -> int:
        """Bytes of an input's activations."""
        return sum(map(self.width, self.sites)) * len(self.positions) * np.dtype(self.precision).itemsize

    def width(self, site: str) -> int:
        """Return how many numbers an activation of a site has."""
        return Site.parse(site).width(self.d_model, self.d_head)

    @cached_property
    def slots(self) -> list[tuple[str, int]]:
        """In which array each site lies, and where in it."""
        counts = {"activations": 0, "heads": 0}
        found = []
        for site in self.sites:
            name = "activations" if self.width(site) == self.d_model else "heads"
            found.append((name, counts[name]))
            counts[name] += 1
        return found

    @property
    def shards(self) -> list[range]:
        """The rows of every shard."""
        step = self.shard_rows
        return [range(start, min(start + step, self.inputs)) for start in range(0, self.inputs, step)]

    @cached_property
    def mark(self) -> str:
        """What tells this bank's shards from another's."""
        return str(sealed(self.model_dump(exclude={"model"}))[KEY])

    def layout(self, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and type of every array of a shard."""
        slices, width = (len(self.sites), len(self.positions)), index.WIDTH
        held = {"activations": self.d_model, "heads": self.d_head}
        counts = {name: sum(slot == name for slot, _ in self.slots) for name in held}
        vectors = {name: ((count, slices[1], rows, held[name]), self.precision) for name, count in counts.items() if count}
        return {
            **vectors,
            "sums": ((*slices, rows), "uint32"),
            "places": ((slices[1], rows), "int32"),
            "hashes": ((rows,), "uint64"),
            "sketches": ((*slices, rows, width), "float16"),
            "order": ((*slices, rows), "int32"),
            "basis": ((*slices, width, self.d_model), "float32"),
            "scales": ((*slices, 2), "float64"),
        }

    def check(self, folder: Path, model: ProbedModel, inputs: Inputs) -> None:
        """Hold the manifest of the bank in ``folder`` against model and corpus.

        Raises:
            MismatchError: it is of others.
            BankError: what it states cannot be of these.
        """
        if self.fingerprint != model.fingerprint:
            raise MismatchError(
                f"The bank {folder} was made of another probed model ({self.model}) than {model.name}: build one for this "
                "model with `inversionview bank`."
            )
        if self.corpus != inputs.fingerprint:
            raise MismatchError(f"The bank {folder} was made of another corpus: build one with `inversionview bank`.")
        known = {site.short for site in model.sites}
        names = inputs.named_positions(inputs.corpus(np.arange(1)))
        wrong = {
            "sites": not known.issuperset(self.sites),
            "positions": not set(names).issuperset(self.positions),
            "d_model": self.d_model != model.shape.d_model,
            "d_head": self.d_head != model.width(Site(0, "head", 0)),
            "inputs": self.inputs > (inputs.corpus_size or MOST),
        }
        if any(wrong.values()):
            said = ", ".join(key for key, bad in wrong.items() if bad)
            raise _damaged_manifest(folder, f"its {said} cannot be of this model and corpus")

    @field_validator("sites", "positions")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        if not names or len(set(names)) < len(names):
            raise ValueError("there must be at least one, and each once")
        return names


class ActivationBank:
    """Activations of every site × named position of a corpus.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
        model, inputs: the probed model it was harvested from, and its corpus.
        shards: its shards.
    """

    def __init__(self, folder: Path, manifest: Manifest, model: ProbedModel, inputs: Inputs) -> None:
        self.folder, self.manifest, self.model, self.inputs = folder, manifest, model, inputs
        self.sites = [Site.parse(name) for name in manifest.sites]
        self.shards = [Shard(_shard_folder(folder, i), rows, manifest) for i, rows in enumerate(manifest.shards)]
        self._mapped = 0

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
                report(shard.rows.stop / len(self), f"{shard.rows.stop:,} of {len(self):,} inputs")
        return wrong

    def check(self, model: ProbedModel, inputs: Inputs) -> None:
        """Raise ``MismatchError`` unless this is a bank of that model and corpus."""
        self.manifest.check(self.folder, model, inputs)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        model: ProbedModel,
        inputs: Inputs,
        *,
        rows: int,
        sites: str | Sequence[str | Site] = "*",
        positions: Sequence[str] | None = None,
        precision: Precision = "float16",
        distance: Distance = "euclidean",
        rank: int = 0,
        world: int = 1,
        report: Progress | None = None,
    ) -> ActivationBank:
        """Harvest a bank, or what lacks of it; ``rank`` of ``world`` processes writes every ``world``-th shard.

        Args:
            folder: where to; finished shards in it are kept.
            model: the probed model.
            inputs: the corpus.
            rows: how many inputs of it.
            sites: patterns.
            positions: named positions; by default all but END.
            precision: of the activations on disk.
            distance: which distance the index serves.
            rank: this process' number, from 0.
            world: how many processes build the bank.
            report: called after every pass with the share of the inputs that is done, and how many these are.

        Raises:
            SettingError: ``rows`` or ``rank`` is out of range.
            UnknownSiteError, UnknownPositionError: there is no such site or position.
            MismatchError: ``folder`` holds another bank.
            BankError: an activation is not finite, or too large for fp16.
            LockedError: another process writes one of the shards.
            StorageError: the disk is full; finished shards stand.
        """
        folder = Path(folder)
        if not 0 <= rank < world:
            raise SettingError(
                f"Of {world} processes one cannot have the rank {rank}: give a rank from 0, below the world's size."
            )
        check_rows(inputs, rows)
        manifest = Manifest(
            model=model.name, fingerprint=model.fingerprint, corpus=inputs.fingerprint, inputs=rows,
            sites=[s.short for s in expand(sites, model.sites)], positions=check_positions(inputs, positions),
            d_model=model.shape.d_model, d_head=model.width(Site(0, "head", 0)), precision=precision, distance=distance,
        )  # fmt: skip
        sweep(folder)
        clear(folder)
        if not (folder / "manifest.json").exists():
            check_disk(rows, "inputs", manifest.row_bytes, folder)
        _claim(folder, manifest)
        bank = cls(folder, manifest, model, inputs)
        mine = bank.shards[rank::world]
        done, total = 0, sum(len(shard.rows) for shard in mine)
        for shard in mine:
            if not _whole(shard):
                with locked(folder / f".{shard.folder.name}.lock", shard.folder):
                    for written in _write_shard(shard, bank):
                        if report is not None:
                            report((done + written) / total, f"{done + written:,} of {total:,} inputs")
            done += len(shard.rows)
        return bank

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
        return self.inputs.corpus(rows)

    def activations(self, site: str | Site, position: str, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return stored activations, ``[len(rows), d_model]`` in fp32; zeros where a row lacks the position."""
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

    def rows_of(self, ids: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return the rows of the bank that hold exactly this input."""
        padded = np.full((1, self.inputs.max_length), self.inputs.pad)
        if len(ids) > self.inputs.max_length:
            return np.empty(0, dtype=np.int64)
        padded[0, : len(ids)] = ids
        wanted = row_hashes(padded)[0]
        found = []
        for shard in self.shards:
            hashes = shard.hashes()
            found.append(shard.rows.start + np.flatnonzero(hashes == wanted))
            self.visit(hashes.nbytes)
        rows = np.concatenate(found)
        equal: npt.NDArray[np.int64] = rows[(self.tokens(rows) == padded).all(1)]
        return equal

    def visit(self, bytes_read: int) -> None:
        """Note that so much was read through maps, and unmap all when it is much: memory stays bounded."""
        self._mapped += bytes_read
        if self._mapped > _MAPPED_BYTES:
            for each in self.shards:
                each.release()
            self._mapped = 0


def row_hashes(tokens: Ids) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each row of tokens."""
    keys = (tokens * (1 << 16) + np.arange(tokens.shape[1])).astype(np.uint64)
    hashes: npt.NDArray[np.uint64] = np.bitwise_xor.reduce(mix(keys, salt=7), axis=1)
    return hashes


def read_manifest(folder: Path) -> Manifest:
    """Read a bank's manifest.

    Raises:
        BankError: there is none, it is damaged, or of an earlier version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        left = ", for it holds no manifest.json: delete what is left there, and" if folder.is_dir() else ":"
        raise BankError(f"There is no bank in {folder}{left} build one with `inversionview bank`.")
    try:
        held = read_sealed(path)
        if held.get("format") in (1, 2):
            raise BankError(
                f"The bank {folder} was made by an earlier version, without checksums: delete that folder and give the command "
                "that made it again."
            )
        return Manifest.model_validate(held)
    except (OSError, ValueError) as error:
        raise _damaged_manifest(folder, reason(error)) from error


def _damaged_manifest(folder: Path, why: str) -> BankError:
    return BankError(f"{folder / 'manifest.json'} is damaged ({why}): delete {folder} and build the bank again.")


def check_rows(inputs: Inputs, rows: int) -> int:
    """Return ``rows`` if the corpus has so many.

    Raises:
        SettingError: it has not, or ``rows`` is below 1.
    """
    most = inputs.corpus_size
    whole(rows, "The number of inputs of a bank", most=MOST)
    if most is not None and rows > most:
        raise SettingError(f"The corpus has {most:,} inputs: ask for 1 to {most:,}, not {rows:,}.")
    return rows


def check_positions(inputs: Inputs, positions: Sequence[str] | None) -> list[str]:
    """Return the named positions that a bank shall hold.

    Raises:
        UnknownPositionError: the inputs have no position of that name.
    """
    known = list(inputs.named_positions(inputs.corpus(np.arange(1))))
    if positions is None:
        return list(inputs.default_positions) or [name for name in known if name != "END"] or known
    if not positions:
        raise UnknownPositionError(f"No position is named: give some of {', '.join(known)}.")
    for name in positions:
        if name not in known:
            raise UnknownPositionError(
                f"The corpus has no named position {name!r}; it has {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return [name for name in known if name in positions]


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _claim(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, unless the same one is there already."""
    if not (folder / "manifest.json").exists():
        write_json(folder / "manifest.json", sealed(manifest.model_dump()))
        return
    was, wanted = read_manifest(folder).model_dump(), manifest.model_dump()
    changed = [key for key, value in wanted.items() if was[key] != value and key != "model"]
    if changed:
        raise MismatchError(
            f"{folder} holds a bank of another {', '.join(changed)} ({', '.join(f'{k} = {was[k]}' for k in changed)}): choose "
            "another folder, or delete that one."
        )


def _whole(shard: Shard) -> bool:
    """Return whether a shard is there and sound; what is left of another is deleted."""
    if not shard.damaged():
        return True
    shutil.rmtree(shard.folder, ignore_errors=True)
    return False


def _write_shard(shard: Shard, bank: ActivationBank) -> Iterator[int]:
    """Harvest one shard, activations pass by pass to disk, then the index slice by slice; yield the rows done so far."""
    manifest, rows = bank.manifest, len(shard.rows)
    layout = manifest.layout(rows)
    arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in layout.items() if name in ("places", "hashes", "scales")}
    with replacing(shard.folder) as folder:
        folder.mkdir()
        maps = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
            for name, (shape, kind) in layout.items()
            if name not in arrays
        }
        offsets = {name: each.offset for name, each in maps.items()}
        del maps  # written by offset, not through the map: what is mapped counts as memory
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(folder / f"{name}.npy", "r+b")) for name in VECTORS if name in layout}
            for start, tokens, z in _passes(bank, shard.rows):
                places = bank.inputs.named_positions(tokens)
                at = np.stack([places[name] for name in manifest.positions])  # (position, row)
                arrays["places"][:, start : start + len(tokens)] = at
                arrays["hashes"][start : start + len(tokens)] = row_hashes(tokens)
                lacking = torch.from_numpy(at.T < 0)[:, :, None]
                for (name, slot), values in zip(manifest.slots, _stored(z, lacking, manifest, shard), strict=True):
                    _write_slices(files[name], offsets[name], layout[name], slot, start, values)
                yield start + len(tokens)
        _write_index(folder, manifest, layout, offsets, arrays)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)
        write_checksums(folder, shard.rows, manifest)


def _passes(bank: ActivationBank, rows: range) -> Iterator[tuple[int, Ids, list[Tensor]]]:
    """Yield (first row, tokens, of each site ``[row, position, width]``) of a shard, in passes that fit memory."""
    manifest = bank.manifest
    each = 4 * sum(map(manifest.width, manifest.sites)) * len(manifest.positions)
    step = max(1, min(16_384, _PASS_BYTES // each))
    for start in range(0, len(rows), step):
        tokens = bank.inputs.corpus(np.arange(rows.start + start, min(rows.start + start + step, rows.stop)))
        places = bank.inputs.named_positions(tokens)
        at = np.stack([places[name] for name in manifest.positions], axis=1)  # (row, position)
        yield start, tokens, bank.model.harvest_compact(tokens, bank.sites, at.clip(min=0))


def _stored(
    z: Sequence[Float[Tensor, "row position width"]], lacking: Bool[Tensor, "row position 1"], manifest: Manifest, shard: Shard
) -> Iterator[npt.NDArray[Any]]:
    """Yield the activations of each site as they are written, ``[position, row, width]``; zeros where a position is lacking."""
    for part in z:
        kept = part.masked_fill(lacking, 0.0)
        values: npt.NDArray[Any] = kept.transpose(0, 1).to(getattr(torch, manifest.precision)).numpy()
        if not np.isfinite(values).all():
            if bool(kept.isfinite().all()):
                raise BankError(
                    f"Activations of {manifest.model} reach {float(kept.abs().max()):.3g}, beyond fp16: ask for --dtype fp32."
                )
            bad = [name for name, each in zip(manifest.sites, z, strict=True) if not bool(each.isfinite().all())]
            raise BankError(
                f"{manifest.model} gives NaN or infinite activations at {', '.join(bad)} among inputs {shard.rows.start} to "
                f"{shard.rows.stop - 1}: the model's weights are broken, or need another precision."
            )
        yield values


def _write_slices(
    file: Any, offset: int, layout: tuple[tuple[int, ...], str], slot: int, start: int, values: npt.NDArray[Any]
) -> None:
    (_, positions, rows, width), kind = layout
    row = width * np.dtype(kind).itemsize
    for p, part in enumerate(values):
        file.seek(offset + ((slot * positions + p) * rows + start) * row)
        file.write(np.ascontiguousarray(part).data)


def _write_index(
    folder: Path,
    manifest: Manifest,
    layout: dict[str, tuple[tuple[int, ...], str]],
    offsets: dict[str, int],
    arrays: dict[str, npt.NDArray[Any]],
) -> None:
    """Read each slice back, as it was rounded, and write its index."""
    positions = len(manifest.positions)
    for number in range(len(manifest.sites) * positions):
        s, p = divmod(number, positions)
        name, slot = manifest.slots[s]
        (_, _, rows, width), kind = layout[name]
        where = offsets[name] + (slot * positions + p) * rows * width * np.dtype(kind).itemsize
        stored = np.fromfile(folder / f"{name}.npy", kind, rows * width, offset=where).reshape(rows, width)
        x = torch.from_numpy(stored).float()
        if manifest.distance == "cosine":
            x = torch.nn.functional.normalize(x, dim=-1, eps=1e-30)
        made = index.build(x, torch.from_numpy(arrays["places"][p] >= 0))
        arrays["scales"][s, p] = made.scale, made.present
        basis = np.zeros((index.WIDTH, manifest.d_model), dtype=np.float32)
        basis[:, :width] = made.basis
        parts: dict[str, npt.NDArray[Any]] = {
            "sums": sums_of(stored),
            "sketches": made.sketches,
            "order": made.order,
            "basis": basis,
        }
        for name, values in parts.items():
            with open(folder / f"{name}.npy", "r+b") as file:
                file.seek(offsets[name] + number * values.nbytes)
                file.write(values.tobytes())
