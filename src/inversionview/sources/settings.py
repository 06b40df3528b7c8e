"""What a decoder is sampled under: temperatures and noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from inversionview.core.errors import SettingError
from inversionview.core.ranges import finite, positive


@dataclass(frozen=True)
class Setting:
    """One way to draw candidates (Huang et al. 2024, appendices on sampling and on factual recall)."""

    temperature: float = 1.0
    noise: float = 0.0
    """η of z + η·std(z)·N(0, I)."""
    rotation: float = 0.0
    """η: z is turned to a random direction whose cosine with it is 1 − η, its norm kept; all these are equally likely."""
    rescale: bool = False
    """z is multiplied by exp(U(−1, 1))."""
    damping: float = 0.0
    """λ: how much rare tokens are damped that the candidates of the settings without damping, drawn before, repeat.

    The paper damps such tokens and leaves open how. Here a token is rare if less than 1 % of the corpus' inputs hold it. Let r
    be the share of those candidates that hold it and q that of the corpus: where r > q, λ·log(r / q) is taken off its logit, so
    that at λ = 1 and temperature 1 its odds are divided by how many times too often it came. Only decoders that write the
    tokens of a corpus know q; for others, and where nothing was drawn before, nothing is damped.
    """

    def check(self) -> None:
        """Raise ``SettingError`` if a number is out of range."""
        positive(self.temperature, "A temperature")
        finite(self.noise, "The noise")
        finite(self.damping, "The damping")
        finite(self.rotation, "A rotation, 1 − cos,", most=2)


AUTO = tuple(Setting(t, n) for t, n in product((0.5, 1.0, 2.0, 4.0), (0.0, 0.05, 0.1)))
"""Pooled by ``"auto"`` (Huang et al. 2024, appendix on sampling): 64 candidates of each of 12 settings."""
FACTS = (
    *(Setting(t) for t in (0.5, 1.0, 2.0, 4.0)),
    *(Setting(t, rotation=r) for t, r in product((1.0, 2.0), (0.1, 0.25))),
    *(Setting(t, rotation=r, rescale=True) for t, r in ((1.0, 0.0), (0.5, 0.1), (1.0, 0.1), (1.0, 0.25))),
    *(
        Setting(t, rotation=r, rescale=s, damping=1.0)
        for t, r, s in ((1.0, 0, False), (2.0, 0, False), (1.0, 0.1, False), (1.0, 0.1, True))
    ),
)
"""Pooled by ``"facts"``: 16 settings for the cosine distance, which is blind to norms (same paper, on factual recall)."""
POOLS = {"auto": AUTO, "facts": FACTS}
Pool = Literal["auto", "facts"]


def pool_named(name: str) -> tuple[Setting, ...]:
    """Return the settings of a pool.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in POOLS:
        raise SettingError(f"There is no pool of settings {name!r}: choose {' or '.join(POOLS)}.")
    return POOLS[name]
