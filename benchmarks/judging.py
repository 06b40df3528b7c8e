"""Verdicts where the truth is known: how often they are right, and what is wrong called proven; and how long they take.

python benchmarks/judging.py [STATEMENTS] [SEED] [STUDY …]

Of random activations of addition and counting it is known exactly, by brute force over the even half of a bank, which
conjunction of feature values, or ranges of numbers, is their preimage: it is true of 99 % of the inputs inside ε, and 99 % of
those of which it is true lie inside, those between ε and 2ε left out. From that statements are made whose verdict is known:

    right          that conjunction                                                               proven
    general        what holds inside, but of the inputs of which it is true 30 % or more lie outside    too general
    narrow         with another value of the input, which 5 to 70 % of the preimage have             too narrow
    other site     what is right of another site for the same input, no truer inside than elsewhere  unproven
    other query    what is right of another input at the same site, true of 5 % inside at most       unproven
    subtle         one digit, letter, carry or range of the right one changed                         unproven

The judge tests on the odd half. STATEMENTS (by default 1,000) of each study are judged on its bank of 200,000 inputs, on as
many threads as OMP_NUM_THREADS allows.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import inversionview as iv
from inversionview.analyses.judge.result import Judgements
from inversionview.model.sites.site import Site

EXPECTED = {
    "right": "proven", "general": "too general", "narrow": "too narrow", "other site": "unproven", "other query": "unproven",
    "subtle": "unproven",
}  # fmt: skip
PLACES = {
    "addition": [("a0.0", "="), ("a0.0", "A1"), ("a0.0", "+"), ("a0.3", "A2"), ("x0.mid", "="), ("a1.2", "A2"),
                 ("x1.post", "A1"),
                 *(("x0.pre", at) for at in ("F1", "F2", "F3", "S1", "S2", "S3", "A1", "A2", "A3"))],
    "counting": [("a1.0", ":"), ("x1.mid", ":"), ("x1.post", ":"), ("a0.0", ":"), ("x0.pre", "query"), ("a0.0", "query"),
                 ("x0.post", ":"), ("x0.pre", ":"), ("x0.mid", "query"), ("x0.mid", ":"), ("a1.0", "query")],
}  # fmt: skip
"""Where activations are read; those whose content no conjunction of values tells exactly are passed over."""
EXACT, LEAST = 0.99, 100
Values = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A statement whose verdict is known."""

    kind: str
    row: int
    site: str
    at: str
    statement: str

    def record(self, texts: dict[int, str]) -> dict[str, Any]:
        """Return it as ``iv.judge`` takes it."""
        return {"text": texts[self.row], "at": self.at, "site": self.site, "statement": self.statement, "by": self.kind}


class Truth:
    """What is inside ε and what clearly outside, by brute force over the even rows of a bank, at one site."""

    def __init__(self, study: iv.Study, bank: Any, features: Values, site: str) -> None:
        self.rows, self.features, self.epsilon = np.arange(0, len(bank), 2), features, study.spec.epsilon
        names = bank.manifest.positions
        self.there = bank.located(self.rows, names)[1] >= 0
        self.stored = [bank.activations(site, name, self.rows).numpy() for name in names]
        self.squares = [(x**2).sum(1) for x in self.stored]
        self.bank, self.site, self.names = bank, site, names

    def sides(self, row: int, at: str) -> tuple[np.ndarray, np.ndarray]:
        """Return which even rows lie inside, and which beyond 2ε; the query itself is on neither side."""
        z = self.bank.activations(self.site, at, np.array([row])).numpy()[0]
        square, near = float((z**2).sum()), np.full(len(self.rows), np.inf)
        for column, (x, own) in enumerate(zip(self.stored, self.squares, strict=True)):
            d = np.sqrt((own - 2 * (x @ z) + square).clip(min=0) / square)
            near = np.minimum(near, np.where(self.there[:, column], d, np.inf))
        near[self.rows == row] = np.nan
        return near <= self.epsilon, near > 2 * self.epsilon

    def true(self, values: Values) -> np.ndarray:
        """Return of which even rows a conjunction is true."""
        each = []
        for name, value in values.items():
            column = self.features[name][self.rows]
            each.append((column >= value[0]) & (column <= value[1]) if isinstance(value, tuple) else column == value)
        return np.all(each, axis=0)

    def holding(self, row: int, inside: np.ndarray) -> Values:
        """Return the values, or of numbers the ranges, that 99 % of the inputs inside have."""
        found: Values = {}
        for name, column in self.features.items():
            within = column[self.rows][inside]
            if (within == column[row]).mean() >= EXACT:
                found[name] = column[row]
            elif column.dtype.kind in "iu":
                low, high = (int(np.quantile(within, q, method="nearest")) for q in (0.002, 0.998))
                if low <= column[row] <= high and (low > column.min() or high < column.max()):
                    found[name] = low, high
        return found


