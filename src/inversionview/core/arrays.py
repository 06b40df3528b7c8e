"""Types of arrays that all packages share."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "test"]
Ids = npt.NDArray[np.int64]
"""Token ids, ``[rows, positions]``, padded on the right."""
