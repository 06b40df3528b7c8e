"""Decoders of what precedes a token of natural text: pairs, spelling and D against plain runs; resuming; bad input."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import inversionview as iv
from inversionview.cli import main
from inversionview.decoder import spelling
from inversionview.decoder.balls.balls import Balls
from inversionview.decoder.batches import make_pool
from inversionview.decoder.beginning import new_decoder
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.occurrences import BankedPrefixes
from inversionview.decoder.recipe import TrainConfig
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.decoder.spelling import Spelling, pieces_of
from inversionview.explorer.answers.info import study_info
from inversionview.explorer.answers.maps import ratio_map
from inversionview.model.tokens import Vocabulary
from inversionview.runs.train import Reading, Watch
from inversionview.runs.train_run import train_run
from inversionview.studies.load import keep
from tests.plain import Plain
from tests.vocabularies import QWEN, QWEN_SPECIALS, byte_level, save

torch.set_num_threads(1)
WORDS = ["the", "cat", "sat", "on", "mat", "and", "Mary", "John", "went", "store", "drink", "lather", "café", "🙂", "猫"]
CONTEXT, SITES = 10, ("x0.post", "a1.2")
TINY = {"layers": 1, "heads": 2, "width": 16, "pathway": 16, "blocks": 1, "hidden": 16, "cells": 2, "rank": 4}


def lines(count: int = 150) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 14)).tolist()) for _ in range(count)]


def made(root: Path, *, bos: bool) -> Path:
    """A run of a random Llama (with a BOS) or Qwen (without), its bank made by the command."""
    if bos:
        named = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
        save(root / "model", byte_level(("<|begin|>", "<|end|>")), named)
    else:
        save(root / "model", byte_level(QWEN_SPECIALS), QWEN, "qwen")
    (root / "texts.txt").write_text("\n".join(lines()), encoding="utf-8")
    made_by = ["bank", "--model", str(root / "model"), "--texts", str(root / "texts.txt"), "--context", str(CONTEXT)]
    assert run([*made_by, "--sites", ",".join(SITES), "--tokens", "700", "--out", str(root / "run")]) == 0
    return root


def run(argv: list[str]) -> int:
    try:
        main(argv)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("llama"), bos=True)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("qwen"), bos=False)


@pytest.fixture(params=["llama", "qwen"])
def root(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@cache
def plain(folder: Path) -> Plain:
    return Plain(AutoModelForCausalLM.from_pretrained(folder))


def read_plainly(root: Path, ids: list[int], site: str) -> torch.Tensor:
    """The activation at the last token, by hooks on the plain model."""
    return plain(root / "model").run(ids)[1][site][-1]


def windows(root: Path) -> list[list[int]]:
    """As the definition has them, by transformers' own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    front = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found, room = [], CONTEXT - len(front)
    for line in lines():
        ids = tokenizer(line, add_special_tokens=False)["input_ids"]
        found += [[*front, *ids[i : i + room]] for i in range(0, len(ids), room)]
    return found


def body(row: Any, study: iv.Study) -> list[int]:
    """A row of tokens without EOS and padding."""
    v = study.model.vocabulary
    return [token for token in np.asarray(row).tolist() if token not in (v.eos, v.pad)]


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_are_an_activation_and_what_precedes_it(root: Path) -> None:
    study = iv.load(root / "run")
    bank = study.bank()
    source = BankedPrefixes(bank, bank.sites)
    drawn = source.draw(60, (0, 1))
    at, rows = drawn.allowed.argmax(1), np.arange(60)
    assert (drawn.allowed.sum(1) == 1).all(), "an activation may be taken at the last token alone"
    begins = {tuple(ids[:stop]) for ids in windows(root) for stop in range(1, len(ids) + 1)}
    for number, site in enumerate(SITES):
        z = source.read(drawn, rows, at, np.full(60, number))
        for row, last, vector in zip(drawn.tokens, at, z, strict=True):
            ids = body(row, study)
            assert len(ids) == last + 1
            assert tuple(ids) in begins
            assert torch.allclose(vector, read_plainly(root, ids, site), atol=2e-3, rtol=2e-3)


def test_no_window_of_the_test_split_is_trained_on(llama: Path) -> None:
    study = iv.load(llama / "run")
    bank = study.bank()
    every = bank.places.inputs_of(np.arange(len(bank)))
    trained = bank.places.inputs_of(BankedPrefixes(bank, bank.sites).rows)
    held = round(0.05 * len(study.inputs))
    assert set(trained) == set(every) - set(range(len(study.inputs) - held, len(study.inputs)))
    tested = {tuple(row) for row in study.inputs.tokens(study.inputs.split("test")).tolist()}
    assert len(study.inputs.split("test")) == held
    assert (
        Counter(
            tuple(row) for row in study.inputs.corpus(np.arange(len(study.inputs) - held, len(study.inputs))).tolist()
        ).keys()
        == tested
    )


