"""What a reader must know of a preimage that a study made."""

from __future__ import annotations

from dataclasses import replace

from inversionview.core.errors import SettingError
from inversionview.core.scope import Meaning, Scope, epsilon_text
from inversionview.model.distances.registry import moments_needed
from inversionview.preimage.notes import MOST_ADMITTED, outside_study, random_share, too_wide, untrained_place
from inversionview.preimage.preimage import Preimage
from inversionview.studies.meaning import epsilon_meant
from inversionview.studies.study import Study


def noted(study: Study, made: Preimage, fixed: str | int | None = None) -> Preimage:
    """Return a preimage with this study, where it was compared (at ``fixed``, or all tokens), and with notes."""
    notes, share, among = list(made.notes), None, ""
    if not study.bare:
        notes = [*notes, *outside_study(study.inputs, made.query, study.name)]
    if made.source == "decoder":
        notes = [*notes, *untrained_place(study.decoder, study.inputs, made.query)]
    if made.bits is not None and made.bits.hits:
        told = made.bits
        what = "inputs" if made.corpus is None else "occurrences"
        share, among = 2.0**-told.value, f"the {told.inputs:,} {what} searched" if told.method == "corpus" else "the inputs"
    elif made.source == "decoder":
        located = None if fixed is None else study.positions.finder(made.query.ids, fixed)
        scope = Scope(made.epsilon, made.distance, located)
        share, among = random_share(study.model, study.inputs, made.query, scope)
    known = study.model.statistics
    statistics = known.to_json() if known is not None and moments_needed([made.distance], made.query.site) else None
    compared = made.compared or ("all" if fixed is None else [str(fixed)])
    wide = too_wide(made, share, among)
    if made.corpus is not None and share is not None and share > MOST_ADMITTED:
        wide = [_narrower(study, made, share)]
    within = None if not made.query.site.single else made.epsilon * study.model.metric(made.distance, made.query.site).spread
    return replace(made, study=study, compared=compared, statistics=statistics, within=within, notes=(*wide, *notes))


def _narrower(study: Study, made: Preimage, share: float) -> str:
    """Return that ε admits much of natural text, and another ε, within which one in a thousand lies."""
    said = f"{epsilon_text(made.epsilon, made.measure)} admits {100 * share:.3g} % of random occurrences"
    bank = study.known_bank(made.query.site)
    instead = f"{said}, so being inside tells little: choose a smaller ε, or another distance (--distance cosine-normed)."
    if bank is None:
        return instead
    try:
        other = epsilon_meant(bank, made.query, made.distance, Meaning(1 / 1000, "share"))
    except SettingError:  # of too few inputs that cannot be told
        return instead
    return f"{said}, so being inside tells little: one in a thousand lies within ε = {other:.3g} (--epsilon 1/1000)."