def said(values: Values) -> str:
    """Return a conjunction as filters."""
    each = [
        f"{name}>={value[0]}, {name}<={value[1]}" if isinstance(value, tuple) else f"{name}={value}"
        for name, value in values.items()
    ]
    return ", ".join(each)


def exact(truth: Truth, inside: np.ndarray, outside: np.ndarray, known: Values) -> Values | None:
    """Return the fewest of the values that hold inside which tell the preimage exactly; ``None`` where all of them do not."""

    def fits(values: Values) -> bool:
        true = truth.true(values)
        return bool(true[inside].mean() >= EXACT and _within(true, inside, outside) >= EXACT)

    if not known or not fits(known):
        return None
    for name in list(known):
        fewer = {other: value for other, value in known.items() if other != name}
        known = fewer if fewer and fits(fewer) else known
    return known


def _within(true: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the share of the inputs inside among those of which a statement is true, inside or clearly outside."""
    within = int((true & inside).sum())
    return within / max(1, within + int((true & outside).sum()))


def changed(name: str, value: Any, values: np.ndarray, rng: np.random.Generator) -> Any:
    """Return a value next to one: a digit or letter of it one more or less, a carry flipped, or the range beside a range."""
    if isinstance(value, tuple):
        low, high = value
        return (high + 1, 2 * high - low + 1) if high < values.max() else (2 * low - high - 1, low - 1)
    near = sorted(set(values.tolist()) - {value}, key=lambda other: _apart(value, other))
    least = _apart(value, near[0])
    return near[int(rng.integers(sum(_apart(value, other) == least for other in near)))]


def _apart(a: Any, b: Any) -> float:
    a, b = str(a), str(b)
    return sum(abs(ord(x) - ord(y)) for x, y in zip(a, b, strict=True)) if len(a) == len(b) else 1000.0


def cases(study: iv.Study, bank: Any, rng: np.random.Generator, wanted: int) -> list[Case]:
    """Return statements whose verdict is known, about as many of each kind, each activation with one of every kind there is."""
    parts = [bank.features(np.arange(i, min(i + 2**16, len(bank)))) for i in range(0, len(bank), 2**16)]
    features = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = rng.permutation(len(bank))[: max(20, wanted)]
    found: dict[tuple[str, str], dict[int, tuple[Values, np.ndarray, np.ndarray, Truth]]] = {}
    places = PLACES[study.name]
    for site in dict.fromkeys(site for site, _ in places):
        truth = Truth(study, bank, features, site)
        for at in (at for other, at in places if other == site):
            own = found.setdefault((site, at), {})
            for tried, row in enumerate(rows.tolist()):
                if len(own) * 5 * len(places) >= wanted * 1.5 or (tried >= 12 and not own) or tried > 60:
                    break
                inside, outside = truth.sides(row, at)
                if inside.sum() < LEAST or outside.sum() < LEAST:
                    continue
                known = truth.holding(row, inside)
                right = exact(truth, inside, outside, known)
                if right is not None:
                    own[row] = right, inside, outside, truth
        print(f"{study.name} {site}: " + ", ".join(f"{at} {len(found[s, at])}" for s, at in found if s == site), flush=True)
    made = [case for place in found for row in found[place] for case in of_one(found, place, row, features, rng)]
    every = [made[i] for i in rng.permutation(len(made))]
    kept = {(case.site, case.at, case.row) for case in every[: max(1, wanted // 5)]}
    return [case for case in made if (case.site, case.at, case.row) in kept][:wanted]


def of_one(found: Any, place: tuple[str, str], row: int, features: Values, rng: np.random.Generator) -> Iterator[Case]:
    """Yield statements about one activation."""
    right, inside, outside, truth = found[place][row]
    site, at = place

    def case(kind: str, values: Values) -> Case:
        return Case(kind, row, site, at, said(values))

    yield case("right", right)
    holding = truth.holding(row, inside)
    names = [*holding]
    for name in [names[i] for i in rng.permutation(len(names))]:
        fewer = {other: value for other, value in right.items() if other != name} if name in right else {name: holding[name]}
        if fewer and _within(truth.true(fewer), inside, outside) <= 0.7:
            yield case("general", fewer)
            break
    others = [name for name in features if name not in holding]
    for name in [others[i] for i in rng.permutation(len(others))]:
        more = {**right, name: features[name][row]}
        if 0.05 <= truth.true(more)[inside].mean() <= 0.7:
            yield case("narrow", more)
            break
    for other in [[*found][i] for i in rng.permutation(len(found))]:
        values = found[other].get(row, (None,))[0]
        if values is None or other[0] == site:
            continue
        true = truth.true(values)
        if true[inside].mean() <= min(0.8, 1.2 * true.mean()):
            yield case("other site", values)
            break
    for other in [[*found[place]][i] for i in rng.permutation(len(found[place]))]:
        values = found[place][other][0]
        if truth.true(values)[inside].mean() <= 0.05:
            yield case("other query", values)
            break
    names = [*right]
    for name in [names[i] for i in rng.permutation(len(names))]:
        wrong = {**right, name: changed(name, right[name], features[name], rng)}
        if truth.true(wrong)[inside].mean() <= 0.05:
            yield case("subtle", wrong)
            break


def report(study: str, made: Judgements, took: float, busy: float) -> tuple[int, int, int, int]:
    """Print how often verdicts are right by kind; return right, all, wrong ones called proven, and how many are wrong."""
    right = wrong = proven = 0
    activations = len({each.claim.activation for each in made})
    print(
        f"{study}: {len(made)} statements about {activations} activations on {made.inputs:,} inputs in {took:.0f} s, "
        f"{busy:.0f} s of a core"
    )
    for kind, expected in EXPECTED.items():
        own = [each for each in made if each.claim.by == kind]
        told = Counter(each.verdict for each in own)
        right += told[expected]
        if expected == "unproven":
            proven, wrong = proven + told["proven"], wrong + len(own)
        listed = ", ".join(f"{verdict} {count}" for verdict, count in told.most_common())
        print(f"  {kind:12} {told[expected]:4} of {len(own):4} {expected}  ({listed})")
    about = [each.about for each in made if each.claim.by == "right" and each.about is not None]
    print(f"  of the right ones {sum(about)} of {len(about)} are about the activation", flush=True)
    return right, len(made), proven, wrong


def main() -> None:
    """Make the statements, judge them, and count."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    total = np.zeros(4, dtype=int)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for name in sys.argv[3:] or list(PLACES):
        study = iv.load(name)
        bank = study.bank()
        sites = {site.short for site in bank.sites}
        PLACES[name] = [(site, at) for site, at in PLACES[name] if Site.parse(site).short in sites]
        rng, began = np.random.default_rng(seed), time.perf_counter()
        made = cases(study, bank, rng, wanted)
        rows = sorted({case.row for case in made})
        texts = dict(zip(rows, map(study.model.vocabulary.decode, bank.tokens(np.array(rows)).tolist()), strict=True))
        print(f"{name}: statements made in {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        busy = time.process_time()
        judged = iv.judge(study, [case.record(texts) for case in made], bank=bank)
        total += report(name, judged, time.perf_counter() - began, time.process_time() - busy)
        for each in judged:
            if each.verdict != EXPECTED[str(each.claim.by)]:
                claim = each.claim
                print(
                    f"    {claim.by}: {claim.statement} of {claim.site} at {claim.at} of {claim.text}: {each.verdict}.",
                    each.why,
                )
    right, every, proven, wrong = total.tolist()
    print(f"verdicts right: {right} of {every} = {right / max(1, every):.4f}")
    print(f"swapped or subtly wrong called proven: {proven} of {wrong} = {proven / max(1, wrong):.4f}")


if __name__ == "__main__":
    main()
