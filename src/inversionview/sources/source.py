"""What a source of preimages is: how it reads a query, whether it can, and what is said of it.

The modules of sources import what takes long only where they read, so that the command line can name them at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from inversionview.core.progress import Progress
    from inversionview.core.scope import Scope
    from inversionview.preimage.preimage import Preimage, Query, Sample
    from inversionview.studies.study import Study

Watch = Callable[[tuple["Sample", ...]], None]
"""Called with samples as they are measured; the preimage need not hold them all."""
SHOWN = 100
"""Samples that a source shows where nobody says how many, unless it shows all that it finds."""


def keywords(scope: Scope[Any]) -> dict[str, Any]:
    """Return a scope as the verbs take it: ``search``, ``sample`` and ``walk``."""
    return {"epsilon": scope.epsilon, "distance": scope.distance, "fixed": scope.at}


class Source(ABC):
    """A way to make preimages. A new one is a module with an instance of its class, and its place in ``registry.SOURCES``."""

    name: ClassVar[str]
    """What ``read``, --source and the API call it, and what its preimages and samples say made them."""
    used: ClassVar[str]
    """What is done with it, as a sentence that refuses the options of others ends: ``the decoder is sampled``."""
    bar: ClassVar[str] = ""
    """What a progress bar says while it reads; empty where that is soon done."""
    exact: ClassVar[bool] = False
    """It returns all that lies inside ε of the inputs that it knows: it reads unless another source is asked for."""
    needs_bank: ClassVar[bool] = False
    """It searches a bank, which has to be built first where there is none; ``read`` then takes it as ``bank``."""
    begins: ClassVar[bool] = False
    """It begins at the query's own input or, where that is not known, at what others found inside ε."""
    compares_several: ClassVar[bool] = False
    """D may be reached at one of several positions that are named, not only at one or at all."""
    options: ClassVar[tuple[str, ...]] = ()
    """Keywords of ``read`` that are its own. Commands refuse theirs of this name where another source reads."""
    asked_by: ClassVar[tuple[str, ...]] = ()
    """Those of its options that ask for it where no source is named."""

    @abstractmethod
    def available(self, study: Study) -> bool:
        """Whether it can make a preimage of the study at all."""

    def lacking(self, study: Study) -> str | None:
        """Return why it cannot read the study yet, though it is available, and the way out; ``None`` where it can."""
        return None

    def reads(self, study: Study, query: Query, fixed: Any = None) -> bool:
        """Whether it can read a query now, compared at the position ``fixed``, or at the nearest of all."""
        return True

    @abstractmethod
    def read(
        self,
        study: Study,
        query: Query,
        scope: Scope[Any],
        *,
        count: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Preimage:
        """Return the query's preimage; every input in it was run through the probed model.

        Args:
            study: the study.
            query: from ``Study.query``.
            scope: how inputs are compared: ``at`` names the position as ``Study.locate`` takes it.
            count: how many samples to show at most; by default as many as the source is wont to.
            seed: the same seed gives the same preimage, unless time ends it.
            report: called with the share of the work that is done, and a note.
            watch: called with samples as they are measured.
            options: the source's own.
        """
