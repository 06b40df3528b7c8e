"""How far a decoder's samples are from the preimage, as measured and kept beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from inversionview.core.errors import WeightsError
from inversionview.core.integrity import file_digest, read_sealed, sealed
from inversionview.core.scope import Distance
from inversionview.core.storage import write_json

FILE = "truth.json"
ENOUGH_HITS = 20
"""A query with fewer other inputs inside ε says too little about recall and proportions, and is left out of them."""
LEAST_COMPARED = 10
"""Of fewer queries a site's bias is not known."""


@dataclass(frozen=True)
class SiteTruth:
    """One site's decoder against the exact preimage; means over queries at random trained positions."""

    site: str
    good_ratio: float
    """Share of samples at temperature 1 inside ε."""
    recall: float | None
    """Share of the exact preimage whose log p(x ∣ z_q) exceeds the 95th percentile of the inputs outside."""
    divergence: dict[str, float]
    """For each feature KL(samples inside ε ‖ exact preimage) in bits; empty where no query could be compared."""
    floor: dict[str, float]
    """The same for as many draws from the exact preimage itself: what is left of it by chance alone."""
    queries: int
    compared: int
    """Queries with enough hits for recall and divergence."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row, for a data frame."""
        plain = {name: value for name, value in vars(self).items() if name not in ("divergence", "floor")}
        apart = {f"{name} {feature}": bits for name in ("divergence", "floor") for feature, bits in getattr(self, name).items()}
        return [{**plain, **apart}]


@dataclass(frozen=True)
class Truth:
    """What was measured of a decoder, as it is kept beside its weights."""

    decoder: str
    """Checksum of the weights."""
    epsilon: float
    distance: Distance
    positions: tuple[str, ...]
    """Named positions at which D may be reached, and queries were read."""
    inputs: int
    """Of the bank."""
    samples: int
    """Of each query, at temperature 1."""
    seed: int
    sites: tuple[SiteTruth, ...]

    def of(self, site: str) -> SiteTruth | None:
        """Return what is known of a site; ``None`` where too few queries could be compared."""
        return next((row for row in self.sites if row.site == site and row.compared >= LEAST_COMPARED and row.divergence), None)

    def keep(self, folder: Path) -> Path:
        """Write it beside a decoder's weights.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(folder / FILE, sealed(asdict(self)))
        return folder / FILE


def weights_of(folder: Path) -> str:
    """Return the checksum of a decoder's weights.

    Raises:
        OSError: there are none.
    """
    return file_digest(folder / "model.safetensors")


def kept_truth(folder: Path) -> Truth | None:
    """Return what was measured of the decoder in a folder; ``None`` where nothing was, or of other weights.

    Raises:
        WeightsError: the file is damaged.
    """
    path = folder / FILE
    try:
        found = TypeAdapter(Truth).validate_python(read_sealed(path))
        return found if found.decoder == weights_of(folder) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged ({str(error).splitlines()[0]}): delete it, or measure again with `inversionview truth`."
        ) from error
