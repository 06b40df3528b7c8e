"""The plan of the package: which package may import which, read by the guard in the tests and by docs/architecture.md.

python scripts/house.py           print the picture of the packages
python scripts/house.py --write   put it into docs/architecture.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "inversionview"
DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- the packages, by scripts/house.py --write -->", "<!-- end of the packages -->"
TOP = ("cli", "__init__")
"""Files that stand above all packages."""
PACKAGES = (
    "explorer",
    "runs",
    "analyses",
    "sources",
    "studies",
    "preimage",
    "page",
    "decoder",
    "markov",
    "intervene",
    "bank",
    "corpora",
    "terminal",
    "model",
    "records",
    "drawing",
    "core",
)
"""From top to bottom: a package imports only itself and those below it."""


def files() -> dict[str, Path]:
    """Return every file by the name of its module within the package; a package's ``__init__`` by the package's."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def level(module: str) -> int:
    """Return how far up a module stands: 0 is the lowest package.

    Raises:
        ValueError: it lies in no package of the plan.
    """
    package = module.split(".")[0]
    return len(PACKAGES) if package in TOP else len(PACKAGES) - 1 - PACKAGES.index(package)


def imports(path: Path, known: dict[str, Path], public: dict[str, str]) -> Iterator[str]:
    """Yield the modules that a file imports anywhere: at its top, inside functions, for types alone.

    What it takes from the root of the package, ``iv.read``, counts as the module where that is defined.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "inversionview" and not node.level:
            base = (node.module or "").removeprefix("inversionview").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                yield inner if inner in known else base or public.get(alias.name, "__init__")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("inversionview."):
                    yield alias.name.removeprefix("inversionview.")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "iv" and node.attr in public:
            yield public[node.attr]


def picture() -> str:
    """Return the packages from top to bottom, a line each, with the folders inside them."""
    lines = ["    inversionview/", _line(1, "__init__.py", "The public names: nouns and verbs, imported when first used")]
    lines.append(_line(1, "cli.py", "The command line: it finds every command.py"))
    for name in PACKAGES:
        lines.append(_line(1, f"{name}/", _said(ROOT / name)))
        inner = sorted(path.parent for path in (ROOT / name).glob("*/__init__.py"))
        lines += [_line(2, f"{folder.name}/", _said(folder)) for folder in inner]
    return "\n".join(lines)


def _line(depth: int, name: str, said: str) -> str:
    """Return a line of the picture; what is said begins in one column."""
    return f"{'  ' * (2 + depth)}{name}".ljust(24) + said


def _said(folder: Path) -> str:
    """Return the first line of a package's text."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].rstrip(".")


def drawn(document: str) -> str:
    """Return the document with the picture between its two marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(drawn(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(picture())