def test_bos_tells_nothing(root: Path) -> None:
    study = iv.load(root / "run")
    bank = study.bank()
    source = BankedPrefixes(bank, bank.sites)
    drawn, bos = source.draw(4, (0, 2)), study.model.vocabulary.bos
    z = source.read(drawn, np.arange(4), np.full(4, -1 if bos is None else 0), np.array([0, 1, 0, 1]))
    for vector, site in zip(z, [*SITES, *SITES], strict=True):
        expected = torch.zeros(32) if bos is None else read_plainly(root, [bos], site)
        assert torch.allclose(vector, expected, atol=1e-5)


def test_members_of_a_ball_are_all_that_brute_force_finds(llama: Path) -> None:
    """Each input of a pool of ball pairs is inside, measured where it ends; alone are those near which no other prefix lies."""
    study = iv.load(llama / "run")
    bank = study.bank()
    source = BankedPrefixes(bank, bank.sites[:1])
    config = TrainConfig(minutes=None, steps=1, batch=16, pool=8, pairs_per_input=1, members=2, distance="cosine", epsilon=0.15,
                         bos_share=0.0)  # fmt: skip
    balls = Balls(source, study.model, config)
    pool = make_pool(source, config, 0, np.ones((1, 2)) / 2, balls)
    tokens, _ = bank.located(source.rows, ["all"])
    z = bank.activations(SITES[0], "all", source.rows)
    distances = 1 - torch.nn.functional.normalize(pool.z, dim=-1) @ torch.nn.functional.normalize(z, dim=-1).T
    places = bank.located(source.rows, ["all"])[1][:, 0]
    prefixes = [tuple(row[: at + 1].tolist()) for row, at in zip(tokens, places, strict=True)]
    alone = []
    for number, row in enumerate(distances):
        near, surely = ({prefixes[i] for i in torch.nonzero(row <= 0.15 + off)[:, 0].tolist()} for off in (1e-3, -1e-3))
        alone.append((len(near) == 1, len(surely) == 1))  # candidates are kept in half precision
        for pair in np.flatnonzero(pool.query == number):
            found = tuple(body(pool.tokens[pair], study))
            assert found in near
            assert 1 - torch.cosine_similarity(read_plainly(llama, list(found), SITES[0]), pool.z[number], dim=0) <= 0.151
    least, most = np.mean(alone, axis=0)
    assert 0 < least <= pool.alone <= most < 1


# -- spelling ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(llama: Path) -> tuple[DecoderConfig, Vocabulary]:
    """A vocabulary of the twenty most frequent tokens and bytes; ``PIECES`` is that small for this only."""
    study = iv.load(llama / "run")
    v = study.model.vocabulary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling, "PIECES", 20)
        tokens = pieces_of(study.inputs, v)
    config = DecoderConfig(("x0.post",), 32, v.pad, 60, bos=v.bos, eos=v.eos, pad=v.pad, tokens=tokens, prefix=CONTEXT,
                           backwards=True, respelled=True, **TINY)  # fmt: skip
    return config, v


def test_pieces_are_the_most_frequent_tokens_and_all_bytes(llama: Path, few: tuple[DecoderConfig, Vocabulary]) -> None:
    config, v = few
    counts = Counter(token for ids in windows(llama) for token in ids)
    held = sorted(counts.values(), reverse=True)[19]
    assert {token for token, count in counts.items() if count > held} <= set(config.tokens)
    contents = [v.pieces.content(token) for token in config.tokens]
    assert {bytes([b]) for b in range(256)} <= set(contents)
    assert len(config.tokens) <= 20 + 256 + 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*WORDS, "x", "\n", "ß"]), min_size=1, max_size=8), min_size=1, max_size=5))
def test_any_text_is_spelt_backwards_and_read_again(few: tuple[DecoderConfig, Vocabulary], texts: list[list[str]]) -> None:
    config, v = few
    rows = [v.encode(" ".join(words)) if " ".join(words).strip() else v.encode("cat") for words in texts]
    tokens = torch.full((len(rows), max(map(len, rows))), v.pad)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    pieces, owner = Spelling(config, v).written(tokens)
    again = Spelling(config, v).read(pieces)
    for ids, written, of, read in zip(rows, pieces.tolist(), owner.tolist(), again.tolist(), strict=True):
        content = [v.pieces.content(piece) for piece in reversed([p for p in written[1:] if p not in (v.eos, v.pad)])]
        whole = sum(p != v.pad for p in written)
        if written[whole - 1] == v.eos:  # it fits
            assert b"".join(content) == b"".join(v.pieces.content(i) for i in ids[1:-1])
            assert read == [*ids, *[v.pad] * (config.max_length - len(ids))]
        assert set(written) <= {*config.tokens, v.pad}
        assert of[0] == 0
        assert of[1:whole] == sorted(of[1:whole], reverse=True) or of[whole - 1] == len(ids) - 1
        for index in set(of[1 : whole - 1]):  # the pieces of a token are what it is
            mine = [v.pieces.content(written[i]) for i in range(1, whole - 1) if of[i] == index]
            if written[whole - 1] == v.eos:
                assert b"".join(reversed(mine)) == v.pieces.content(ids[index])


