"""What is killed and begun again ends as what never was, bit for bit, and nothing is left over; ``benchmarks/kills.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "kills.py"


def test_eight_kills_change_nothing_and_leave_nothing() -> None:
    """Over runs, banks, figures and caches; the script compares every file and ends with 1 if one differs."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "8"], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:] if line.startswith("|")]
    assert [row[0] for row in rows] == ["run", "bank", "figures", "caches"]
    assert sum(int(row[1]) for row in rows) >= 8
    assert all(int(row[2]) >= 1 and row[3] == "0" for row in rows)
