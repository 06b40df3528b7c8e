"""The plan of the package holds: imports go down only, no circle, results draw nothing, nothing is too long."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from runpy import run_path

import pytest

import inversionview

ROOT = Path(inversionview.__file__).parent
HOUSE = run_path(str(ROOT.parents[1] / "scripts" / "house.py"))
FILES: dict[str, Path] = HOUSE["files"]()
GRAPH: dict[str, set[str]] = {
    name: {other for other in HOUSE["imports"](path, FILES, inversionview._PUBLIC) if other != name}
    for name, path in FILES.items()
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
FINDS_BY_NAME = {"__init__", "cli", "core.results", "studies.registry", "sources.registry", "decoder.decoder"}
"""Files that import what they find by its name: public names, commands, shows, studies, sources, kinds of decoder."""


def test_every_file_lies_in_a_package_of_the_plan() -> None:
    assert {name.split(".")[0] for name in FILES} == {*HOUSE["PACKAGES"], *HOUSE["TOP"]}


def test_imports_go_down_only() -> None:
    """Imports inside functions and for types count as all others do."""
    level = HOUSE["level"]
    own = {(name, other) for name in FILES for other in GRAPH[name] if name.split(".")[0] == other.split(".")[0]}
    upward = [
        f"{name} imports {other}"
        for name in FILES
        for other in GRAPH[name]
        if level(other) >= level(name) and (name, other) not in own and name not in HOUSE["TOP"]
    ]
    assert upward == []


def circles() -> list[list[str]]:
    """Return the files that import one another in a circle: what is left where those that import nothing are taken away."""
    left = {name: {other for other in GRAPH[name] if other in GRAPH} for name in GRAPH}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    needed = set.union(*left.values(), set()) if left else set()
    return [sorted(needed & left.keys())] if left else []


def test_no_circle_of_files() -> None:
    assert circles() == []


def test_only_registries_import_by_name() -> None:
    names = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    assert names <= FINDS_BY_NAME


def results() -> Iterator[tuple[str, str]]:
    """Yield every class that is a ``Result``, with its module."""
    for name, tree in TREES.items():
        for node in tree.body:
            bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
            if any(re.match(r"(Result|Results)\b", base) for base in bases) and name != "core.results":
                yield name, node.name  # type: ignore[union-attr]


def test_every_result_has_its_show() -> None:
    """Beside its module lies a ``show`` with a table; no result's module imports it, nor what draws."""
    found = list(results())
    assert len(found) >= 12
    for module, name in found:
        show = f"{module.rpartition('.')[0]}.show"
        assert show in FILES, f"{name} of {module} has no {show}"
        assert any(isinstance(node, ast.FunctionDef) and node.name == "table" for node in TREES[show].body), show
        drawing = {"rich", "plotly", "matplotlib"} & {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not drawing, f"{module} draws with {drawing}"
        assert not {other for other in GRAPH[module] if other.split(".")[-1] == "show" or other.startswith("drawing.")}, module


def test_results_print_as_their_table() -> None:
    """A dataclass would write a repr of its own, unless it is told not to."""
    for module, name in results():
        node = next(node for node in TREES[module].body if isinstance(node, ast.ClassDef) and node.name == name)
        assert all("repr=False" in said for each in node.decorator_list if "dataclass" in (said := ast.unparse(each))), name


def test_every_file_opens_with_what_it_is_for() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_nothing_is_too_long() -> None:
    """Files of 400 lines at most, classes of 250, functions of 60, lists of 12 parameters."""
    long = [
        f"{name}: {count} lines" for name, path in FILES.items() if (count := len(path.read_text("utf-8").splitlines())) > 400
    ]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                most = 250 if isinstance(node, ast.ClassDef) else 60
                if lines > most:
                    long.append(f"{name}.{node.name}: {lines} lines")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                count = len([*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))])
                if count > 12:
                    long.append(f"{name}.{node.name}: {count} parameters")
    assert long == []


def test_a_study_binds_and_nothing_more() -> None:
    assert len(FILES["studies.study"].read_text(encoding="utf-8").splitlines()) <= 200


def test_signatures_are_laid_out_by_the_formatter() -> None:
    skipped = []
    for name, path in FILES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped += [
                    f"{name}.{node.name}" for line in lines[node.lineno - 1 : node.body[0].lineno - 1] if "fmt:" in line
                ]
    assert skipped == []


def test_no_two_classes_of_one_name() -> None:
    """Apart from the pages' JSON, whose models are called as what they say."""
    names = Counter(
        node.name
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and name not in ("page.contract", "page.preimages") and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_document_shows_the_packages() -> None:
    text = HOUSE["DOCUMENT"].read_text(encoding="utf-8")
    assert HOUSE["drawn"](text) == text, "run python scripts/house.py --write"


@pytest.mark.parametrize("name", sorted(inversionview._PUBLIC))
def test_public_names_are_where_the_list_says(name: str) -> None:
    module = inversionview._PUBLIC[name]
    assert module in FILES
    assert name in inversionview.__all__
    assert name not in HOUSE["PACKAGES"], "once the package is imported, its name stands for it"
    assert getattr(inversionview, name) is getattr(import_module(f"inversionview.{module}"), name)


def test_text_files_are_utf8_whatever_the_locale() -> None:
    """Every call that opens a file as text, by whichever name, says so; modes with a ``b`` are no text."""
    reads = {"open", "read_text", "write_text", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}
    silent = []
    for path in (*ROOT.rglob("*.py"), *(ROOT.parents[1] / "benchmarks").glob("*.py"), *(ROOT.parents[1] / "docs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
            binary = any(isinstance(mode, str) and re.fullmatch("[rwax+]*b[rwax+]*", mode) for mode in modes)
            said = any(k.arg == "encoding" for k in node.keywords)
            if name in reads and owner not in ("os", "webbrowser", "ActivationBank") and not binary and not said:
                silent.append(f"{path.name}:{node.lineno}")
    assert silent == []
