"""Imports go down only: a room imports from rooms above it in docs/architecture.md, never from below."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import inversionview

ROOT = Path(inversionview.__file__).parent
ORDER = [
    "interruption",
    "errors", "naming", "integrity", "printable", "ranges", "memory", "storage", "locks", "optim", "principal", "information",
    "sites", "distances", "pieces", "tokens",
    "records.streams", "records.values", "records.cells", "records.tables", "records.syntax", "records.reading",
    "records.texts", "records.corpus",
    "moves", "places", "inputs", "texts", "header", "positions", "filters", "contrasts", "backend", "gpt2", "gguf_reading",
    "loading", "architectures", "bridge", "soundness", "probed", "measure",
    "decoder.config", "decoder.files", "decoder.loss", "decoder.model", "decoder.pretrained", "decoder.sampling",
    "decoder.scoring", "decoder.recipe",
    "decoder.pairs", "decoder.evaluation", "decoder.checkpoint", "decoder.whitening", "decoder.training",
    "bank.index", "bank.blocks", "bank.manifest", "bank.shards", "bank.store", "bank.harvest", "bank.search",
    "bank.approximate", "bank.finding",
    "walk.kernel", "walk.language", "walk.mix", "walk.ladder", "walk.chains", "walk.diagnostics", "walk.pool",
    "walk.report", "walk.run",
    "preimage.core", "preimage.samples", "preimage.notes", "preimage.sampled", "preimage.corpus", "preimage.walked",
    "preimage.completeness", "preimage.threshold", "analysis.places", "analysis.thresholds",
    "analysis.features",
    "analysis.truth", "analysis.common",
    "analysis.agreement", "analysis.patching", "analysis.ablation", "analysis.flow", "analysis.attribution",
    "analysis.prompts", "analysis.head_measures", "analysis.heads", "analysis.circuit",
    "analysis.retrieval", "analysis.attributes",
    "interpret.prompts", "interpret.cache", "interpret.client", "interpret.scoring", "interpret.sides", "interpret.statements",
    "interpret.readings", "interpret.interpretation", "interpret.run",
    "spec", "studies.shipped", "studies.counting", "studies.addition", "studies.ioi", "studies.statements", "studies.facts",
    "studies.definition", "studies.counting_definition", "studies.addition_definition", "studies.ioi_definition",
    "studies.facts_definition", "studies.unnamed", "studies.registry", "studies.decoders",
    "studies.training", "studies.known_heads",
    "views.colours", "views.text", "views.tables", "views.attributions", "views.files", "views.columns", "views.plots",
    "views.maps", "views.interventions", "views.flows", "views.interpretations", "views.heads", "views.circuit",
    "views.contents", "study",
    "recall", "runs", "demo",
    "explorer.contract", "explorer.queue", "explorer.banks", "explorer.service", "explorer.problems",
    "explorer.shelf", "explorer.events", "explorer.routes", "explorer.guard", "explorer.app",
    "explorer.connections", "explorer.page",
    "explorer.widget",
    "commands.mistakes", "commands.checked", "commands.terminal", "commands.shared", "commands.making", "commands.reading",
    "commands.telling", "commands.intervening",
    "commands.attributing", "commands.heading", "commands.recalling", "commands.exploring",
    "commands.exporting", "commands.interpreting", "cli",
]  # fmt: skip


PACKAGES = (
    "decoder",
    "walk",
    "preimage",
    "views",
    "bank",
    "analysis",
    "interpret",
    "commands",
    "explorer",
    "records",
    "studies",
)


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("__init__", *PACKAGES):
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports when it is itself imported (not those inside functions)."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inversionview"):
            inner = (node.module or "").removeprefix("inversionview").removeprefix(".")
            names |= {inner} if inner and inner not in PACKAGES else {f"{inner}.{a.name}".strip(".") for a in node.names}
    return names


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set(ORDER)


def test_imports_go_down_only() -> None:
    upward = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imported(path)
        if ORDER.index(other) >= ORDER.index(name)
    ]
    assert upward == []


def test_every_file_opens_with_what_it_is_for() -> None:
    missing = [str(path) for path in ROOT.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert missing == []


def test_rooms_are_in_the_document() -> None:
    text = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    assert [name for name in ORDER if f"`{name.split('.')[-1]}" not in text and f"`{name.split('.')[0]}/" not in text] == []


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
