"""Train a decoder of what precedes, from a run's bank of every token of natural text, into that run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from inversionview.bank import folders
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError, UnknownSiteError
from inversionview.decoder.training import TrainConfig, train
from inversionview.model.sites.patterns import expand, select
from inversionview.model.sites.site import Site
from inversionview.runs.train import LM_POOL, Reading, Watch, sparing
from inversionview.studies.load import load
from inversionview.studies.spec import read_spec
from inversionview.studies.study import Study

_POOL = 16
"""Batches in a pool: members of balls are cheap to find in a bank, and minutes pass between checkpoints."""
_MEMBERS = 4
"""Of each ball, trained on by a decoder from scratch; one around a language model sees few pairs, each of another ball."""
_QUERIES = 48
"""By which the good ratio is measured at each site: nothing depends on it but what is said of the training."""
_SCRATCH = {"width": 192, "pathway": 256, "rank": 192}
"""Sizes of a decoder from scratch: there is more to read from an activation of natural text than from one of a toy."""

_ALL, _NOBODY = Reading(), Watch()


def check_run(folder: Path, out: Path | None) -> None:
    """Refuse what is no run of natural text, and another folder to train into.

    Raises:
        UnknownStudyError: its ``study.json`` is damaged.
        SettingError: it is another kind of run, it has no bank, or ``out`` is not the run itself.
    """
    if read_spec(folder).inputs != "windows":
        raise SettingError(f"{folder} is no study: to go on with a run, give the command that began it.")
    if out is not None and out.expanduser().resolve() != folder.expanduser().resolve():
        raise SettingError(
            f"The decoder of a run of texts is trained into that run, {folder}, not into {out}: leave out --out."
        )
    if not folders.begun(folder / "bank"):
        raise SettingError(
            f"{folder} has no bank, from which a decoder of its texts is trained: build one with `inversionview bank --model M "
            f"--texts F --context 33 --out {folder}`."
        )


def train_run(folder: Path, config: TrainConfig, *, reading: Reading = _ALL, watch: Watch = _NOBODY, **options: Any) -> Study:
    """Train a decoder of what precedes every token of a run's texts; an interrupted training goes on.

    Args:
        folder: of a run that ``inversionview bank --model M --texts F --out RUN`` made.
        config: length and recipe; ε and distance become the run's.
        reading: which sites of the bank, by default all; and the device.
        watch: who is told.
        options: ``start``, ``base`` and ``tuning`` of ``train``, and fields of ``DecoderConfig``.

    Raises:
        SettingError: it is no run of texts with a bank.
        UnknownSiteError: the bank does not hold a site.
        BankError, MismatchError: the bank is unfinished, damaged or of another model; or another training stands there.
        LockedError: another process trains into it.
    """
    check_run(folder, None)
    with watch.alone(folder):
        study = load(folder, device=reading.device)
        bank = study.bank(folder)
        sites = select(_held(bank, reading.sites), reading.layers, reading.heads)
        base = bool(options.get("base"))
        config = replace(
            sparing(config, len(sites)),
            epsilon=study.spec.epsilon,
            distance=study.spec.distance,
            pool=min(config.pool, LM_POOL if base else _POOL),
            pairs_per_input=1,  # each prefix has one place
            members=config.members or (1 if base else _MEMBERS),
            queries=min(config.queries, _QUERIES),
            rebalance=0.0,
        )
        sizes = options if base else {**_SCRATCH, **options}
        train(
            study.model, study.inputs, [site.short for site in sites], config, folder,
            bank=bank, report=watch.report, accelerator=watch.accelerator, **sizes,
        )  # fmt: skip
    return study


def _held(bank: ActivationBank, patterns: str | None) -> list[Site]:
    """Return the sites of a bank that patterns mean, by default all.

    Raises:
        UnknownSiteError: the bank does not hold one, or the model has none of that name.
    """
    try:
        return expand(patterns or bank.sites, bank.sites)
    except UnknownSiteError as error:
        wanted = expand(patterns or bank.sites, bank.model.sites)  # a name that means nothing is told as everywhere
        held, lacking = bank.manifest.sites, [site.short for site in wanted if site not in bank.sites]
        raise UnknownSiteError(
            f"The bank {bank.folder} holds {', '.join(held)}, not {lacking[0]}: name sites that it holds, or harvest others "
            "into a run of their own with `inversionview bank`."
        ) from error
