"""Every error a user can cause, as a typed exception whose message is one sentence: what was wrong, and the way out.

The command line prints that sentence on stderr and exits with code 2; the library raises the exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InversionViewError(Exception):
    """Base of all errors that a user can cause and mend."""


class UnknownStudyError(InversionViewError):
    """No shipped study and no run folder has this name."""


class UnknownSiteError(InversionViewError):
    """The model has no such activation site, or the decoder was not trained on it."""


class UnknownPositionError(InversionViewError):
    """The input has no such token, named position or index."""


class InputError(InversionViewError):
    """A text that the tokenizer or the model cannot take: empty, too long, or with unknown characters."""


class SettingError(InversionViewError):
    """A setting outside its range, such as ε ≤ 0."""


class WeightsError(InversionViewError):
    """A weights file that is missing, truncated, of another architecture, or would need code to be run."""


class MismatchError(InversionViewError):
    """A decoder (or checkpoint) that was made for another probed model."""


class BankError(InversionViewError):
    """A bank of activations that is missing, unfinished or damaged."""


class EndpointError(InversionViewError):
    """A language model's endpoint that cannot be reached, does not know the model, or refuses the key."""


class AnswerError(InversionViewError):
    """An answer of a language model that cannot be used: a refusal, or not of the form that was asked for."""


class BudgetError(InversionViewError):
    """More tokens than the budget allows."""


class StorageError(InversionViewError):
    """A file could not be written; what was there before is untouched."""


class LockedError(InversionViewError):
    """Another process is writing what only one may write at a time."""


class DivergenceError(InversionViewError):
    """A training whose loss or weights are no longer finite; the last checkpoint before that stands."""


class LeftOut(UserWarning):
    """Something of what was given could not be used and is left out: the sentence says how much, and where the first stands.

    The command line prints it on stderr and goes on.
    """


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string if none is near."""
    known = list(known)
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower(), lower, n=1, cutoff=0.4)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""
