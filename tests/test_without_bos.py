"""Models whose tokenizers name no BOS (Qwen), or no special token at all: what is run is the text, from its first token on."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from scipy.stats import chisquare

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import InputError, UnknownPositionError
from inversionview.core.scope import Scope
from inversionview.corpora.contrasts import TextPair
from inversionview.corpora.texts import TextInputs, begun_before
from inversionview.decoder.recipe import TrainConfig
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.explorer.answers.info import place
from inversionview.markov.kernel import Target
from inversionview.markov.language import LanguageKernel
from inversionview.model.tokens import Vocabulary
from inversionview.runs.train import Reading, train_texts
from inversionview.studies.facts.corpus import FactsInputs
from inversionview.studies.ioi.corpus import IOIInputs
from tests.browser import chromium, opened
from tests.vocabularies import LLAMA, QWEN, QWEN_SPECIALS, byte_level, fast, legacy_llama, save, words

QWEN_FILES = {**QWEN, "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}
TEXT = "The cat sat on 猫"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "qwen": save(root / "qwen", byte_level(QWEN_SPECIALS), QWEN_FILES, "qwen"),
        "llama": save(root / "llama", legacy_llama(), LLAMA),
        "words": save(root / "words", words(), {}),
    }


@pytest.fixture(scope="module")
def studies(folders: dict[str, Path]) -> dict[str, iv.Study]:
    return {name: iv.load(model=folder) for name, folder in folders.items()}


def plain(folder: Path, ids: list[int]) -> Any:
    """Hidden states of a plain transformers run, ``[layer + 1, pos, d_model]``; the last before the final norm is missing."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return torch.cat(
            AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids]), output_hidden_states=True).hidden_states
        )


# -- queries --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen", "llama", "words"])
def test_activations_are_those_of_the_ids_that_autotokenizer_gives(
    studies: dict[str, iv.Study], folders: dict[str, Path], name: str
) -> None:
    from transformers import AutoTokenizer

    text = "the cat sat" if name == "words" else TEXT
    ids = AutoTokenizer.from_pretrained(folders[name])(text)["input_ids"]
    expected = plain(folders[name], ids)
    for at in range(len(ids)):
        query = studies[name].query(text, at=at, site="x0.post")
        assert list(query.ids[:-1]) == ids
        assert query.position == at
        assert torch.allclose(query.z, expected[1, at], atol=1e-5)
    assert query.bos == (name == "llama")
    with pytest.raises(UnknownPositionError):
        studies[name].query(text, at=-len(ids) - 1)


@pytest.mark.parametrize("name", ["qwen", "llama", "words"])
def test_minus_one_is_the_last_token_of_the_text(studies: dict[str, iv.Study], name: str) -> None:
    """By definition: EOS, which we append, is not counted, wherever a position is given."""
    study, text = studies[name], "the cat sat" if name == "words" else TEXT
    count = len(study.model.encode(text)) - 1
    for back in range(1, count + 1):
        for at in (-back, f"-{back}", f"#-{back}"):
            assert study.query(text, at=at).position == count - back
            assert place(study, text, at).position == count - back
    assert study.query(text, at="END").position == count - 1
    tokens = np.array([[*study.model.encode(text), study.model.vocabulary.pad]])
    assert study.positions.many(tokens, -1).tolist() == [count - 1]
    assert study.positions.finder(study.model.encode(text), "-1")(tokens).tolist() == [count - 1]


