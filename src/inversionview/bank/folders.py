"""Where banks lie: in a run's folder, or in the user's cache; and which one a search takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inversionview.bank.manifest import read_manifest
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError
from inversionview.core.integrity import digest
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site


def cache() -> Path:
    """Return the folder of the user's cache where banks of this format lie."""
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "banks" / "format-4"


def cached(model: ProbedModel, inputs: Inputs, rows: int, sites: Sequence[Site] = (), distance: Distance = "cosine") -> Path:
    """Return where in the user's cache a bank of this model and corpus lies; of some ``sites`` only, if they are named."""
    named = [*(site.short for site in sites), *([] if distance == "cosine" else [distance])]
    some = "-" + digest(",".join(named).encode())[:8] if sites else ""
    return cache() / f"{model.fingerprint}-{inputs.fingerprint}-{rows}{some}"


def kept(model: ProbedModel, inputs: Inputs) -> list[Path]:
    """Return where banks of this model and corpus lie in the user's cache, finished or not, the largest first."""
    found = []
    for path in cached(model, inputs, 0).parent.glob(f"{model.fingerprint}-{inputs.fingerprint}-*"):
        try:
            manifest = read_manifest(path)
        except BankError:
            continue
        found.append((manifest.inputs, path))
    return [path for _, path in sorted(found, reverse=True)]


def begun(folder: Path) -> bool:
    """Return whether there is a bank in a folder, whatever its state: something lies there, or stands in its place."""
    try:
        return any(not path.name.startswith(".") for path in folder.iterdir())
    except FileNotFoundError:
        return folder.is_symlink()
    except OSError:
        return True


def check(folder: Path, model: ProbedModel, inputs: Inputs, report: Progress | None = None) -> ActivationBank:
    """Read a bank whole, and return it if all of it is as it was written.

    Raises:
        BankError: there is none, it is not finished, or damaged; all damaged files are named.
        MismatchError: it is another model's or corpus'.
    """
    manifest = read_manifest(folder)
    manifest.check(folder, model, inputs)
    bank = ActivationBank(folder, manifest, model, inputs)
    if wrong := bank.damaged(report):
        raise BankError(
            f"The bank {folder} is damaged ({', '.join(wrong)}): give the command that made it again, it makes these shards "
            "anew."
        )
    return bank


def find(
    model: ProbedModel,
    inputs: Inputs,
    folders: Sequence[Path] = (),
    sites: Sequence[Site] = (),
    usual: Sequence[Site] = (),
    least: int = 0,
    distance: Distance | None = None,
) -> ActivationBank | None:
    """Return the first finished bank of ``folders``, else the largest of this model and corpus in the user's cache.

    Where ``sites`` are named, only one that holds them; in the cache, else one that holds the ``usual`` ones. Where ``least``
    is, only one of so many rows; where ``distance`` is, one whose index serves it comes before larger ones.

    Raises:
        BankError, MismatchError: one of ``folders`` holds a bank that is damaged, unfinished or another model's.
    """
    for folder in folders:
        if begun(folder):
            own = ActivationBank.open(folder, model, inputs)
            if not set(sites) - set(own.sites):
                return own
    others, wanted = None, set(sites or usual)
    for path in kept(model, inputs):
        try:
            bank = ActivationBank.open(path, model, inputs)
        except BankError:  # being built by another process, or interrupted
            continue
        if not wanted - set(bank.sites) and len(bank) >= least:
            if distance in (None, bank.manifest.distance):
                return bank
            others = others or bank
    return others


def given(bank: ActivationBank | str | Path, model: ProbedModel, inputs: Inputs) -> ActivationBank:
    """Return a bank, or the one in a folder, itself a bank's or a run's.

    Raises:
        BankError, MismatchError: it is missing, damaged, unfinished or another model's.
    """
    if isinstance(bank, ActivationBank):
        bank.check(model, inputs)
        return bank
    path = Path(bank)
    return ActivationBank.open(path / "bank" if (path / "bank").is_dir() else path, model, inputs)
