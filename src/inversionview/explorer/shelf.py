"""The studies that the explorer serves, each loaded once it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from threading import Lock, Thread

from fastapi import HTTPException

from inversionview.core.errors import did_you_mean
from inversionview.explorer.answers import info
from inversionview.explorer.problems import sentence
from inversionview.page import contract
from inversionview.studies.study import Study


class Shelf:
    """The studies that are served, each loaded by a thread of its own once it is asked for: none waits for another.

    Args:
        openers: for each study, under the name that addresses call it, what opens it.
    """

    def __init__(self, openers: Mapping[str, Callable[[], Study]]) -> None:
        self.openers = openers
        self._begun: dict[str, Future[tuple[Study, contract.StudyInfo]]] = {}
        self._lock = Lock()

    def known(self, id: str) -> str:
        """Return the name; HTTP 404 where there is no such study."""
        if id not in self.openers:
            said = f"There is no study {id!r}; there are {', '.join(self.openers)}.{did_you_mean(id, self.openers)}"
            raise HTTPException(404, said)
        return id

    def begin(self, id: str, again: bool = True) -> Future[tuple[Study, contract.StudyInfo]]:
        """Return the study as it is being loaded; ``again``: once more, where it could not be."""
        with self._lock:
            loading = self._begun.get(id)
            if loading is None or (again and loading.done() and loading.exception() is not None):
                loading = self._begun[id] = Future()
                loading.set_running_or_notify_cancel()  # who no longer waits does not end it for the others
                Thread(target=self._load, args=(id, loading), name=f"load {id}").start()
            return loading

    def _load(self, id: str, loading: Future[tuple[Study, contract.StudyInfo]]) -> None:
        try:
            study = self.openers[id]()
            loading.set_result((study, info.study_info(study, id)))
        except BaseException as error:  # whoever asks for it is told
            loading.set_exception(error)

    def study(self, id: str) -> Study:
        """Return a study, once it is loaded."""
        return self.begin(id).result()[0]

    def info(self, id: str) -> contract.StudyInfo:
        """Return what can be read of a study that is loaded, as it is now: a bank that it lacked may have been built."""
        study, known = self.begin(id).result()
        return known if known.lacking is None else info.study_info(study, id)

    def first(self, id: str) -> str:
        """Return the source that is read by default, as it was when the study was loaded."""
        return self.begin(id).result()[1].sources[0]

    def all(self) -> contract.Studies:
        """Return the studies that are loaded by now, those that cannot be, and those that are not yet."""
        every = {id: self.begin(id, again=False) for id in self.openers}
        failed = {id: loading.exception() for id, loading in every.items() if loading.done()}
        return contract.Studies(
            studies=[self.info(id) for id, error in failed.items() if error is None],
            failed=[contract.Failed(id=id, detail=sentence(error)) for id, error in failed.items() if error is not None],
            loading=[id for id in every if id not in failed],
        )
