"""The codes of a sparse dictionary on all rows of a bank, encoded once from the vectors that the bank holds.

    latents/SITE-DICTIONARY/manifest.json     what they are of
                            part-P-R/         of the bank's position P, from its row R on; see ``parts.py``
                            summary.npz       of each latent how often it fires, and the spread of its codes

They lie in the bank's folder or, where nothing can be written there, in the user's cache. A part is a function of the bank, the
dictionary and its number and appears by one rename, so that an encoding that was interrupted goes on with the parts that lack.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from inversionview.bank.latents.parts import CodesPart, Entries
from inversionview.bank.latents.summary import LatentSummary, read_summary, summarised
from inversionview.bank.measure import rounding
from inversionview.bank.shards import Shard
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.integrity import read_sealed, sealed
from inversionview.core.locks import locked
from inversionview.core.memory import check_disk
from inversionview.core.progress import Progress
from inversionview.core.storage import sweep, write_json
from inversionview.model.dictionaries.firing import Firing, SparseEncoder
from inversionview.model.distances.statistics import Statistics
from inversionview.model.sites.site import Site
from inversionview.model.sites.through import Latents

_ENTRIES = 2**24
"""Entries of a part in memory at once while it is written, about."""
_NUMBERS = 2**24
"""Codes in memory at once, 0 or not."""
_TRIED = 256
"""Rows that are encoded to see how many latents fire, and how long that takes."""
_OPEN = 200
"""Parts that stay mapped."""


def dictionary_of(site: Site) -> Latents | None:
    """Return the dictionary that a site's vector is read through, ``None`` where it is none's."""
    part = site.part if site.through.startswith("|") else None
    return part if isinstance(part, Latents) else None


def is_latent(site: Site) -> bool:
    """Return whether a site is one latent of a dictionary."""
    part = dictionary_of(site)
    return part is not None and part.latent is not None


def served(bank: ActivationBank, site: Site) -> bool:
    """Return whether a site is one latent whose codes can be had from the bank, which does not hold it itself."""
    if site in bank.sites or not site.through or site.base not in bank.sites:
        return False
    return is_latent(site)


class KeptCodes:
    """Codes of a dictionary on the rows of a bank, as they are read.

    Attributes:
        bank: whose rows.
        base: the site whose vectors are encoded.
        encoder: the dictionary.
        folder: where they lie.
        parts: of which they are made; empty until they are encoded.
    """

    def __init__(self, bank: ActivationBank, base: Site, part: Latents) -> None:
        self.bank, self.base, self.site = bank, base, bank.site_number(base)
        self.encoder = SparseEncoder(part.dictionary)
        self.frame = bank.model.frame(base)
        self.mark = sealed({"bank": bank.manifest.mark, "site": base.short, "dictionary": part.fingerprint})["checksum"]
        self.folder = _folder(bank, f"{base.short}-{part.fingerprint}", self.mark)
        self.parts: list[CodesPart] = []

    @cached_property
    def share(self) -> float:
        """By which share of itself each stored number may be off."""
        return rounding(self.bank.manifest.precision)

    @cached_property
    def summary(self) -> LatentSummary:
        """Of each latent how often it fires, and the spread of its codes."""
        return read_summary(self.folder, self.mark, self.parts, len(self.encoder.norms))

    @property
    def latents(self) -> int:
        """How many latents the dictionary has."""
        return self.encoder.dictionary.d_latents

    def entries(self, latent: int, positions: list[int]) -> Iterator[tuple[int, Entries]]:
        """Yield what is kept of a latent at some positions, part by part, with each the position's number.

        Raises:
            BankError: a part is damaged.
        """
        for part in self.parts:
            if part.position in positions:
                yield part.position, part.entries(latent)
                if len(opened := [each for each in self.parts if each.open]) > _OPEN:
                    for each in opened:
                        each.release()

    def teach(self, site: Site) -> None:
        """Let the bank's model know the spread of a latent over this bank, by which its codes are compared.

        Raises:
            SettingError: it never fires.
        """
        part = dictionary_of(site)
        assert part is not None
        assert part.latent is not None
        spread = torch.tensor([self.summary.spreads[part.latent]])
        if not float(spread) > 0:
            raise SettingError(
                f"{site} never fires in {self.summary.rows:,} {self.bank.manifest.unit} of the bank: nothing can be told of it."
            )
        model, corpus = self.bank.model, self.bank.inputs.fingerprint
        known = model.statistics if model.statistics is not None and model.statistics.fingerprint == corpus else None
        held = None if known is None else known.moments.get(site.key, {}).get("spread")
        if held is None or not torch.equal(held, spread):
            name, tokens = ("the bank", self.summary.rows) if known is None else (known.corpus, known.tokens)
            model.learn(Statistics(model.fingerprint, name, corpus, tokens, {site.key: {"spread": spread}}))

    # -- encoding

    @property
    def there(self) -> bool:
        """Whether they are encoded already; if so, they are opened."""
        if not self.parts and (rows := self._known_rows()):
            parts = self._planned(rows)
            if all(part.whole() for part in parts):
                self.parts = parts
        return bool(self.parts)

    def seconds(self) -> float:
        """Return about how long encoding takes, by a few rows."""
        return self._tried[1] * len(self.bank) * len(self.bank.manifest.positions)

    def encode(self, report: Progress | None = None) -> None:
        """Encode what lacks.

        Args:
            report: called after every batch with the share that is done, and how many rows these are.

        Raises:
            BankError: the bank is damaged.
            LockedError: another process is at it.
            StorageError: there is no room.
        """
        if self.there:
            return
        with locked(self.folder.parent / f".{self.folder.name}.lock", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            parts = self._planned(self._known_rows() or self._begun())
            done, total = 0, sum(len(part.rows) for part in parts)
            for part in parts:
                if not part.whole():
                    for upto in self._write(part):
                        if report is not None:
                            note = f"{done + upto:,} of {total:,} {self.bank.manifest.unit}"
                            report((done + upto) / total, note)
                done += len(part.rows)
            self.parts = parts
            summarised(self.folder, self.mark, parts, self.latents)

    def _known_rows(self) -> int:
        """Return how many rows a part has, as what was begun states; 0 where nothing was, or other codes."""
        try:
            stated = read_sealed(self.folder / "manifest.json")
            rows = int(stated["rows"])
            return rows if stated["mark"] == self.mark and 0 < rows <= self.bank.manifest.shard_rows else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _begun(self) -> int:
        """State how many rows a part shall have."""
        each = max(1.0, self._tried[0])
        rows = min(self.bank.manifest.shard_rows, 2 ** int(np.log2(max(256.0, _ENTRIES / each))))
        places = len(self.bank.manifest.positions)
        check_disk(len(self.bank), self.bank.manifest.unit, round(places * (8 * each + 4)), self.folder)
        write_json(self.folder / "manifest.json", sealed({"mark": self.mark, "rows": rows}))
        return rows

    def _planned(self, rows: int) -> list[CodesPart]:
        places, shards = range(len(self.bank.manifest.positions)), self.bank.shards
        starts = [(start, shard.rows.stop) for shard in shards for start in range(shard.rows.start, shard.rows.stop, rows)]
        return [
            CodesPart(self.folder / f"part-{place:02d}-{start:010d}", range(start, min(start + rows, stop)), place, self.mark)
            for place in places
            for start, stop in starts
        ]

    @cached_property
    def _tried(self) -> tuple[float, float]:
        """How many entries a row has, and how many seconds it takes to encode one."""
        shard, took = self.bank.shards[0], []
        some = shard.vectors(self.site, 0, _TRIED)
        for _ in range(2):  # the first one is slow
            began = time.perf_counter()
            found = self._fired(some)
            took.append(time.perf_counter() - began)
        return len(found.rows) / len(some), min(took) / len(some)

    def _fired(self, stored: npt.NDArray[np.floating]) -> Firing:
        x = torch.from_numpy(np.array(stored, dtype=np.float32))
        return self.encoder.fired(self.turned(x), self.share, plain=self.frame is None)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Return stored vectors as they are encoded: of a head not in the coordinates of its frame."""
        return x if self.frame is None else x @ self.frame

    def _write(self, part: CodesPart) -> Iterator[int]:
        """Encode one part; yield the rows done so far."""
        shard = self._shard(part)
        first = part.rows.start - shard.rows.start
        there = np.flatnonzero(shard.places(part.position)[first : first + len(part.rows)] >= 0)
        moved, found = np.full(len(part.rows), -1, dtype=np.float32), []
        step = max(16, _NUMBERS // self.latents)
        for start in range(0, len(there), step):
            own = there[start : start + step]
            x = torch.from_numpy(shard.vectors(self.site, part.position)[first + own].astype(np.float32))
            x = self.turned(x)
            made = self.encoder.fired(x, self.share, plain=self.frame is None)
            moved[own] = self.encoder.moved(x, self.share).numpy()
            found.append(made._replace(rows=torch.from_numpy(own)[made.rows].int(), latents=made.latents.int()))
            self.bank.visit(shard.mapped())
            yield len(part.rows) if start + step >= len(there) else int(own[-1]) + 1
        part.write(found or [_NONE], moved, self.latents)

    def _shard(self, part: CodesPart) -> Shard:
        return self.bank.shards[part.rows.start // self.bank.manifest.shard_rows]


_NONE = Firing(*(torch.zeros(0, dtype=kind) for kind in (torch.int32, torch.int32, torch.float32, torch.bool, torch.bool)))


def codes_of(bank: ActivationBank, site: Site, report: Progress | None = None) -> KeptCodes:
    """Return the codes of the dictionary that a site is read through, encoded if they are not yet.

    Raises:
        BankError: bank or codes are damaged.
        SettingError: it is read through no dictionary, or one of another width.
    """
    found = opened(bank, site)
    found.encode(report)
    return found


def opened(bank: ActivationBank, site: Site) -> KeptCodes:
    """Return the same, encoded or not; those of a bank that is kept are opened once."""
    part = dictionary_of(site)
    if part is None:
        raise SettingError(f"{site} names no dictionary: write for instance x5.post|sae:FOLDER.")
    site.check(bank.model.shape.widths)
    key = (site.base, part.fingerprint)
    if key not in bank.encoded:
        bank.encoded[key] = KeptCodes(bank, site.base, part)
    found: KeptCodes = bank.encoded[key]
    return found


def _folder(bank: ActivationBank, name: str, mark: str) -> Path:
    """Return where codes lie: in the bank's folder, unless nothing can be written there."""
    own = bank.folder / "latents" / name
    if own.exists() or os.access(bank.folder, os.W_OK):
        return own
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "latents" / "format-1" / mark
