"""One colour code: the same numbers in Python and in the page, letters that can be read on them, told apart by everyone."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

import inversionview as iv
from inversionview.core.results import as_html, as_text
from inversionview.drawing import colours
from inversionview.drawing.tokens import colour
from inversionview.page.bundle import STATIC

CSS = (STATIC / "explorer.css").read_text(encoding="utf-8")
READABLE = 4.5
"""The contrast of small text that WCAG 2 asks for."""
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What linear RGB becomes without one kind of cones (Machado et al. 2009, severity 1)."""
Colour = tuple[float, ...]


def channels(text: str) -> Colour:
    """Red, green and blue, 0 … 1, of #rgb or #rrggbb."""
    digits = text[1:] if len(text) == 7 else "".join(2 * c for c in text[1:])
    return tuple(value / 255 for value in bytes.fromhex(digits))


def linear(one: Colour) -> np.ndarray:
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in one])


def contrast(one: Colour, other: Colour) -> float:
    """By the definition of WCAG 2."""
    light = [float(np.dot((0.2126, 0.7152, 0.0722), linear(c))) + 0.05 for c in (one, other)]
    return max(light) / min(light)


def variable(name: str, dark: bool = False) -> Colour:
    """A variable of the style sheet, in one of its themes."""
    value = re.search(rf"--{name}: (?:light-dark\((#\w+), (#\w+)\)|(#\w+));", CSS)
    assert value is not None, name
    return channels(value[3] or value[2 if dark else 1])


def over(paper: Colour, tint: Colour, share: float) -> Colour:
    return tuple(share * t + (1 - share) * p for t, p in zip(tint, paper, strict=True))


def shares() -> list[float]:
    """How much of the full colour a token's shade has at most, on light and on dark paper."""
    found = re.search(r"--raised: light-dark\(.*?likelier\) (\d+)%.*?likelier\) (\d+)%", CSS)
    assert found is not None
    assert f"--lowered: {found[0].removeprefix('--raised: ').replace('likelier', 'less-likely')}" in CSS
    return [int(part) / 100 for part in found.groups()]


def test_page_and_terminal_have_the_same_numbers() -> None:
    assert variable("likelier") == channels(colours.LIKELIER)
    assert variable("less-likely") == channels(colours.LESS_LIKELY)
    assert variable("blue") == channels(colours.KNOWN)
    assert variable("line") == channels(colours.EPSILON)
    assert colours.tint(1.0) == colours.LIKELIER
    assert colours.tint(-1.0) == colours.LESS_LIKELY
    assert colours.tint(0.01) == "#ffffff"


@pytest.mark.parametrize("effect", [-1.0, -0.5, -0.05, 0.05, 0.5, 1.0])
def test_letters_are_read_on_every_tint(effect: float) -> None:
    ink, ground = colour(effect).split(" on ")
    assert contrast(channels(ink), channels(ground)) >= READABLE
    full = colours.LIKELIER if effect > 0 else colours.LESS_LIKELY
    for dark, share in zip((False, True), shares(), strict=True):
        paper = variable("paper", dark)
        for letters, most in (("ink", 1.0), ("dim", 0.45)):  # of rows inside ε, and outside, where the shade is thinner
            ground_of_page = over(paper, channels(full), share * most * abs(effect))
            assert contrast(variable(letters, dark), ground_of_page) >= READABLE
    assert "--strength: 45%" in CSS


def test_the_two_are_told_apart_by_the_colour_blind() -> None:
    """In CIELAB, for each kind of colour blindness: a difference of 2.3 is just seen."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(rgb: np.ndarray) -> np.ndarray:
        x, y, z = (
            t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
            for t in to_xyz @ rgb.clip(0, 1) / to_xyz.sum(1)
        )
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    up, down = linear(channels(colours.LIKELIER)), linear(channels(colours.LESS_LIKELY))
    for matrix in (np.eye(3), *map(np.array, BLIND.values())):
        assert math.dist(lab(matrix @ up), lab(matrix @ down)) > 20


def test_the_legend_stands_beside_rows_with_an_effect(counting: iv.Study) -> None:
    """A corpus and a walk know of no effect, so nothing is said of one."""
    preimage = iv.read(counting, counting.query("vvv|v:3", at=":", site="a1.0"), count=8, each=4, source="decoder")
    assert "less likely ■■□■■ likelier by the activation" in as_text(preimage)
    html = as_html(preimage)
    assert all(shade in html for shade in (colours.LIKELIER, colours.LESS_LIKELY))
    bare = replace(preimage, samples=tuple(replace(sample, effect=None) for sample in preimage.samples))
    assert "likel" not in as_text(bare)
