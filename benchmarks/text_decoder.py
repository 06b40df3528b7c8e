"""What a decoder of natural text writes of held-out occurrences: ``python benchmarks/text_decoder.py RUN [--queries 200]``.

RUN is a run of texts that ``inversionview train RUN`` has trained. Queries are occurrences, one of a window, in windows of the
test split, which no training sees; one whose prefix occurs among the trained ones is passed over. Held against each other, at
each site:

- the decoder's samples at temperature 1, ``--samples`` of each query, and the nearest of these;
- the nearest corpus text: the prefix of the trained occurrence whose activation is nearest, by exact search;
- unconditional samples of the same decoder: it is given the activation of BOS, or zeros where texts have none;
- with a decoder around a language model, what it writes with the prefixes of the ``--shown`` nearest trained occurrences before
  it, the nearest last, each in its frame. It was not trained to be shown any.

All are run through the model. D is compared where a text ends. The good ratio is the share with D ≤ ε. F1 is that of two bags
of tokens, 2 |A ∩ B| / (|A| + |B|) with multiplicities: of the text and the query's true prefix, without BOS and EOS; *last
four* of the last four tokens of each, of a shorter one all. *Last* is the share that end with the query's own token. Of each
query the mean over its samples is taken; what is told is the mean over queries, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.corpora.positions import last_of
from inversionview.decoder.balls.candidates import Ball, Candidates
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.occurrences import BankedPrefixes, prefixes
from inversionview.decoder.sampling import sample
from inversionview.model.measure import distance_to
from inversionview.model.sites.site import Site

MEASURES = ("good ratio", "F1", "F1 of the last four", "last", "D")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def f1(one: Sequence[int], other: Sequence[int]) -> float:
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


def held_out(study: iv.Study, source: BankedPrefixes, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Prefixes of random occurrences of the test windows, where each ends, and how many were passed over."""
    inputs, rng = study.inputs, np.random.default_rng(seed)
    windows = inputs.tokens(rng.permutation(inputs.split("test")))
    mask = inputs.occurring(windows)
    mask[:, source.prefix :] = False
    last = np.where(mask, rng.random(mask.shape), -1).argmax(1)
    found = prefixes(windows, last, source.prefix + 1, inputs.eos, inputs.pad)
    known = set(source.bank.marks(source.rows).tolist())
    marks = [int(source.bank.places.mark(row[None], int(at))) for row, at in zip(found, last, strict=True)]
    fresh = np.array([mark not in known for mark in marks])
    stop = int(np.flatnonzero(fresh.cumsum() == count)[0]) + 1
    kept = np.flatnonzero(fresh[:stop])
    return found[kept], last[kept], int((~fresh[:stop]).sum())


