"""What a calibration found, for later readings: at each site the distance to take, and its ε for bits and nats.

It is kept as ``calibration.json``, in a run's folder or, of a model with texts, in the user's cache beside the statistics of
its corpus; ``analyses/calibrate`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inversionview.core.errors import SettingError
from inversionview.core.integrity import read_sealed, sealed
from inversionview.core.scope import Distance, check_distance
from inversionview.core.storage import write_json
from inversionview.studies.statistics import cached

if TYPE_CHECKING:
    from inversionview.studies.study import Study

FILE = "calibration.json"
UNITS = ("3bits", "7bits", "10bits", "1/1000", "0.01nat", "0.1nat", "1nat")
"""What an ε is given for: the share of random occurrences that lie inside, or what a member in place of the query changes."""
_FORMAT = 1


@dataclass(frozen=True)
class Advice:
    """What is advised at a site."""

    distance: Distance
    """That which foretells best at sites of this kind and depth."""
    epsilons: Mapping[str, float | None] = field(default_factory=dict)
    """For each of ``UNITS``, the median over queries; ``None`` where the corpus is too small to tell, or nothing is so near."""
    foretells: tuple[float, float, float] | None = None
    """How well D foretells there what a vector changes in the query's place: the rank correlation, and its interval."""


def calibration_path(study: Study) -> Path:
    """Return where a study's calibration is kept."""
    return (cached(study).parent if study.folder is None else study.folder) / FILE


def read_calibration(study: Study) -> dict[str, Advice]:
    """Return what is advised at each site that was calibrated, by its short name; nothing where there is no calibration.

    That of a run is taken first, then that in the user's cache; one of another model or corpus counts for nothing.
    """
    if study.bare:
        return {}
    for path in dict.fromkeys((calibration_path(study), cached(study).parent / FILE)):
        kept = read_kept(path, study)
        try:
            found = {site: _advice(each) for site, each in kept.get("advice", {}).items()}
        except (SettingError, TypeError, KeyError, AttributeError, ValueError):
            continue
        if found:
            return found
    return {}


def _advice(told: Mapping[str, Any]) -> Advice:
    value, low, high = (float(each) for each in told["foretells"])
    return Advice(check_distance(told["distance"]), {unit: told["epsilons"].get(unit) for unit in UNITS}, (value, low, high))


def read_kept(path: Path, study: Study) -> dict[str, Any]:
    """Return all that the file holds; nothing where there is none, or it is damaged or of another model or corpus."""
    try:
        found = read_sealed(path)
    except (OSError, ValueError):
        return {}
    return found if {key: found.get(key) for key in _marks(study)} == _marks(study) else {}


def keep(path: Path, study: Study, content: Mapping[str, Any]) -> None:
    """Write ``content`` and whose it is.

    Raises:
        StorageError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, sealed({**_marks(study), **content}))


def _marks(study: Study) -> dict[str, Any]:
    return {"format": _FORMAT, "model": study.model.fingerprint, "corpus": study.inputs.fingerprint}
