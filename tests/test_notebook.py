"""The tutorial runs from top to bottom, as a reader would run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorials" / "first-reading.ipynb"


def test_first_reading_runs() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(
        cell.outputs for cell in code if cell.source.splitlines()[-1].startswith(("study", "preimage", "print", "value"))
    )
    html = [
        output.data["text/html"] for cell in code for output in cell.outputs if "data" in output and "text/html" in output.data
    ]
    assert len(html) == 3
    assert all("ε" in page for page in html)
