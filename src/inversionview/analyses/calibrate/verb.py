"""``calibrate``: which distance foretells that activations can stand in for one another, and what ε means, at every site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.calibrate.measure import Chosen, choose, table
from inversionview.analyses.calibrate.result import Calibration
from inversionview.analyses.calibrate.sample import Occurrences
from inversionview.analyses.calibrate.summary import advice, groups_of, rows_of
from inversionview.core.errors import SettingError
from inversionview.core.memory import available
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import DISTANCES, Distance
from inversionview.intervene.stand_in import PatchedToken
from inversionview.model.distances.metric import Metric
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site
from inversionview.studies.accepting import accepting
from inversionview.studies.calibrated import calibration_path, keep, read_kept
from inversionview.studies.statistics import corpus_name, learn
from inversionview.studies.study import Study

OCCURRENCES = 50_000
"""Of the corpus, where no number is given."""
_MEMORY = 2**31
"""Bytes of activations at once, at most; more sites are taken in turns."""
_TOGETHER = 8
"""Sites that are measured, and kept, together."""
_LEAST = 3
"""Different activations without which nothing can be ranked."""


@accepting
def calibrate(
    study: Study,
    *,
    sites: str | Sequence[str | Site] | None = None,
    queries: int = 40,
    partners: int = 20,
    occurrences: int = OCCURRENCES,
    seed: int = 0,
    report: Progress | None = None,
) -> Calibration:
    """Return how well every distance foretells at every site that one activation can stand in for another, and what ε means.

    What is found is kept in the run's folder, or in the user's cache, site by site: an interrupted calibration goes on there,
    and readings take their defaults from it, see ``studies.calibrated``.

    Args:
        study: from ``load``; with natural text or a study's own inputs.
        sites: patterns; by default about twenty, of all kinds and depths.
        queries: random occurrences, each of another input; the same at all sites.
        partners: occurrences of other inputs, near and far, that are put in place of a query.
        occurrences: of the corpus, among which partners are chosen and shares counted.
        seed: of the choice of queries, and of the intervals.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: a number is out of range, the corpus is too small, or nothing can be told at any of the sites.
        UnknownSiteError: there is no such site.
        InputError: it is a model alone.
    """
    settings = {
        "queries": whole(queries, "The number of queries", 2),
        "partners": whole(partners, "The number of partners", _LEAST),
        "occurrences": whole(occurrences, "The number of occurrences"),
        "seed": check_seed(seed),
    }
    model = study.model
    chosen = usual(model.sites) if sites is None else expand(sites, model.sites)
    _ = study.inputs  # of a model alone an error
    work = _Work(study, settings, report)
    found = work.run(chosen)
    told = {site.short: found[site.short]["distances"] for site in chosen if "distances" in found[site.short]}
    left_out = {site.short: found[site.short]["why"] for site in chosen if "why" in found[site.short]}
    if not told:
        raise SettingError(next(iter(left_out.values())))
    first = found[next(iter(told))]
    rows = [row for site, each in told.items() for row in rows_of(site, each, seed)]
    groups = groups_of(told, len(model.shape.heads), seed)
    result = Calibration(
        study.name, corpus_name(study), first["occurrences"], first["queries"], partners, seed, tuple(rows), tuple(groups),
        left_out,
    )  # fmt: skip
    work.keep(advice(rows, {site: result.advised(site) for site in told}))
    return result


def usual(sites: Sequence[Site]) -> list[Site]:
    """Return about twenty of a model's sites: of each kind some, from the first layer to the last."""
    layers = sorted({site.layer for site in sites})
    chosen: set[Site] = set()
    for kind, count in (("post", 7), ("mid", 4), ("mlp", 4), ("head", 5)):
        for i, layer in enumerate(np.linspace(layers[0], layers[-1], count).round().astype(int)):
            own = [site for site in sites if site.kind == kind and site.layer == layer]
            chosen.update(own[i % len(own) :][:1] if own else [])
    return [site for site in sites if site in chosen]