def test_pieces_that_are_no_text_stay(few: tuple[DecoderConfig, Vocabulary]) -> None:
    config, v = few
    half = v.tokenizer.token_to_id("ð")  # the first byte of an emoji, in the alphabet of byte-level tokenizers
    cat = v.tokenizer.token_to_id("c")
    row = torch.tensor([[v.bos, half, cat, v.eos, v.pad]])
    assert Spelling(config, v).read(row).tolist() == [[v.bos, cat, half, v.eos, v.pad]]


def test_a_texts_probability_is_that_of_its_pieces(few: tuple[DecoderConfig, Vocabulary]) -> None:
    config, v = few
    torch.manual_seed(0)
    decoder = ScratchDecoder(config).eval().speak(v)
    torch.nn.init.normal_(decoder.lm_head.weight)
    z, site = torch.randn(6, 32), torch.zeros(6, dtype=torch.long)
    drawn = sample(decoder, z, site, generator=torch.Generator().manual_seed(0))
    assert (drawn[:, 1] != v.eos).all(), "a text that is read somewhere has a token"
    ids = torch.tensor(v.encode("the lather café"))[None].expand(6, -1)
    scores = token_log_probs(decoder, ids, z, site)
    own = decoder.own(torch.from_numpy(decoder.spelling.spelt(ids.numpy())))
    real = int((own[0] >= 0).sum())
    with torch.no_grad():
        logits = decoder(own[:, : real - 1], z, site)
    each = logits.log_softmax(-1).gather(-1, own[:, 1:real, None])[..., 0]
    assert torch.allclose(scores.sum(1), each.sum(1), atol=1e-4)
    assert real > ids.size(1), "some tokens are spelt in pieces"
    assert torch.allclose(scores[:, -1], each[:, -1], atol=1e-4)  # EOS
    assert torch.equal(scores[:, 0], torch.zeros(6))