def test_the_command_line(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for options, position in ((["--at", "-1"], 6), (["--index", "-1"], 6), (["--index", "0"], 0), (["--at", " sat"], 2)):
        text = ["read", "--model", str(folders["qwen"]), TEXT, *options, "--site", "x0.post", "--seconds", "0.2", "--json"]
        main(text)
        query = json.loads(capsys.readouterr().out)["query"]
        assert query["position"] == position
        assert query["text"] == TEXT
        assert query["tokens"] == ["The", " cat", " sat", " on", " ", "⟨e7 8c⟩", "⟨ab⟩", "<|im_end|>"]
    for name, said in (("qwen", True), ("words", True), ("llama", False)):
        main(["sites", "--model", str(folders[name])])
        out = " ".join(capsys.readouterr().out.split())
        assert ("Texts are run without a BOS: the model's tokenizer names none." in out) == said
        main(["sites", "--model", str(folders[name]), "--json"])
        assert ("note" in json.loads(capsys.readouterr().out)) == said


def test_tokens_with_and_without_a_space_are_told_apart(studies: dict[str, iv.Study]) -> None:
    llama = studies["llama"]
    text = "Mary sat on the-the"
    assert llama.query(text, at=" sat").tokens[2] == " sat"
    assert llama.query(text, at="sat").position == 2
    assert llama.query(text, at=" the").position == 4
    with pytest.raises(UnknownPositionError, match="'#4' or '#6'"):
        llama.query(text, at="the")  # with a space, or without
    pairs = iv.pairs(llama, [TextPair("Mary sat on", "John sat on", " the", "the")])
    assert llama.model.vocabulary.strings(pairs.answers[0].tolist()) == [" the", "the"]
    for answer in ("", " the the", "\ud800"):
        with pytest.raises(InputError, match="Pair 1"):
            iv.pairs(llama, [TextPair("Mary sat on", "John sat on", answer, "the")])


# -- walks ----------------------------------------------------------------------------------------------------------------


def listed(first: int) -> np.ndarray:
    """All texts of one to three of five words that begin with the same, [31, 4]; EOS is 5, padding 6."""
    rows = [[first, *rest, 5] for n in range(3) for rest in product(range(5), repeat=n)]
    return np.array([[*row, *[6] * (4 - len(row))] for row in rows])


def test_the_walk_draws_from_the_model_given_the_first_token(studies: dict[str, iv.Study], folders: dict[str, Path]) -> None:
    """π(x) ∝ p(x₂ … xₙ ∣ x₁), uniform over lengths: by plain forward passes, against fresh draws and long chains."""
    from transformers import AutoModelForCausalLM

    study, texts, model = studies["words"], listed(2), AutoModelForCausalLM.from_pretrained(folders["words"]).eval()
    vocabulary = study.model.vocabulary
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.ended) == (None, 5, 6, False)
    log_p = []
    for row in texts:
        body = row[: list(row).index(5)].tolist()
        with torch.no_grad():
            scores = model(torch.tensor([body])).logits[0].log_softmax(-1).double().numpy()
        log_p.append(sum(scores[i - 1, body[i]] for i in range(1, len(body))))
    pi = np.exp(log_p) / 3
    assert pi.sum() == pytest.approx(1)
    pi /= pi.sum()
    query = study.query("cat sat", site="x1.post")
    kernel = LanguageKernel(study.model, Target(query.z, query.site, Scope(distance="cosine")), (1, 3), given=(2,))
    rng, count = np.random.default_rng(3), 1500
    states = kernel.begin(np.repeat(texts[1:2], count, axis=0))
    for _ in range(60):
        kernel.step(states, np.full(count, np.inf), np.full(count, rng.integers(len(kernel.moves))), rng)
    known = {tuple(row): i for i, row in enumerate(texts.tolist())}
    for found in (kernel.fresh(count, rng), states):
        which = np.array([known[tuple(row)] for row in found.tokens.tolist()])
        assert np.allclose(found.log_prior, np.array(log_p)[which], atol=1e-4)
        seen, often = np.bincount(which, minlength=len(texts)), pi * count >= 5
        observed, expected = np.append(seen[often], seen[~often].sum()), np.append(pi[often], pi[~often].sum()) * count
        assert chisquare(observed, expected).pvalue > 1e-4
    other = kernel.begin(np.array([[1, 2, 5, 6]]))
    assert np.isinf(other.log_prior).all()


