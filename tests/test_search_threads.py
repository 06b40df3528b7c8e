"""Slices of a bank are searched in several threads: the same hits in the same order, one thread where one is all there is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.bank import manifest, store, threads
from inversionview.bank.hits import Hits
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError

ROWS = 2000


@pytest.fixture
def bank(counting: iv.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationBank:
    """Of ten shards, so large that a search by its sketches is tried, and unmapped again and again."""
    monkeypatch.setattr(manifest, "SHARD_ROWS", 200)
    monkeypatch.setattr(store, "_MAPPED_BYTES", 2**16)
    monkeypatch.setattr("inversionview.bank.search._SMALL", 0)
    return iv.build_bank(counting, tmp_path / "bank", rows=ROWS)


@pytest.fixture
def counted() -> Iterator[None]:
    yield
    torch.set_num_threads(2)  # as the other tests have it


def found(bank: ActivationBank, z: torch.Tensor, count: int) -> list[Hits]:
    torch.set_num_threads(count)
    hits = [next(search(bank, "x1.post", each[None], epsilon=0.3, k=20)) for each in z]
    assert torch.get_num_threads() == count
    return hits


def test_hits_are_the_same_with_any_number_of_threads(bank: ActivationBank, counting: iv.Study, counted: None) -> None:
    assert len(bank.shards) == 10
    z = bank.activations("x1.post", ":", np.array([3, 500, 1999, 777]))
    tokens = counting.inputs.corpus(np.arange(ROWS))
    named = counting.inputs.named_positions(tokens)
    every = counting.model.activations(torch.from_numpy(tokens), [iv.Site(1, "post")])[0]
    at = torch.stack([every[torch.arange(ROWS), torch.from_numpy(named[name])] for name in bank.manifest.positions])
    alone = found(bank, z, 1)
    for query, hits in zip(z, alone, strict=True):
        wanted = ((at - query).norm(dim=-1) / query.norm()).min(0).values.numpy()
        assert (
            set(np.flatnonzero(wanted <= 0.299)) <= set(hits.within(0.3).rows.tolist()) <= set(np.flatnonzero(wanted <= 0.301))
        )
    for count in (2, 3):
        for one, other in zip(alone, found(bank, z, count), strict=True):
            for name in ("rows", "distances", "positions"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_process_with_one_thread_starts_no_other(
    bank: ActivationBank, monkeypatch: pytest.MonkeyPatch, counted: None
) -> None:
    threads._pool.cache_clear()
    monkeypatch.setattr(threads, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("a thread was started"))
    found(bank, bank.activations("x1.post", ":", np.array([3])), 1)


def test_operations_in_each_thread_have_one(monkeypatch: pytest.MonkeyPatch, counted: None) -> None:
    torch.set_num_threads(2)
    assert threads.ThreadPoolExecutor is ThreadPoolExecutor
    made = list(threads.each(lambda item: (item, torch.get_num_threads(), get_ident()), range(20)))
    assert [item for item, _, _ in made] == list(range(20))
    assert {count for _, count, _ in made} == {1}
    assert get_ident() not in {thread for _, _, thread in made}
    assert torch.get_num_threads() == 2


def test_damage_that_a_thread_meets_is_told(bank: ActivationBank, counted: None) -> None:
    z = bank.activations("x1.post", ":", np.array([3]))
    path = bank.folder / "shard-00007" / "codes.npy"
    data = path.read_bytes()
    bank.shards[7].release()
    path.write_bytes(data[:128] + bytes(255 - byte for byte in data[128:]))
    with pytest.raises(BankError, match="shard-00007"):
        found(bank, z, 2)