def test_tokens_begin_as_the_model_embeds_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many directions as the model is wide nothing is lost: tokens are as far apart as embeddings, but for a scale."""
    monkeypatch.setattr(spelling, "PIECES", 30)
    study = iv.load(root / "run")
    bank = study.bank()
    decoder = new_decoder(study.model, BankedPrefixes(bank, bank.sites), **{**TINY, "width": 32})
    ids = torch.tensor([token for token in decoder.config.tokens if token < study.model.shape.vocabulary])
    embedded = plain(root / "model").model.model.embed_tokens.weight.detach()[ids]
    for own in (decoder.embed_token.weight.detach(), decoder.lm_head.weight.detach()):
        ratio = torch.pdist(own[decoder.own(ids)]) / torch.pdist(embedded)
        assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)


# -- training and reading ----------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """In place of a Ctrl-C."""


def test_an_interrupted_training_goes_on_bit_by_bit(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "PIECES", 40)
    config = TrainConfig(minutes=None, steps=6, batch=8, pool=2, evaluations=2, queries=4)
    found = []
    for name in ("whole", "stopped"):
        folder = copied(llama / "run", tmp_path / name)

        def stop(done: float, row: dict[str, Any]) -> None:
            if row["step"] == 4:
                raise StoppedError

        if name == "stopped":
            with pytest.raises(StoppedError):
                train_run(folder, config, reading=Reading(sites="x0.post"), watch=Watch(stop), **TINY)
            assert not (folder / "decoder").exists()
        train_run(folder, config, reading=Reading(sites="x0.post"), **TINY)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append((load_file(folder / "decoder" / "model.safetensors"), [(row["step"], row["loss"]) for row in rows]))
        assert {"alone", "good_ratio"} <= rows[-1].keys()
    (once, curve), (again, other) = found
    assert curve == other
    assert [step for step, _ in curve] == [2, 4, 6]
    assert all(torch.equal(once[name], again[name]) for name in once)


def copied(run: Path, to: Path) -> Path:
    """The same run, its bank and corpus by links."""
    to.mkdir()
    (to / "study.json").write_text((run / "study.json").read_text())
    for part in ("bank", "corpus"):
        (to / part).symlink_to(run / part)
    return to


@pytest.mark.parametrize(
    ("name", "around", "target"), [("llama", False, "ball"), ("llama", True, "own"), ("qwen", False, "own")]
)
def test_what_is_trained_by_the_command_reads_back(
    name: str, around: bool, target: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """D is that of the text's own last token, by hooks on the plain model; a text may begin as it likes."""
    monkeypatch.setattr(spelling, "PIECES", 40)
    root: Path = request.getfixturevalue(name)
    folder = copied(root / "run", tmp_path / "run")
    made_by = ["--steps", "4", "--batch", "8", "--target", target, "--device", "cpu"]
    lm = ["--decoder-from", str(root / "model"), "--lora", "2"] if around else ["--width", "16", "--decoder-layers", "1"]
    assert run(["train", str(folder), *made_by, *lm]) == 0
    config = json.loads((folder / "decoder" / "config.json").read_text())
    assert (config["sites"], config["prefix"], config["backwards"]) == (list(SITES), CONTEXT, not around)
    capsys.readouterr()
    text = "Mary went on"
    argv = ["read", str(folder), text, "--at", "END", "--site", "x0.post", "--source", "decoder", "--distance", "cosine"]
    assert run([*argv, "--epsilon", "0.5", "--candidates", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"]
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    own = read_plainly(root, [*told["query"]["ids"][: told["query"]["position"] + 1]], "x0.post")
    assert tokenizer.decode(told["query"]["ids"][int(name == "llama") : -1]) == text
    for row in told["samples"]:
        ids = [i for i in row["ids"] if i != told["query"]["ids"][-1]]
        z = read_plainly(root, ids, "x0.post")
        assert row["distance"] == pytest.approx(float(1 - torch.cosine_similarity(z, own, dim=0)), abs=2e-4)
        assert row["position"] == len(ids) - 1
        assert row["inside"] == (row["distance"] <= 0.5)
        if not around and (content := tokenizer.decode(ids[int(name == "llama") :])).isascii():
            assert tokenizer(content, add_special_tokens=False)["input_ids"] == ids[int(name == "llama") :], "canonical"
    assert run(["evaluate", str(folder), "--queries", "2", "--samples", "2"]) == 0
    study = iv.load(folder)
    assert not study_info(study).enumerable, "there is no list of texts that its decoder could score"
    cells = {cell.site: cell.value for cell in ratio_map(study, text).cells}
    assert {site for site, value in cells.items() if value is not None} == set(SITES)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sites", "x1.post"], "holds x0.post, a1.2, not x1.post: name sites that it holds"),
        (["--sites", "x0.post,m*"], "holds x0.post, a1.2, not m0: name sites that it holds"),
        (["--sites", "x9.post"], "There is no site 'x9.post'"),
        (["--layers", "1", "--sites", "x0.post"], "There is no site in layer 1"),
        (["--out", "{tmp}/other"], "leave out --out"),
        (["--facts", "f.jsonl"], "is a run, which has its model and its texts"),
        (["--model", "{root}/model"], "is a run, which has its model and its texts"),
        (["--texts", "{root}/texts.txt"], "is a run, which has its model and its texts"),
        (["--max-length", "20"], "--max-length does nothing where"),
        (["--inputs", "20"], "--inputs does nothing where"),
        (["--bank", "{root}/run"], "--bank does nothing where"),
        (["--stream"], "--stream does nothing where"),
        (["--target", "box"], "There is no target 'box'"),
        (["--lora", "4"], "only with --decoder-from"),
        (["--decoder-from", "{root}/model", "--width", "16"], "--width does nothing where"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_sentence(
    arguments: list[str], says: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(llama / "run", tmp_path / "run")
    told = [each.format(tmp=tmp_path, root=llama) for each in arguments]
    assert run(["train", str(folder), "--steps", "1", *told]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "Traceback" not in said
    assert not (folder / "checkpoints").exists()


def test_runs_that_cannot_be_trained(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(llama / "run", tmp_path / "run")
    (folder / "bank").unlink()
    assert run(["train", str(folder), "--steps", "1"]) == 2
    assert "has no bank, from which a decoder of its texts is trained: build one" in " ".join(capsys.readouterr().err.split())
    own = tmp_path / "own"
    own.mkdir()
    keep(iv.load("addition"), own)
    assert run(["train", str(own), "--steps", "1"]) == 2
    assert "to go on with a run, give the command that began it" in " ".join(capsys.readouterr().err.split())


def test_a_training_that_stands_under_other_settings(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(llama / "run", tmp_path / "run")
    first = ["train", str(folder), "--steps", "1", "--batch", "8", "--width", "16", "--device", "cpu"]
    assert run([*first, "--sites", "x0.post"]) == 0
    assert run([*first, "--sites", "a1.2"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "was begun with decoder sites = ['x0.post']" in said
    assert f"delete {folder}/checkpoints to begin anew" in said
    for command in (["truth"], ["complete"]):
        assert run([*command, str(folder), "--queries", "1"]) == 2
        assert "writes what precedes tokens of natural text" in " ".join(capsys.readouterr().err.split())
