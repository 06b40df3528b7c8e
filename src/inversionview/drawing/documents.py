"""What reports share: text that Markdown and HTML take as text, inputs with the token that was read, and the page around."""

from __future__ import annotations

import html
import re

from rich.text import Text

from inversionview.core.printable import one_line, shown

_MARK = re.compile("⟦(.*?)⟧", re.DOTALL)
_STYLE = """
:root{--ink:#1c2024;--soft:#6a737d;--line:#e4e7eb;--paper:#fff;--bar:#2f6f9f;--good:#1a7f4b;--doubt:#a05a00;--mark:#fdf0d5}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa3ad;--line:#2f353c;--paper:#15181c;--bar:#6fb1e0;
--good:#5cc98e;--doubt:#e0a050;--mark:#4a3a16}}
body{margin:0 auto;max-width:1180px;padding:2.5rem 1.5rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.55rem;font-weight:600;margin:0 0 .4rem}h2{font-size:1.1rem;font-weight:600;margin:2.6rem 0 .4rem}
p{margin:.3rem 0;max-width:78ch}p.soft,td.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;font-size:.8rem;color:var(--soft);text-align:left;
padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
td{padding:.55rem .8rem .55rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th.n,td.n{text-align:right;white-space:nowrap}td.site{font-family:ui-monospace,Menlo,Consolas,monospace;white-space:nowrap}
td.said{width:38%}code{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
td.samples{width:19%}td.samples div{white-space:nowrap;overflow:hidden;text-overflow:ellipsis;max-width:17rem}
mark{background:var(--mark);color:inherit;border-radius:2px}
small{color:var(--soft);font-size:.78rem;display:block}.bar{display:block;width:84px;height:4px;background:var(--line);
border-radius:2px;margin:.3rem 0 0 auto;overflow:hidden}.bar i{display:block;height:100%;background:var(--bar)}
.proven{color:var(--good)}.unproven{color:var(--doubt)}
details{margin-top:.35rem}summary{cursor:pointer;color:var(--soft);font-size:.8rem}
tr.wrong td{color:var(--doubt)}
details table{font-size:.86rem;margin:.3rem 0 .2rem}details td{border:0;padding:.2rem .7rem .2rem 0}
details td:first-child code{white-space:nowrap}
nav a{color:inherit;margin-right:.9rem}@media print{details{display:none}}
"""


def marked(text: str) -> Text:
    """Return an input with the position that was read in bold."""
    out, start = Text(), 0
    for found in _MARK.finditer(text):
        out.append(text[start : found.start()])
        out.append(found[1], style="bold reverse")
        start = found.end()
    out.append(text[start:])
    return out


def plain(text: str) -> str:
    """Return text in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """Return text as code in a table's cell: bars escaped, in a fence longer than any run of backticks in it."""
    line = one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def marked_html(text: str) -> str:
    """Return an input as HTML, the position that was read marked."""
    return f"<code>{_MARK.sub(lambda found: f'<mark>{found[1]}</mark>', escaped(text))}</code>"


def escaped(text: str) -> str:
    """Return text as HTML takes it as text."""
    return html.escape(shown(text))


def document(title: str, body: str) -> str:
    """Return a page that runs nothing and fetches nothing.

    Args:
        title: as text.
        body: what follows its heading, as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>{escaped(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        f"<main><h1>{escaped(title)}</h1>{body}</main></body></html>\n"
    )
