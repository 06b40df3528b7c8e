"""Readings in a notebook: the modules of the exported page as a widget that fetches nothing; where widgets are off, a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

from inversionview.core.errors import InversionViewError, SettingError
from inversionview.page.bundle import MOST, STATIC, bundle, embedded
from inversionview.preimage.preimage import Preimage
from inversionview.preimage.reading import reading

MOST_ROWS = 2000
"""Rows of a preimage that are sent to a notebook; of more, an even choice."""


def show(*preimages: Preimage) -> View:
    """Return preimages, up to four, to look at side by side as the last line of a notebook's cell.

    Raises:
        SettingError: there are none or too many.
    """
    if not 1 <= len(preimages) <= MOST:
        raise SettingError(f"{len(preimages)} preimages cannot be shown side by side: give one to {MOST}.")
    return View(*preimages)


class View:
    """What a notebook shows: a widget where anywidget is installed and the front end has widgets, else tables."""

    def __init__(self, *preimages: Preimage) -> None:
        self.preimages = preimages

    @cached_property
    def widget(self) -> Any:
        """The widget itself, an ``anywidget.AnyWidget``, for layouts of ipywidgets.

        Raises:
            SettingError: anywidget is not installed.
        """
        try:
            import anywidget
        except ImportError as error:
            raise SettingError("anywidget is not installed: pip install 'inversionview[explore]'.") from error
        long = sorted({len(p) for p in self.preimages if len(p) > MOST_ROWS})
        sent = [p.choice(MOST_ROWS) if len(p) > MOST_ROWS else p for p in self.preimages]
        note = f"{MOST_ROWS:,} of {' and of '.join(f'{n:,}' for n in long)} rows were sent to the notebook" if long else ""
        return _widget(anywidget)(readings=[reading(p.study, p).to_json() for p in sent], note=note)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], Mapping[str, Any]]:
        still = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if _text_alone():
            return still, {}
        try:
            live, metadata = self.widget._repr_mimebundle_()
        except InversionViewError:
            return still, {}
        return {**live, **still}, metadata

    def _display_(self) -> Any:
        """Return what marimo shows."""
        try:
            return self.widget
        except InversionViewError:
            return SimpleNamespace(_repr_html_=self._repr_html_)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.preimages))

    def _repr_html_(self) -> str:
        tables = [preimage._repr_html_() for preimage in self.preimages]
        return tables[0] if len(tables) == 1 else f'<div style="display:flex;flex-wrap:wrap;gap:2em">{"".join(tables)}</div>'


def _text_alone() -> bool:
    """It is IPython in a terminal, which shows nothing but text."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and shell.display_formatter.active_types == ["text/plain"]


@cache
def _widget(anywidget: Any) -> Any:
    """Return the class of the widget."""
    import traitlets

    class Readings(anywidget.AnyWidget):
        """Readings as the front end has them: ``readings`` is JSON text on its way, so that any text of tokens can travel."""

        _esm = bundle("widget.js")
        _css = (STATIC / "explorer.css").read_text(encoding="utf-8")
        readings: Any = traitlets.List().tag(
            sync=True, to_json=lambda value, _: embedded(value), from_json=lambda text, _: json.loads(text)
        )
        note = traitlets.Unicode().tag(sync=True)

    return Readings