class _Work:
    """A calibration as it goes: what is done is kept."""

    def __init__(self, study: Study, settings: dict[str, int], report: Progress | None) -> None:
        self.study, self.settings, self.report = study, settings, report
        self.path: Path = calibration_path(study)
        kept = read_kept(self.path, study)
        self.all: dict[str, Any] = kept.get("sites", {})
        self.advice: dict[str, Any] = kept.get("advice", {})

    def run(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Return what was found at each of the sites, by their names: ``distances``, or ``why`` there is nothing."""
        left = [site for site in sites if self.all.get(site.short, {}).get("settings") != self.settings]
        if left:
            self._measure(left)
        return self.all

    def keep(self, advised: dict[str, Any]) -> None:
        """Keep what is advised at some sites."""
        self.advice = {**self.advice, **advised}
        keep(self.path, self.study, {"advice": self.advice, "sites": self.all})

    def _told(self, share: float, note: str) -> None:
        if self.report is not None:
            self.report(share, note)

    def _measure(self, sites: list[Site]) -> None:
        study, model, partners = self.study, self.study.model, self.settings["partners"]
        sample = Occurrences.of(study, self.settings["occurrences"])
        queries = sample.queries(self.settings["queries"], self.settings["seed"])
        others = np.stack([sample.others(query) for query in queries])
        if (least := int(others.sum(1).min())) < partners:
            raise SettingError(
                f"A query has {least} occurrences of other texts to be compared with, fewer than the {partners} partners it "
                "needs: give more text, or fewer --partners."
            )
        began = 0.15 if model.statistics is None else 0.0
        learn(study, DISTANCES, sites, lambda share, note: self._told(began * share, note))
        places = [PatchedToken(model, sample.ids(int(query)), int(sample.positions[query])) for query in queries]
        size: dict[str, Any] = {"occurrences": len(sample), "queries": len(queries), "settings": self.settings}
        if model.statistics is not None:
            size["statistics"] = model.statistics.to_json()
        done = 0
        for group in self._turns(sites, len(sample)):
            start, part = began + (1 - began) * done / len(sites), (1 - began) * len(group) / len(sites)
            z = sample.activations(model, group, lambda share: self._told(start + 0.5 * part * share, "activations"))  # noqa: B023
            for first in range(0, len(group), _TOGETHER):
                some = group[first : first + _TOGETHER]
                for site, found in self._sites(some, z[first : first + _TOGETHER], queries, others, places):
                    self.all[site.short] = {**size, **found}
                done += len(some)
                keep(self.path, study, {"advice": self.advice, "sites": self.all})
                self._told(start + part * (0.5 + 0.5 * (first + len(some)) / len(group)), f"{done} of {len(sites)} sites")

    def _turns(self, sites: list[Site], occurrences: int) -> Iterator[list[Site]]:
        """Yield sites whose activations fit in memory together."""
        room, waiting = min(_MEMORY, int(0.4 * available())), list[Site]()
        each = {site: 4 * occurrences * self.study.model.width(site) for site in sites}
        for site in sites:
            if waiting and sum(each[s] for s in [*waiting, site]) > room:
                yield waiting
                waiting = []
            waiting.append(site)
        yield waiting

    def _sites(
        self,
        sites: Sequence[Site],
        z: Sequence[Float[Tensor, "occurrence width"]],
        queries: np.ndarray[Any, Any],
        others: np.ndarray[Any, Any],
        places: Sequence[PatchedToken],
    ) -> Iterator[tuple[Site, dict[str, Any]]]:
        """Yield what was found at each of some sites."""
        model, chosen = self.study.model, dict[Site, tuple[Chosen, Tensor]]()
        for site, own in zip(sites, z, strict=True):
            try:
                metrics = self._metrics(site, own)
            except SettingError as error:
                yield site, {"why": str(error)}
                continue
            picked = choose(metrics, own[torch.from_numpy(queries)], own, others, self.settings["partners"])
            values, frame = own[torch.from_numpy(picked.partners)], model.frame(site)
            chosen[site] = picked, values if frame is None else values @ frame
        nats = [place.nats([(site, v[i]) for site, (_, v) in chosen.items()]) for i, place in enumerate(places)]
        for number, (site, (picked, _)) in enumerate(chosen.items()):
            cost = np.stack([each[number].numpy() for each in nats]).astype(np.float64)
            if all(np.ptp(each) == 0 for each in cost):
                yield site, {"why": f"Whatever stands at {site}, the model says the same: there is nothing to foretell there."}
            else:
                yield site, {"distances": table(picked, cost)}

    def _metrics(self, site: Site, z: Float[Tensor, "occurrence width"]) -> dict[Distance, Metric]:
        """Return the distances at a site; one that cannot be there is left out.

        Raises:
            SettingError: nothing can be ranked there.
        """
        if not bool(z.isfinite().all()):
            raise SettingError(f"Activations at {site} are not finite: load the model in another precision, or mend its files.")
        if (kinds := _kinds(z)) < _LEAST:
            many = "are all the same" if kinds == 1 else "take two values"
            raise SettingError(f"The activations of the corpus {many} at {site}: no distance ranks them, read another site.")
        found: dict[Distance, Metric] = {}
        for distance in DISTANCES:
            try:
                found[distance] = self.study.model.metric(distance, site)
            except SettingError:
                continue
        return found


def _kinds(z: Float[Tensor, "occurrence width"]) -> int:
    """Return how many different activations there are, counted up to ``_LEAST``."""
    count = 0
    while len(z) and count < _LEAST:
        z, count = z[(z != z[0]).any(1)], count + 1
    return count
