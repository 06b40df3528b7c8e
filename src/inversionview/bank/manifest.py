"""What a bank's ``manifest.json`` states: all that fixes its content, from the model to the layout of its arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from inversionview.bank.index import EDGES, PLANE, blocks_of, planes_of
from inversionview.core.errors import (
    BankError,
    MismatchError,
    SettingError,
    UnknownPositionError,
    UnknownSiteError,
    did_you_mean,
)
from inversionview.core.integrity import KEY, read_sealed, reason, sealed
from inversionview.core.ranges import whole
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.naming import ALL
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Widths
from inversionview.model.sites.site import Site, Sites

Precision = Literal["float16", "float32"]
SHARD_BYTES = 2**29
"""Activations in a shard, at most; with at most ``SHARD_ROWS`` rows."""
SHARD_ROWS = 2**18
MOST = 2**34
"""Inputs of a bank, at most."""


class Manifest(BaseModel):
    """What ``manifest.json`` holds: all that fixes a bank's content."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format: Literal[4] = 4
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
    """Numbers of a head's query, key, value or output, the last in the coordinates of ``ProbedModel.frame``."""
    through: dict[str, str] = {}
    """What tells the files apart that some sites are read through, by the sites' names."""
    d_mlp: int = Field(default=0, ge=0)
    """Neurons of an MLP, where the bank holds some."""
    d_heads: int = Field(default=0, ge=0)
    """Numbers of all heads of a layer, where the bank holds some such vectors."""
    precision: Precision = "float16"
    distance: Distance = "euclidean"
    """Which distance the index serves; others are searched without it."""
    statistics: dict[str, str] = {}
    """At each site what tells the statistics apart that this distance maps vectors by; empty where it needs none."""

    @cached_property
    def shard_rows(self) -> int:
        """Rows of every shard but the last."""
        return int(min(SHARD_ROWS, max(256, 2 ** int(np.log2(max(1, SHARD_BYTES // self.row_bytes))))))

    @property
    def row_bytes(self) -> int:
        """Bytes of an input's activations."""
        return sum(map(self.width, self.sites)) * len(self.positions) * np.dtype(self.precision).itemsize

    @property
    def unit(self) -> str:
        """What its rows are."""
        return "tokens" if self.positions == [ALL] else "inputs"

    def width(self, site: str) -> int:
        """Return how many numbers an activation of a site has."""
        return Site.parse(site).width(Widths(self.d_model, self.d_head, self.d_mlp, self.d_heads))

    @cached_property
    def widths(self) -> list[int]:
        """The same of each of the bank's sites."""
        return [self.width(site) for site in self.sites]

    @cached_property
    def slots(self) -> list[tuple[str, int]]:
        """In which array each site lies, and where in it."""
        counts: Counter[str] = Counter()
        found = []
        for width in self.widths:
            name = self._array(width)
            found.append((name, counts[name]))
            counts[name] += 1
        return found

    @cached_property
    def vectors(self) -> dict[str, str]:
        """Arrays of vectors, one for each width, and how the names of their indices begin."""
        begins = {"activations": "", "heads": "head_"}
        return {name: begins.get(name, f"{name}_") for name, _ in self.slots}

    def _array(self, width: int) -> str:
        return "activations" if width == self.d_model else "heads" if width == self.d_head else f"of_{width}"

    @property
    def shards(self) -> list[range]:
        """The rows of every shard."""
        step = self.shard_rows
        return [range(start, min(start + step, self.inputs)) for start in range(0, self.inputs, step)]

    @cached_property
    def mark(self) -> str:
        """What tells this bank's shards from another's."""
        unsaid = {"model"} | {name for name in ("statistics", "d_mlp", "d_heads", "through") if not getattr(self, name)}
        return str(sealed(self.model_dump(exclude=unsaid))[KEY])

    def layout(self, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and type of every array of a shard."""
        slices, blocks = (len(self.sites), len(self.positions)), blocks_of(rows)
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        widths = {self._array(width): width for width in self.widths}
        for name, prefix in self.vectors.items():
            planes, of_kind = planes_of(widths[name]), (sum(slot == name for slot, _ in self.slots), slices[1])
            found[name] = (*of_kind, rows, widths[name]), self.precision
            found[f"{prefix}codes"] = (*of_kind, blocks * (planes.near + planes.far), PLANE), "uint8"
            found[f"{prefix}basis"] = (*of_kind, 1 + planes.levels[-1], widths[name]), "float32"
        return {
            **found,
            "sums": ((*slices, rows), "uint32"),
            "places": ((slices[1], rows), "int32"),
            "hashes": ((rows,), "uint64"),
            "edges": ((*slices, blocks, EDGES), "float32"),
            "order": ((*slices, rows), "int32"),
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
        known, widths, names = model.sites, model.shape.widths, inputs.position_names
        wrong = {
            "sites": not all(_is_among(site, known) for site in self.sites),
            "positions": self.positions != [ALL] and not set(names).issuperset(self.positions),
            "through": not set(self.through) <= set(self.sites),
            "d_model": self.d_model != widths.d_model,
            "d_head": self.d_head != widths.d_head,
            "d_mlp": self.d_mlp not in (0, widths.d_mlp),
            "d_heads": self.d_heads not in (0, widths.d_heads),
            "inputs": self.inputs > (inputs.placed(self.positions).size or MOST),
        }
        if any(wrong.values()):
            said = ", ".join(key for key, bad in wrong.items() if bad)
            raise _damaged_manifest(folder, f"its {said} cannot be of this model and corpus")
        for name, mark in self.through.items():
            part = Site.parse(name).part
            if part is None or part.fingerprint != mark:
                raise MismatchError(f"What {name} is read through has changed since the bank {folder} was made: build it anew.")

    @field_validator("sites", "positions")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        if not names or len(set(names)) < len(names):
            raise ValueError("there must be at least one, and each once")
        return names


def _is_among(name: str, known: Sites) -> bool:
    """Return whether a text names one of a model's sites."""
    with suppress(UnknownSiteError):
        return Site.parse(name) in known
    return False


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
        if held.get("format") in (1, 2, 3):
            raise BankError(
                f"The bank {folder} was made by an earlier version, whose layout is another: delete that folder and give the "
                "command that made it again."
            )
        return Manifest.model_validate(held)
    except (OSError, ValueError) as error:
        raise _damaged_manifest(folder, reason(error)) from error


def _damaged_manifest(folder: Path, why: str) -> BankError:
    return BankError(f"{folder / 'manifest.json'} is damaged ({why}): delete {folder} and build the bank again.")


def check_rows(rows: int, most: int | None) -> int:
    """Return ``rows`` if the corpus has so many; ``most`` is how many it has, ``None`` where it has no end.

    Raises:
        SettingError: it has not, or ``rows`` is below 1.
    """
    whole(rows, "The number of inputs of a bank", most=MOST)
    if most is not None and rows > most:
        raise SettingError(f"The corpus has {most:,} inputs: ask for 1 to {most:,}, not {rows:,}.")
    return rows


def check_positions(inputs: Inputs, positions: Sequence[str] | None) -> list[str]:
    """Return the named positions that a bank shall hold.

    Raises:
        UnknownPositionError: the inputs have no position of that name.
    """
    if list(positions or ()) == [ALL] or (positions is None and inputs.every_token):
        return [ALL]
    known = inputs.position_names
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
