"""``inversionview demo``: three telling readings of each shipped study, with one line each on what to see."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from inversionview.bank.store import ActivationBank
from inversionview.sources.corpus import search
from inversionview.studies.load import load
from inversionview.studies.study import Study

READINGS = (
    ("counting", "vvzccvczvvvzvcvc|v:8", "query", "x0.pre",
     "The embedding at the query character holds the letter, v, and roughly where it stands. The count is free."),
    ("counting", "vvzccvczvvvzvcvc|v:8", "query", "x0.post",
     "One layer later the string has been counted. Hardly another input comes near; those that do have v about 8 times."),
    ("counting", "vvzccvczvvvzvcvc|v:8", ":", "a1.0",
     "Where the answer is about to be written, a head has brought the count, 8 or 9; the letter is mostly lost."),
    ("addition", "615+861=1476", "=", "a0.0",
     "One head at the equals sign has collected the hundreds, 6 and 8, in either order. The other digits are free."),
    ("addition", "615+861=1476", "=", "a0.1",
     "Another head has collected the tens, 1 and 6, in either order, and next to nothing else."),
    ("addition", "615+861=1476", "A1", "x1.post",
     "After the first digit of the answer, the next one, 4, stands ready."),
)  # fmt: skip
"""Study, input, position, site, what to see; compared at that position only."""


def show_demo(console: Console, bank_of: Callable[[Study], ActivationBank], count: int = 10) -> None:
    """Print the readings, ``count`` inputs each, of the exact preimages in the banks that ``bank_of`` finds or builds."""
    studies = {name: load(name) for name in dict.fromkeys(reading[0] for reading in READINGS)}
    for number, (name, text, at, site, see) in enumerate(READINGS, 1):
        study = studies[name]
        preimage = search(study, study.query(text, at=at, site=site), fixed=[at], count=count, bank=bank_of(study))
        title = f"{number}/{len(READINGS)}  {name}: what does {site} at {at!r} encode?"
        console.print(Panel(Text(see), title=title, title_align="left", border_style="cyan"))
        console.print(preimage)
        console.print()
    console.print('Read one yourself: inversionview read addition "615+861=1476" --at "=" --site a0.0', style="bold")