class Judge:
    """Measures texts written for the queries at one site."""

    def __init__(self, study: iv.Study, site: Site, truth: np.ndarray, z: torch.Tensor, epsilon: float, distance: str) -> None:
        self.study, self.site, self.z, self.epsilon, self.distance = study, site, z, epsilon, distance
        self.truth = [self.body(row) for row in truth]

    def body(self, row: np.ndarray) -> list[int]:
        """Return the tokens of a text, without BOS, EOS and padding."""
        v = self.study.model.vocabulary
        return [token for token in row.tolist()[len(v.front) :] if token not in (v.pad, v.eos)]

    def of(self, tokens: torch.Tensor) -> np.ndarray:
        """Return what is measured, ``[query, text, measure]``, of texts ``[query, text, pos]``."""
        count, each, width = tokens.shape
        model, flat = self.study.model, tokens.reshape(-1, width)
        ends = partial(last_of, vocabulary=model.vocabulary)
        z = self.z.repeat_interleave(each, dim=0)
        _, near, _ = distance_to(model, flat, z, self.site, self.distance, ends)
        rows = []
        for number, (row, d) in enumerate(zip(flat.numpy(), near.tolist(), strict=True)):
            text, true = self.body(row), self.truth[number // each]
            rows.append((d <= self.epsilon, f1(text, true), f1(text[-4:], true[-4:]), text[-1] == true[-1], d))
        return np.array(rows, dtype=float).reshape(count, each, -1)


def nearest(candidates: Candidates, ball: Ball, z: torch.Tensor, k: int) -> np.ndarray:
    """Numbers of the k nearest candidates of each query, the nearest first, by exact search."""
    (vectors,) = candidates.vectors
    points, held = ball.vectors(z), vectors.float()
    score = points @ held.T - held.square().sum(1) / 2
    return score.topk(k, dim=1).indices.numpy()


@contextmanager
def shown(decoder: Decoder, context: torch.Tensor) -> Iterator[None]:
    """Let a decoder around a language model read some tokens before it writes."""
    plain = decoder.begin

    def begin(z: torch.Tensor, site: torch.Tensor) -> object:
        steps = plain(z, site)
        decoder.run(decoder.own(context).clamp(min=0).expand(len(z), -1), steps.cache)
        return steps

    decoder.begin = begin
    try:
        yield
    finally:
        del decoder.begin


def drawn(decoder: Decoder, z: torch.Tensor, site: int, each: int, seed: int) -> torch.Tensor:
    many = z.repeat_interleave(each, dim=0).to(decoder.device)
    which = torch.full((len(many),), site, device=decoder.device)
    generator = torch.Generator(decoder.device).manual_seed(seed)
    return sample(decoder, many, which, generator=generator).cpu().view(len(z), each, -1)


def with_shown(
    decoder: Decoder, z: torch.Tensor, site: int, each: int, seed: int, before: list[list[list[int]]]
) -> torch.Tensor:
    parts = []
    for number, texts in enumerate(before):
        with shown(decoder, torch.tensor([[token for text in reversed(texts) for token in text]])):
            parts.append(drawn(decoder, z[number : number + 1], site, each, seed + number))
    return torch.cat(parts)


@torch.no_grad()
def judged(study: iv.Study, told: argparse.Namespace) -> list[dict[str, object]]:
    decoder, bank = study.decoder, study.bank(study.folder)
    sites = [Site.parse(name) for name in decoder.config.sites]
    source, model = BankedPrefixes(bank, sites), study.model
    truth, last, passed = held_out(study, source, told.queries, told.seed)
    say(
        f"{len(source.rows):,} trained occurrences; {passed} of {passed + len(truth)} queries passed over, their prefix is one."
    )
    zs, rows = model.harvest(truth, sites, last[:, None])[:, :, 0].float().cpu(), []
    for number, site in enumerate(sites):
        one, z = BankedPrefixes(bank, [site]), zs[number]
        ball = Ball(model.metric(told.distance, site), told.epsilon, model.width(site), model.frame(site))
        held = one.candidates([ball], len(one.rows), (told.seed,), np.array([True]))
        near = nearest(held, ball, z, max(1, told.shown))
        judge = Judge(study, site, truth, z, told.epsilon, told.distance)
        nothing = torch.zeros_like(z)
        if model.vocabulary.bos is not None:
            bos = torch.tensor([[model.vocabulary.bos]])
            nothing = model.activations(bos, [site], torch.zeros(1, 1, dtype=torch.long))[0, 0].float().cpu().expand(len(z), -1)
        started = time.perf_counter()
        own = judge.of(drawn(decoder, z, number, told.samples, told.seed))
        seconds = time.perf_counter() - started
        best = np.take_along_axis(own, own[:, :, -1:].argmin(1)[:, None], axis=1)
        inside = np.where(own[:, :, :1] > 0, own, np.nan)
        found = {
            "decoder": own,
            f"nearest of its {told.samples}": best,
            "its samples inside ε": inside,
            "nearest corpus text": judge.of(torch.from_numpy(held.tokens[near[:, :1]])),
            "unconditional": judge.of(drawn(decoder, nothing, number, told.samples, told.seed)),
        }
        if decoder.config.base and told.shown:
            texts = [[[t for t in row if t != study.inputs.pad] for row in held.tokens[rows].tolist()] for rows in near]
            found[f"decoder, shown {told.shown}"] = judge.of(with_shown(decoder, z, number, told.samples, told.seed, texts))
        speed, threads = len(z) * told.samples / seconds, torch.get_num_threads()
        say(f"{site.short}: {speed:.1f} samples/s drawn and verified, {threads} threads")
        rows += [summary(site.short, name, values) for name, values in found.items()]
    return rows


def summary(site: str, name: str, values: np.ndarray) -> dict[str, object]:
    """The mean over queries of each measure, and its 95 % interval; queries without a text do not count."""
    there = ~np.isnan(values[:, :, 0]).all(1)
    each = np.nanmean(values[there], axis=1) if there.any() else np.zeros((1, len(MEASURES)))
    mean, off = each.mean(0), 1.96 * each.std(0, ddof=min(1, len(each) - 1)) / np.sqrt(len(each))
    measured = (
        {m: [float(a), float(a - b), float(a + b)] for m, a, b in zip(MEASURES, mean, off, strict=True)} if there.any() else {}
    )
    return {"site": site, "texts": name, "queries": int(there.sum()), **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--shown", type=int, default=3, help="nearest prefixes before what a language model writes; 0: none")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--distance", default="cosine")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    study = iv.load(told.run)
    study.model.metric(told.distance, study.sites[-1])
    rows = judged(study, told)
    if told.json:
        print(json.dumps({**vars(told), "rows": rows}))
        return
    title = f"{told.run}: {told.queries} held-out occurrences, {told.samples} samples each, ε = {told.epsilon} {told.distance}"
    table = Table("site", "texts", "queries", *MEASURES, title=title)
    for row in rows:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[measure]) if measure in row else "–" for measure in MEASURES]
        table.add_row(str(row["site"]), str(row["texts"]), str(row["queries"]), *cells)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
