"""What a census has counted so far, in the user's cache: an interrupted one goes on there, a finished one is there at once."""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from inversionview.core.integrity import digest
from inversionview.core.storage import replacing

Arrays = dict[str, npt.NDArray[Any]]
_EVERY = 30.0
"""Seconds from one writing to the next."""
_FORMAT = 1


class Kept:
    """The counts of one census, which is told from others by all that they depend on."""

    def __init__(self, stated: Mapping[str, Any] | None, folder: Path | None = None) -> None:
        """Open it.

        Args:
            stated: all that the counts depend on, as JSON values; ``None``: nothing is kept.
            folder: where it lies; by default in the user's cache.
        """
        from platformdirs import user_cache_path

        name = digest(json.dumps([_FORMAT, stated], sort_keys=True).encode())
        folder = user_cache_path("inversionview") / "census" if folder is None else folder
        self.path = None if stated is None else folder / f"{name}.npz"
        self._written = time.monotonic()

    def read(self) -> Arrays | None:
        """Return what was kept; ``None`` where there is nothing, or nothing whole."""
        if self.path is None:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def write(self, arrays: Arrays, last: bool) -> None:
        """Keep arrays, if the last time is some while ago, or this is the last one."""
        if self.path is not None and (last or time.monotonic() - self._written > _EVERY):
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, **cast(Any, arrays))
            self._written = time.monotonic()