def test_a_walk_says_that_the_first_token_stays(studies: dict[str, iv.Study]) -> None:
    study = studies["qwen"]
    made = iv.walk(study, study.query(TEXT, at=2, site="x0.post"), steps=20, chains=8, epsilon=0.5)
    assert len(made) > 3
    assert {sample.ids[0] for sample in made} == {made.query.ids[0]}
    assert made.walk is not None
    assert made.walk.notes[0].startswith("Texts are run without a BOS")
    first = iv.walk(study, study.query(TEXT, at=0, site="x0.post"), steps=5, chains=4)
    assert first.walk is not None
    assert any("first token, which a walk keeps" in note for note in first.walk.notes)
    assert "BOS," not in " ".join(first.walk.notes[1:])
    assert "BOS" not in repr(first).split("Texts are run")[0]
    assert len(iv.walk(study, study.query("The", site="x0.post"), steps=100, chains=8, epsilon=2.0)) > 0
    with pytest.raises(iv.InversionViewError, match="longer text"):
        iv.walk(study, study.query("The"), steps=5, longer=0)


# -- decoders -------------------------------------------------------------------------------------------------------------

LINES = [f"{a} {b} {c}" for a in ("the cat", "the mat", "cat", "mat sat") for b in ("sat", "the", "dog") for c in ("cat", "the mat", "sat the", "dog")]  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def run(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """A decoder of a tokenizer without special tokens, trained for some steps on a stream."""
    root = tmp_path_factory.mktemp("run")
    (root / "t.txt").write_text("\n".join(f"{line} {end}" for line in LINES for end in ("sat", "cat", "the")))
    config = TrainConfig(minutes=None, steps=20, batch=64, pool=4, bos_share=0.3, evaluations=1, queries=20)
    sizes = {"layers": 1, "heads": 2, "width": 16, "pathway": 16, "hidden": 32, "cells": 2}
    return train_texts(str(folders["words"]), str(root / "t.txt"), root / "run", config, reading=Reading(stream=True), **sizes)


def test_a_decoder_begins_with_a_token_that_the_model_never_sees(run: iv.Study, folders: dict[str, Path]) -> None:
    decoder, study = run.decoder, iv.load(run.folder or "")
    config = decoder.config
    assert (config.unread, config.bos, config.max_length) == (True, 5, run.inputs.max_length + 1)
    rows = study.inputs.tokens(np.arange(20))
    assert (rows[:, 0] < 5).all()
    z = torch.randn(200, 32)
    drawn = sample(decoder, z, torch.zeros(200, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (200, run.inputs.max_length)
    assert (drawn[:, 0] < 5).all()  # no text is empty
    tokens, site = torch.from_numpy(rows), torch.zeros(20, dtype=torch.long)
    begun = torch.cat([torch.full((20, 1), 5), tokens], dim=1)
    with torch.no_grad():
        scores = decoder(decoder.own(begun[:, :-1]).clamp(min=0), z[:20], site).log_softmax(-1)
    expected = scores.gather(-1, decoder.own(tokens).clamp(min=0)[..., None])[..., 0].masked_fill(tokens == 6, 0.0)
    assert torch.allclose(token_log_probs(decoder, tokens, z[:20], site), expected, atol=1e-5)
    tree = PrefixTree.of(decoder.begun(tokens).numpy(), 6)
    one = token_log_probs(decoder, tokens, z[:1].expand(20, -1), site).sum(1)
    assert torch.allclose(log_probs(decoder, tree, z[:1], 0)[0], one, atol=1e-4)
    made = iv.read(study, study.query("the cat sat", at=0, site="x0.post"), count=10, each=8, source="decoder")
    assert made.query.position == 0
    for found in made.samples:
        states = plain(folders["words"], list(found.ids[:-1]))[1]
        cosine = torch.nn.functional.cosine_similarity(states, made.query.z[None], dim=-1)
        assert found.distance == pytest.approx(float((1 - cosine).min()), abs=1e-5)
        assert found.effect is not None
        assert len(found.effect) == len(found.tokens)


def test_a_run_of_a_version_that_put_eos_in_front_keeps_it(folders: dict[str, Path], tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_folder(folders["qwen"])
    assert vocabulary.former == vocabulary.eos
    lines = [f"The cat sat {i}" for i in range(60)]
    TextInputs.tokenize(lines, vocabulary, folder=tmp_path / "new" / "corpus")
    vocabulary.begin(vocabulary.eos)
    TextInputs.tokenize(lines, vocabulary, folder=tmp_path / "old" / "corpus")
    fresh = Vocabulary.from_folder(folders["qwen"])
    assert not begun_before(tmp_path / "new", fresh)
    assert not begun_before(tmp_path / "none", fresh)
    assert begun_before(tmp_path / "old", fresh)
    assert not begun_before(tmp_path / "old", Vocabulary.from_folder(folders["llama"]))
    spec = {
        "inputs": "texts",
        "model": str(folders["qwen"]),
        "sites": ["x0.post"],
        "site": "x0.post",
        "at": "END",
        "distance": "cosine",
        "epsilon": 0.1,
    }
    for name, begun in (("old", True), ("new", False)):
        (tmp_path / name / "study.json").write_text(json.dumps(spec))
        study = iv.load(tmp_path / name)
        assert (study.query("The cat", site="x0.post").ids[0] == vocabulary.eos) == begun
        assert study.inputs.tokens(np.arange(3))[:, 0].tolist() == [study.query("The cat", site="x0.post").ids[0]] * 3


# -- studies of language models -------------------------------------------------------------------------------------------


def named(bos: bool) -> Vocabulary:
    """A vocabulary that has the words of ``ioi`` whole."""
    from inversionview.studies.ioi.corpus import NAMES, OBJECTS, PLACES, TEMPLATES

    corpus = " ".join([*TEMPLATES, NAMES, PLACES, OBJECTS, "Paris France is in"])
    tokenizer = byte_level(QWEN_SPECIALS, corpus=[f"{corpus} {corpus} John"] * 2, size=2000)
    return Vocabulary.from_transformers(fast(tokenizer, **{**QWEN, "bos_token": "<|im_start|>" if bos else None}))


def test_studies_of_language_models_have_the_same_places_without_bos(tmp_path: Path) -> None:
    records = [
        {"prompt": "{} is in", "subject": f"{a} {b}", "relation": "in", "object": c}
        for a in ("Paris", "John", "Mary") for b in ("France", "is", "in", "Paris") for c in ("Paris", "France", "Mary", "John")
    ]  # fmt: skip
    (tmp_path / "facts.jsonl").write_text(
        "".join(json.dumps(r | {"subject": f"{r['subject']} {i}"}) + "\n" for i, r in enumerate(records))
    )
    for kind in (IOIInputs, lambda vocabulary: FactsInputs(vocabulary, tmp_path / "facts.jsonl")):
        framed, bare = (kind(named(bos)) for bos in (True, False))  # type: ignore[operator]
        rows = np.arange(20)
        with_bos, without = framed.tokens(rows), bare.tokens(rows)
        assert (with_bos[:, 1:] == without[:, : with_bos.shape[1] - 1]).all()
        ours, theirs = bare.named_positions(without), framed.named_positions(with_bos)
        assert {name: at.tolist() for name, at in ours.items()} == {name: (at - 1).tolist() for name, at in theirs.items()}
        for name, values in bare.features(without).items():
            theirs = framed.features(with_bos)[name]  # some are places
            assert values.tolist() in (
                [theirs.tolist(), (theirs - 1).tolist()] if values.dtype.kind == "i" else [theirs.tolist()]
            )
        assert bare.trained_positions(without).sum() == framed.trained_positions(with_bos).sum()


# -- the page -------------------------------------------------------------------------------------------------------------


def test_a_part_of_a_character_says_its_bytes(studies: dict[str, iv.Study], tmp_path: Path) -> None:
    study = studies["qwen"]
    made = iv.walk(study, study.query(TEXT, at=2, site="x0.post"), steps=3, chains=4, epsilon=0.5)
    page_file = made.to_html(tmp_path / "page.html")
    with chromium() as browser, opened(browser, page_file.as_uri()) as page:
        query = page.locator(".query-row .t")
        expect(query.first).to_have_text("The")  # not BOS
        titles = [query.nth(i).get_attribute("title") for i in range(query.count())]
        assert titles[5:7] == ['"⟨e7 8c⟩", bytes e7 8c', '"⟨ab⟩", bytes ab']
        assert titles[:2] == ['"The"', '" cat"']
