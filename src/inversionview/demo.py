"""``inversionview demo``: three telling readings of each shipped study, with one line each on what to see."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from inversionview.study import load
from inversionview.views.text import preimage_table

READINGS = (
    ("counting", "vvzccvczvvvzvcvc|v:8", "query", "x0.post",
     "At the query character, after the first MLP: every sample asks for v, and its string holds 8 of them; the other "
     "letters are free."),
    ("counting", "vvzccvczvvvzvcvc|v:8", ":", "a1.0",
     "At the colon, the second attention keeps the count, 8, and drops which letter was counted."),
    ("counting", "vvzccvczvvvzvcvc|v:8", ":", "x0.pre",
     "The embedding at the colon holds no more than where the colon stands: all samples have one length."),
    ("addition", "615+861=1476", "A1", "x1.post",
     "Where the second digit of the answer is about to be written: what the samples share is that digit."),
    ("addition", "615+861=1476", "=", "a0.0",
     "One head at the equals sign: compare which digits stay fixed in the samples, and which run free."),
    ("addition", "615+861=1476", "F2", "x0.pre",
     "The embedding of F2 holds its digit and its place, and nothing else."),
)  # fmt: skip
"""Study, input, position, site, what to see."""


def show_demo(console: Console, count: int = 10) -> None:
    """Print the readings, ``count`` samples each."""
    studies = {name: load(name) for name in dict.fromkeys(reading[0] for reading in READINGS)}
    for number, (name, text, at, site, see) in enumerate(READINGS, 1):
        study = studies[name]
        preimage = study.preimage(study.query(text, at=at, site=site), count=count)
        title = f"{number}/{len(READINGS)}  {name}: what does {site} at {at!r} encode?"
        console.print(Panel(Text(see), title=title, title_align="left", border_style="cyan"))
        console.print(preimage_table(preimage))
        console.print()
    console.print('Read one yourself: inversionview read addition "615+861=1476" --at "=" --site a0.0', style="bold")
