"""Building a bank: the model is run over the corpus, and what it gives is written shard by shard.

A shard depends on nothing but the manifest and its number: an interrupted build goes on with the missing shards, and several
processes share the shards of one bank among them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inversionview.bank import index
from inversionview.bank.blocks import sums_of
from inversionview.bank.manifest import Manifest, Precision, check_positions, check_rows, read_manifest
from inversionview.bank.shards import Shard, write_checksums
from inversionview.bank.store import ActivationBank, Harvested
from inversionview.core.errors import BankError, MismatchError, SettingError
from inversionview.core.integrity import sealed
from inversionview.core.locks import clear, locked
from inversionview.core.memory import check_disk
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.core.storage import replacing, sweep, write_json
from inversionview.corpora.inputs import Inputs
from inversionview.model.distances.registry import moments_needed
from inversionview.model.distances.statistics import FILE as STATISTICS
from inversionview.model.distances.statistics import Statistics
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.attention import GATHERED
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site

_PASS_BYTES = 2**27
"""Activations in memory at once while a shard is written, in fp32."""


def harvest_bank(
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
        distance: which distance the index serves; statistics that it needs the model has learned before.
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
    if not 0 <= rank < world:
        raise SettingError(f"Of {world} processes one cannot have the rank {rank}: give a rank from 0, below the world's size.")
    if (Path(folder) / STATISTICS).exists():  # a bank that was begun goes on with its own
        model.learn(Statistics.load(Path(folder) / STATISTICS))
    folder, names, chosen = Path(folder), check_positions(inputs, positions), expand(sites, model.sites)
    manifest = Manifest(
        model=model.name,
        fingerprint=model.fingerprint,
        corpus=inputs.fingerprint,
        inputs=check_rows(rows, inputs.placed(names).size),
        sites=[site.short for site in chosen],
        positions=names,
        **_sizes(model, chosen),
        precision=precision,
        distance=distance,
        statistics=_marks(model, distance, chosen),
    )
    _claim(folder, manifest, model.statistics if manifest.statistics else None)
    bank = ActivationBank(folder, manifest, model, inputs)
    _write(bank, bank.shards[rank::world], report)
    return bank


def _sizes(model: ProbedModel, sites: Sequence[Site]) -> dict[str, Any]:
    """Return how many numbers the vectors of a bank have, and what tells the files apart that some are read through."""
    d_model, d_head, d_mlp, d_heads = model.shape.widths
    through = {site.short: part.fingerprint for site in sites if (part := site.part) is not None}
    gathered = any(site.kind == GATHERED.name for site in sites)
    neurons = any(site.family == "neurons" for site in sites)
    some = {"d_mlp": d_mlp if neurons else 0, "d_heads": d_heads if gathered else 0}
    return {"d_model": d_model, "d_head": d_head, **some, "through": through}


def _marks(model: ProbedModel, distance: Distance, sites: Sequence[Site]) -> dict[str, str]:
    """Return what tells the statistics of a distance apart at each site; raises where they are lacking."""
    for site in sites:
        model.metric(distance, site)
    known, needing = model.statistics, [site for site in sites if moments_needed([distance], site)]
    return {} if known is None else {site.short: known.mark(site.key) for site in needing}


def _claim(folder: Path, manifest: Manifest, statistics: Statistics | None) -> None:
    """Make the folder ready: clear what killed processes left, and write the manifest unless the same one is there already."""
    sweep(folder)
    clear(folder)
    if not (folder / "manifest.json").exists():
        check_disk(manifest.inputs, manifest.unit, manifest.row_bytes, folder)
        if statistics is not None:
            statistics.part([Site.parse(name).key for name in manifest.sites]).save(folder / STATISTICS)
        write_json(folder / "manifest.json", sealed(manifest.model_dump()))
        return
    was, wanted = read_manifest(folder).model_dump(), manifest.model_dump()
    changed = [key for key, value in wanted.items() if was[key] != value and key != "model"]
    if changed:
        raise MismatchError(
            f"{folder} holds a bank of another {', '.join(changed)} ({', '.join(f'{k} = {was[k]}' for k in changed)}): choose "
            "another folder, or delete that one."
        )


def _write(bank: ActivationBank, shards: Sequence[Shard], report: Progress | None) -> None:
    """Write those of some shards that are missing or damaged."""
    done, total = 0, sum(len(shard.rows) for shard in shards)
    for shard in shards:
        if not _whole(shard):
            with locked(bank.folder / f".{shard.folder.name}.lock", shard.folder):
                for written in _write_shard(shard, bank):
                    if report is not None:
                        report((done + written) / total, f"{done + written:,} of {total:,} {bank.manifest.unit}")
        done += len(shard.rows)


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
            files = {name: stack.enter_context(open(folder / f"{name}.npy", "r+b")) for name in manifest.vectors}
            for start, made in _passes(bank, shard.rows):
                stop = start + len(made.at)
                arrays["places"][:, start:stop] = made.at.T
                arrays["hashes"][start:stop] = made.marks
                for (name, slot), values in zip(manifest.slots, _stored(made, manifest, shard), strict=True):
                    _write_slices(files[name], offsets[name], layout[name], slot, start, values)
                yield stop
        _write_index(folder, bank, layout, offsets, arrays)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)
        write_checksums(folder, shard.rows, manifest)


def _passes(bank: ActivationBank, rows: range) -> Iterator[tuple[int, Harvested]]:
    """Yield a shard in passes that fit memory: the first row, and what the model gives from there on."""
    manifest = bank.manifest
    each = 4 * sum(map(manifest.width, manifest.sites)) * len(manifest.positions)
    step = max(1, min(16_384, _PASS_BYTES // each))
    for start in range(0, len(rows), step):
        yield start, bank.run(np.arange(rows.start + start, min(rows.start + start + step, rows.stop)), bank.sites)


def _stored(made: Harvested, manifest: Manifest, shard: Shard) -> Iterator[npt.NDArray[Any]]:
    """Yield the activations of each site as they are written, ``[position, row, width]``; zeros where a position is lacking."""
    z, lacking = made.activations, torch.from_numpy(made.at < 0)[:, :, None]
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
    bank: ActivationBank,
    layout: dict[str, tuple[tuple[int, ...], str]],
    offsets: dict[str, int],
    arrays: dict[str, npt.NDArray[Any]],
) -> None:
    """Read each slice back, as it was rounded, and write its index."""
    manifest, positions = bank.manifest, len(bank.manifest.positions)
    for number in range(len(manifest.sites) * positions):
        s, p = divmod(number, positions)
        name, slot = manifest.slots[s]
        own = slot * positions + p  # among the slices of its kind
        (_, _, rows, width), kind = layout[name]
        where = offsets[name] + own * rows * width * np.dtype(kind).itemsize
        stored = np.fromfile(folder / f"{name}.npy", kind, rows * width, offset=where).reshape(rows, width)
        made = index.build(stored, arrays["places"][p] >= 0, bank.metric(s))
        arrays["scales"][s, p] = made.scale, made.present
        parts: dict[str, tuple[int, npt.NDArray[Any]]] = {
            "sums": (number, sums_of(stored)),
            "edges": (number, made.edges),
            "order": (number, made.order),
            f"{manifest.vectors[name]}codes": (own, made.codes),
            f"{manifest.vectors[name]}basis": (own, made.basis),
        }
        for each, (at, values) in parts.items():
            with open(folder / f"{each}.npy", "r+b") as file:
                file.seek(offsets[each] + at * values.nbytes)
                file.write(values.data)
