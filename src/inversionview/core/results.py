"""Results are data; how they look is told by the ``show`` beside their own module.

There a function ``table`` makes what is printed of a result, and others what else it can be: ``figure`` (of matplotlib),
``page`` (HTML, or a figure of plotly), ``markdown``, ``widget``. The ``show`` is imported when a result is first looked at, by
one rule that stands here: no result knows what draws it.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol, TypeVar, overload

from inversionview.core.files import check_formats, write_document, write_figure, write_page, write_records
from inversionview.core.storage import write_json


class Result(ABC):
    """What an analysis returns: data that prints as a table, shows in a notebook and can be saved."""

    formats: ClassVar[tuple[str, ...]] = (".csv", ".parquet")
    """How files may end that it is saved in."""

    @abstractmethod
    def to_json(self) -> Any:
        """Return it as plain JSON values."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return flat rows, for a data frame."""

    @classmethod
    def check_files(cls, paths: Sequence[Path]) -> None:
        """Check that such a result can be saved in these files: before work is done, not after.

        Raises:
            SettingError: one ends in none of ``formats``.
            StorageError: nothing can be written there.
        """
        check_formats(paths, cls.formats)

    def save(self, path: str | Path) -> Path:
        """Write it in the format that ``path`` ends in, one of ``formats``.

        Raises:
            SettingError: it is another format.
            StorageError: the file cannot be written.
        """
        path = Path(path)
        self.check_files([path])
        match path.suffix.lower():
            case ".json":
                write_json(path, self.to_json())
            case ".png" | ".svg":
                write_figure(lambda: self.shown_as("figure"), path)
            case ".html":
                write_page(self.shown_as("page"), path)
            case ".md":
                write_document(self.shown_as("markdown"), path)
            case _:
                write_records(self.records(), path)
        return path

    def shown_as(self, how: str) -> Any:
        """Return what a function of the ``show`` beside its module makes of it; ``None`` where there is no such function."""
        show = import_module(f"{type(self).__module__.rpartition('.')[0]}.show")
        return getattr(show, how)(self) if hasattr(show, how) else None

    def __rich__(self) -> Any:
        return self.shown_as("table")

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        widget = self.shown_as("widget")
        if widget is None:
            return {"text/plain": repr(self), "text/html": self._repr_html_()}
        return widget._repr_mimebundle_()

    def _display_(self) -> Any:
        """Return what marimo shows."""
        widget = self.shown_as("widget")
        return SimpleNamespace(_repr_html_=self._repr_html_) if widget is None else widget._display_()


def as_text(result: Result, width: int = 100) -> str:
    """Return what is printed of a result as plain text."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=width, color_system=None, force_jupyter=False).print(result)
    return file.getvalue()


def as_html(result: Result, width: int = 100) -> str:
    """Return the same as an HTML fragment for a notebook; text is escaped."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, record=True, force_jupyter=False, color_system="truecolor")
    console.print(result)
    style = "font-family:Menlo,'DejaVu Sans Mono',monospace;line-height:1.25;white-space:pre"
    code: Any = console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
    return str(code)


class Item(Protocol):
    """One of several results."""

    def to_json(self) -> Any:
        """See ``Result.to_json``."""

    def records(self) -> list[dict[str, Any]]:
        """See ``Result.records``."""


T = TypeVar("T", bound=Item, covariant=True)


@dataclass(frozen=True, eq=False, repr=False)
class Results(Result, Sequence[T]):
    """Several results of one kind: a sequence that equals any other of the same items, and is shown as one table."""

    items: tuple[T, ...]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Results[T]: ...
    def __getitem__(self, index: int | slice) -> T | Results[T]:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def to_json(self) -> list[Any]:
        """Return the items as plain JSON values."""
        return [item.to_json() for item in self]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of all items, for a data frame."""
        return [row for item in self for row in item.records()]

    def __rich__(self) -> Any:
        return super().__rich__() if self.items else "Nothing."


def several(result: T | Results[T]) -> tuple[T, ...]:
    """Return the items of several results, or the one that is alone."""
    return result.items if isinstance(result, Results) else (result,)
