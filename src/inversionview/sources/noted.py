"""What a reader must know of a preimage that a study made."""

from __future__ import annotations

from dataclasses import replace

from inversionview.core.scope import Scope
from inversionview.preimage.notes import outside_study, random_share, too_wide, untrained_place
from inversionview.preimage.preimage import Preimage
from inversionview.studies.study import Study


def noted(study: Study, made: Preimage, fixed: str | int | None = None) -> Preimage:
    """Return a preimage with this study, where it was compared (at ``fixed``, or all tokens), and with notes."""
    notes, share, among = list(made.notes), None, ""
    if not study.bare:
        notes = [*notes, *outside_study(study.inputs, made.query, study.name)]
    if made.bits is not None and made.bits.hits:
        told = made.bits
        what = "inputs" if made.corpus is None else "occurrences"
        share, among = 2.0**-told.value, "the inputs" if made.source == "walk" else f"the {told.inputs:,} {what} searched"
    elif made.source == "decoder":
        notes = [*notes, *untrained_place(study.decoder, study.inputs, made.query)]
        located = None if fixed is None else study.positions.finder(made.query.ids, fixed)
        scope = Scope(made.epsilon, made.distance, located)
        share, among = random_share(study.model, study.inputs, made.query, scope)
    compared = made.compared or ("all" if fixed is None else [str(fixed)])
    return replace(made, study=study, compared=compared, notes=(*notes, *too_wide(made, share, among)))
