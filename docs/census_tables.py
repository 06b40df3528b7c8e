"""Puts what heads attend to beside what a census says that they tell; the tables of docs/census.md.

    inversionview inform --model MODEL --texts sotu --tokens 60000 --out census.parquet
    python docs/census_tables.py MODEL census.parquet

Attention is the mean over every token of the corpus' first windows: to the token before, to the last occurrence of the same
token, and to the token behind that, of tokens that have one; and to itself.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas
import torch

import inversionview as iv
from inversionview.corpora.token_features import Windows

WINDOWS = 40
SCORES = ("before", "two before", "same", "after same", "itself")


def attention(study: iv.Study) -> pandas.DataFrame:
    """Return the mean attention of every head from a token to others, a row for each head."""
    inputs = study.inputs
    tokens = inputs.corpus(np.arange(WINDOWS))
    sums, counts = 0.0, np.zeros(len(SCORES))
    for row in tokens:
        ids = row[row != inputs.pad][None, :-1]  # without EOS
        last = Windows(ids, inputs.read_by).last_same[0]
        at = np.arange(1, ids.shape[1])
        patterns = study.model.patterns(torch.from_numpy(ids), torch.from_numpy(at)[None])[:, 0].float().numpy()
        targets = (at - 1, at - 2, last[at], np.where(last[at] >= 0, last[at] + 1, -1), at)
        told = []
        for i, target in enumerate(targets):
            some = (target >= 0) & ((i != 3) | (target != at))
            told.append(patterns[:, :, some, target[some]].sum(-1))
            counts[i] += some.sum()
        sums = sums + np.stack(told, axis=-1)
    means = sums / counts
    heads = [f"a{layer}.{head}" for layer in range(means.shape[0]) for head in range(means.shape[1])]
    return pandas.DataFrame(means.reshape(-1, len(SCORES)), index=heads, columns=SCORES)


def main(model: str, census: str) -> None:
    """Print for each feature the heads that tell most, and for each score those that attend most, and how both agree."""
    table = pandas.read_parquet(census)
    bits = table.pivot(index="site", columns="feature", values="bits")
    low = table.pivot(index="site", columns="feature", values="bits_low")
    scores = attention(iv.load(model=model, texts="sotu"))
    heads = [site for site in bits.index if site in scores.index]
    both = bits.loc[heads].join(scores.loc[heads])
    pairs = {"token before": "before", "token two before": "two before", "token after same": "after same", "token": "itself",
             "distance to same": "same"}  # fmt: skip
    for feature, score in pairs.items():
        rank = both[[feature, score]].corr(method="spearman").iloc[0, 1]
        print(f"\n{feature} (bits) and attention to {score}: Spearman {rank:.2f} over {len(heads)} heads")
        for name in low.loc[heads, feature].sort_values(ascending=False).index[:6]:
            told = f"{bits.loc[name, feature]:.2f} bits [≥ {low.loc[name, feature]:.2f}]"
            print(f"  tells     {name}: {told}, attends {scores.loc[name, score]:.2f}")
        for name in scores[score].sort_values(ascending=False).index[:6]:
            told = bits[feature].get(name, float("nan"))
            print(f"  attends   {name}: {scores.loc[name, score]:.2f}, tells {told:.2f} bits")


if __name__ == "__main__":
    main(*sys.argv[1:3])
