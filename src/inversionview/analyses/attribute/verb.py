"""``attribute`` and ``rates``: direct logit attribution of one input, or over a set."""

from __future__ import annotations

from pathlib import Path

from inversionview.analyses.attribute.cases import Cases, answer_cases
from inversionview.analyses.attribute.measure import attributions, promotion_rates
from inversionview.analyses.attribute.prompts import prompt_cases
from inversionview.analyses.attribute.result import Attributions, RateTable
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.preimage.preimage import Query
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study


@accepting
def attribute(
    study: Study,
    query: Query | str,
    what: str | None = None,
    *,
    at: str | int | None = None,
    k: int | None = None,
    folded: bool = True,
) -> Attributions:
    """Return the tokens whose logits activations at one position raise and lower most by themselves, one result for each.

    Args:
        study: from ``load``.
        query: from ``query``, whose input and position are meant; or a text.
        what: sites, patterns and differences of two states of the residual stream by commas, ``"a1.*,x1.post-x0.post"``;
            by default the query's own site, for a text the study's.
        at: of a text: as in ``query``.
        k: how many tokens either way; by default 30 as in Huang et al. 2024, or a tenth of a smaller vocabulary.
        folded: fold the last norm in, its scale frozen at this input, so that contributions are parts of the logits;
            otherwise the activation times W_U alone (Huang et al. 2024, Table 4).

    Raises:
        InputError: the text is empty, too long, or cannot be encoded.
        UnknownPositionError, UnknownSiteError: there is no such place.
        SettingError: ``at`` comes with a query, ``what`` or ``k`` is none, or the norm cannot be folded.
    """
    if isinstance(query, str):
        ids, position = study.located(query, at)
        return Attributions(tuple(attributions(study.model, ids, position, what or study.spec.site, k=k, folded=folded)))
    if at is not None:
        raise SettingError("A query has its position: leave at out, or give the text.")
    found = attributions(study.model, query.ids, query.position, what or query.site.short, k=k, folded=folded)
    return Attributions(tuple(found))


@accepting
def rates(
    study: Study,
    what: str | None = None,
    *,
    target: str | None = None,
    prompts: str | Path | None = None,
    among: str | Path | None = None,
    at: str | int | None = None,
    k: int | None = None,
    folded: bool = True,
    limit: int = 1000,
    seed: int = 0,
    report: Progress | None = None,
) -> RateTable:
    """Return how often activations promote and suppress the token expected next (Huang et al. 2024, Table 4).

    Args:
        study: from ``load``.
        what: as in ``attribute``; by default the study's site.
        target: the answer token that is expected, each input being read before it; by default the first.
        prompts: in place of the study's inputs, a JSONL file of ``{"text": …, "expected": …, "at": …}``.
        among: with prompts, a file of one word a line, the rivals of the expected one; by default all expected words.
        at: where prompts are read that do not say it; by default the study's position.
        k: as in ``attribute``.
        folded: as in ``attribute``.
        limit: so many inputs of the study's test split.
        seed: of their choice.
        report: called with the share of the readings, inputs × activations, that is done, and a note.

    Raises:
        InputError: there is no such target, or a line of a file cannot be used.
        UnknownPositionError, UnknownSiteError: there is no such place.
        SettingError: the study has no answers of its own, options do not belong together, or a setting is out of range.
    """
    if prompts is not None and target is not None:
        raise SettingError("A target belongs to a study's own inputs: leave the target or the prompts out.")
    if prompts is None and (at is not None or among is not None):
        raise SettingError("A study's own inputs are read before the target, among all its answers: leave at and among out.")
    cases = _own_cases(study, target, limit, seed) if prompts is None else _prompt_cases(study, prompts, among, at)
    return promotion_rates(study.model, cases, what or study.spec.site, k=k, folded=folded, report=report)


def _own_cases(study: Study, target: str | None, limit: int, seed: int) -> Cases:
    if study.bare or not study.inputs.answers:
        raise SettingError(f"{study.name} has no answers of its own: attribute one text, or give prompts for rates.")
    return answer_cases(study.inputs, target or study.inputs.answers[0], limit, seed=seed)


def _prompt_cases(study: Study, prompts: str | Path, among: str | Path | None, at: str | int | None) -> Cases:
    rivals = None if among is None else Path(among)
    return prompt_cases(study.model, Path(prompts), study.locate, at=study.spec.at if at is None else at, among=rivals)
