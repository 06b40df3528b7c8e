"""Natural text, every token of it: against brute force with plain transformers, counted places, closed forms, bad input."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.bank.harvest import harvest_bank
from inversionview.cli import main
from inversionview.core.errors import BankError, InputError, MismatchError, SettingError, UnknownPositionError
from inversionview.core.information import bits, clopper_pearson, clustered_bits
from inversionview.corpora.natural import TextSource, opened
from inversionview.corpora.windows import WindowInputs
from inversionview.model.sites.site import Site
from inversionview.model.tokens import Vocabulary
from inversionview.records.texts import read_texts
from tests.plain import Plain
from tests.test_architectures import SIZES, Architecture
from tests.vocabularies import LLAMA, QWEN, QWEN_SPECIALS, byte_level, legacy_llama, save

WORDS = ["the", "bank", "of", "a", "river", "was", "old", "and", "cold", "we", "sat", "by", "it", "😀", "猫"]
CONTEXT = 12
SITES = ("x0.post", "x1.mid", "x1.post", "a1.2", "m0")


def texts(count: int = 60, seed: int = 0) -> list[str]:
    """Sentences of few words, so that prefixes occur again; some longer than a window."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 12)).tolist()) for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(texts()), encoding="utf-8")
    return path


def saved(folder: Path, name: str, **sizes: Any) -> Path:
    """A random model of an architecture with a byte-level tokenizer that has a BOS; weights far from zero."""
    tokenizer = byte_level(["<|begin|>", "<|end|>"])
    bos, eos = (tokenizer.token_to_id(token) for token in ("<|begin|>", "<|end|>"))
    ends = {"bos_token_id": bos, "eos_token_id": eos, "vocab_size": tokenizer.get_vocab_size()}
    named = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    save(folder, tokenizer, named)
    Architecture(name, {**sizes, **ends}).model().save_pretrained(folder)
    return folder


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
WIDE = {**SIZES, "num_key_value_heads": 2}
MODELS = {"GPT2": GPT2, "Llama": WIDE, "Gemma": {**WIDE, "head_dim": 16}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: saved(root / name, name, **sizes) for name, sizes in MODELS.items()}


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path], corpus: Path) -> iv.Study:
    return iv.load(model=folders["Llama"], texts=TextSource(str(corpus), context=CONTEXT))


def plain_windows(folder: Path, lines: list[str]) -> list[list[int]]:
    """Windows as the definition has them, by transformers' own tokenizer: BOS, then up to CONTEXT − 1 tokens of the text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for line in lines:
        ids = tokenizer(line, add_special_tokens=False)["input_ids"]
        found += [[tokenizer.bos_token_id, *ids[i : i + CONTEXT - 1]] for i in range(0, len(ids), CONTEXT - 1)]
    return found


def cosine(z: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return 1 - (z @ query) / (z.norm(dim=-1) * query.norm())


@pytest.mark.parametrize("name", MODELS)
def test_hits_are_those_of_brute_force(name: str, folders: dict[str, Path], corpus: Path) -> None:
    """Every occurrence of every window, run alone through the plain model and read by hooks of our own."""
    from transformers import AutoModelForCausalLM

    study = iv.load(model=folders[name], texts=TextSource(str(corpus), context=CONTEXT))
    windows = plain_windows(folders[name], texts())
    plain = Plain(AutoModelForCausalLM.from_pretrained(folders[name]))
    with torch.no_grad():
        runs = [plain.run(ids)[1] for ids in windows]
    bank = iv.build_bank(study, rows=study.inputs.placed(["all"]).size, sites=SITES, distance="cosine")
    assert len(bank) == sum(len(ids) - 1 for ids in windows)
    for number, site in enumerate(SITES):
        query = study.query("by the old bank of it", at=2 + number % 3, site=site)
        own = plain.run(query.ids[:-1])[1][site][query.position]
        distances = torch.cat([cosine(run[site][1:], own) for run in runs])
        places = [(tuple(ids[: t + 1]), t) for ids in windows for t in range(1, len(ids))]
        theirs = torch.tensor([prefix != query.ids[: query.position + 1] for prefix, _ in places])
        ordered = distances[theirs].sort().values
        gap = 20 + int(ordered[20:80].diff().argmax())  # many are equal
        epsilon = float((ordered[gap] + ordered[gap + 1]) / 2)
        found = iv.search(study, query, epsilon=epsilon, distance="cosine", k=0, bank=bank)
        expected = Counter(
            prefix for (prefix, _), d, other in zip(places, distances.tolist(), theirs.tolist(), strict=True)
            if other and d <= epsilon
        )  # fmt: skip
        got = {sample.ids[: sample.position + 1]: sample for sample in found.inside}
        assert {prefix: sample.count for prefix, sample in got.items()} == dict(expected), site
        nearest = dict(zip((prefix for prefix, _ in places), distances.tolist(), strict=True))
        assert max(abs(sample.distance - nearest[prefix]) for prefix, sample in got.items()) < 1e-4
        assert found.bits is not None
        assert (found.bits.hits, found.bits.occurrences) == (sum(expected.values()),) * 2
        assert found.bits.inputs == int(theirs.sum())


def test_padding_on_the_left_changes_nothing(llama: iv.Study) -> None:
    bank = iv.build_bank(llama, rows=200, sites=["x1.post"])
    tokens, at = bank.located(np.arange(200), ["all"])
    for row in range(0, 200, 37):
        ids = tokens[row][tokens[row] != llama.inputs.pad]
        left = torch.tensor([[llama.inputs.pad] * 5 + ids.tolist()])
        z = llama.model.activations(left, [Site.parse("x1.post")], torch.tensor([[5 + int(at[row, 0])]]))[0, 0, 0]
        stored = bank.activations("x1.post", "all", np.array([row]))[0]
        assert torch.allclose(z, stored, rtol=2e-3, atol=2e-3)


def test_rows_are_windows_with_what_follows(llama: iv.Study, corpus: Path) -> None:
    """JSON: the window whole, past the position; ids with BOS; the query's ids; how much was searched, in which words."""
    query = llama.query("we sat by the bank", at=-2, site="x0.post")
    told = iv.search(llama, query, epsilon=0.2).to_json()
    assert told["query"]["ids"] == list(query.ids)
    assert told["places"] == "all"
    windows = plain_windows(Path(llama.model.name), texts())
    of = Counter(tuple(ids) for ids in windows)
    assert told["corpus"] == {
        "texts": len([line for line in texts() if line]), "windows": len(windows),
        "occurrences": sum(len(ids) - 1 for ids in windows), "context": CONTEXT, "source": str(corpus),
    }  # fmt: skip
    assert told["samples"]
    for sample in told["samples"]:
        assert sample["source"] == "corpus"
        assert of[tuple(sample["ids"][:-1])]
        assert len(sample["tokens"]) == len(sample["ids"])
        assert sample["text"] == llama.model.vocabulary.decode(sample["ids"])
        assert 1 <= sample["position"] < len(sample["ids"]) - 1
        assert sample["token_distances"][sample["position"]] == pytest.approx(sample["distance"])
        assert all(d is None for d in sample["token_distances"][sample["position"] + 1 :])
    assert {"occurrences", "windows"} <= set(told["bits"])


def test_the_same_prefix_is_shown_once_and_never_the_querys(llama: iv.Study) -> None:
    line = texts()[3]
    query = llama.query(line, at=3, site="x1.post")
    found = iv.search(llama, query, epsilon=1.9)
    prefixes = [sample.ids[: sample.position + 1] for sample in found.samples]
    assert len(set(prefixes)) == len(prefixes) == found.distinct
    assert query.ids[:4] not in prefixes
    assert sum(sample.count for sample in found.samples) == found.inside_count
    assert max(sample.count for sample in found.samples) > 1
    one = iv.search(llama, query, epsilon=1.9, per_window=1)
    windows = [sample.ids for sample in one.samples]
    nearest = {ids: min(s.distance for s in found.samples if s.ids == ids) for ids in windows}
    assert len(one) <= found.corpus.windows  # type: ignore[union-attr]
    assert all(sample.distance == pytest.approx(nearest[sample.ids], abs=1e-6) for sample in one.samples)


def test_diverse_hits_differ_more_in_what_comes_before(llama: iv.Study) -> None:
    query = llama.query("we sat by the bank", at=-2, site="x1.post")

    def ends(found: iv.Preimage) -> float:
        some = [sample.ids[max(0, sample.position - 3) : sample.position + 1] for sample in found.inside]
        return float(np.mean([a == b for i, a in enumerate(some) for b in some[:i]]))

    plain = iv.search(llama, query, epsilon=1.5, count=20)
    diverse = iv.search(llama, query, epsilon=1.5, count=20, diverse=True)
    assert len(diverse) == len(plain) == 20
    assert ends(diverse) <= ends(plain)
    assert all(sample.inside for sample in diverse.inside)


def test_bos_is_no_occurrence(llama: iv.Study) -> None:
    with pytest.raises(UnknownPositionError, match="BOS"):
        iv.search(llama, llama.query("we sat", at=0, site="x1.post"))


@pytest.mark.parametrize("kind", ["qwen", "llama"])
def test_with_a_bos_or_without(kind: str, tmp_path: Path, corpus: Path) -> None:
    """Qwen's texts begin with their first token, which is an occurrence like any other."""
    folder = tmp_path / kind
    if kind == "qwen":
        save(folder, byte_level(QWEN_SPECIALS), {**QWEN, "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}, "qwen")
    else:
        save(folder, legacy_llama(), LLAMA)
    study = iv.load(model=folder, texts=TextSource(str(corpus), context=CONTEXT))
    front = len(study.model.vocabulary.front)
    assert front == (kind == "llama")
    windows, sizes = study.inputs, []
    for line in read_texts(corpus):
        body = len(study.model.encode(line)) - front - 1
        sizes += [min(CONTEXT - front, body - i) for i in range(0, body, CONTEXT - front)]
    assert isinstance(windows, WindowInputs)
    assert sorted(windows.occurrences(np.arange(len(windows))).tolist()) == sorted(sizes)
    first = study.query("the bank", at=front, site=study.sites[-1])
    assert iv.search(study, first, epsilon=1.9).inside


def test_a_window_may_be_cut_within_a_character(llama: iv.Study, capsys: pytest.CaptureFixture[str], corpus: Path) -> None:
    """Bytes of an emoji in two windows are labels in brackets, in the library and in the terminal."""
    query = llama.query("sat by 😀", at=-1, site="x0.post")
    found = iv.search(llama, query, epsilon=0.5)
    cut = [s for s in found.samples if len(s.ids) == CONTEXT + 1 and s.tokens[-2].startswith("⟨") and len(s.tokens[-2]) == 4]
    assert cut
    options = ["--texts", str(corpus), "--context", str(CONTEXT), "--site", "x0.post", "--at=-1", "--epsilon", "0.5"]
    assert main(["search", "--model", llama.model.name, "sat by 😀", *options]) in (0, None)
    assert "⟨" in capsys.readouterr().out


def test_several_processes_make_the_same_bank(llama: iv.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inversionview.bank.manifest.SHARD_ROWS", 64)
    every = llama.inputs.placed(["all"]).size
    assert every is not None
    whole = harvest_bank(tmp_path / "one", llama.model, llama.inputs, rows=every, sites=["x1.post", "a0.1"])
    assert len(whole.shards) > 1
    for rank in (1, 0):
        harvest_bank(tmp_path / "two", llama.model, llama.inputs, rows=every, sites=["x1.post", "a0.1"], rank=rank, world=2)
    for a, b in zip(sorted((tmp_path / "one").rglob("*.npy")), sorted((tmp_path / "two").rglob("*.npy")), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_threshold_study_counts_what_searches_find(llama: iv.Study, capsys: pytest.CaptureFixture[str], corpus: Path) -> None:
    query = llama.query("we sat by the bank", at=-2, site="x1.post")
    ladder = [0.05, 0.2, 0.6]
    found = {e: iv.search(llama, query, epsilon=e, k=0).bits for e in ladder}
    study = iv.threshold(llama, query, epsilons=ladder)
    counted = {rung.epsilon: rung.inside for rung in study.rungs}
    assert {e: counted[e] for e in ladder} == {e: b.hits for e, b in found.items() if b is not None}
    assert len(study.distance) == found[0.05].inputs  # type: ignore[union-attr]
    assert "token" in study.base
    options = ["--texts", str(corpus), "--context", str(CONTEXT), "--site", "x1.post", "--at=-2", "--epsilon", "0.2", "--json"]
    main(["threshold", "--model", llama.model.name, "we sat by the bank", *options])
    told = json.loads(capsys.readouterr().out)
    assert {rung["epsilon"]: rung["inside"] for rung in told["ladder"]}[0.2] == counted[0.2]


def test_statements_are_of_occurrences_and_tested_on_other_windows(llama: iv.Study) -> None:
    """Made from windows of even number, tested on odd ones: what hangs together is never on both sides."""
    bank = llama.bank(site=Site.parse("x0.post"))
    halves = [{int(i) for i in bank.places.inputs_of(bank.half(parity))} for parity in (0, 1)]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(range(len(llama.inputs)))
    rows = np.array([0, 5, len(bank) - 1])
    tokens, at = bank.located(rows, ["all"])
    label = llama.model.vocabulary.strings
    assert bank.features(rows)["token"].tolist() == [label([int(t[p])])[0] for t, p in zip(tokens, at[:, 0], strict=True)]
    made = iv.interpret(llama, 6, "x0.post", bank=bank, epsilon=0.4)
    (told,) = made.to_json()["interpretations"]
    assert told["position"] == "all"
    assert told["statement"].startswith("The token")  # x0.post holds little else, and nothing as much
    longer = "we sat by the old bank of the river and by it we sat"
    given = iv.interpret(llama, [longer], "x0.post", "-1", bank=bank, epsilon=0.4)
    assert len(given.to_json()["interpretations"][0]["queries"]) == 1


# -- places -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.data())
@settings(max_examples=40, deadline=None)
def test_places_are_numbered_window_by_window(lengths: list[int], data: st.DataObject) -> None:
    vocabulary = Vocabulary(byte_level(["<b>", "<e>"]), "<b>", "<e>", None)
    rng = np.random.default_rng(sum(lengths))
    rows = [[*vocabulary.front, *rng.integers(10, 200, size=n).tolist(), vocabulary.eos] for n in lengths]
    from inversionview.corpora.windows import About

    windows = WindowInputs.keep([rows], vocabulary, About(source="t", texts=1, context=40))
    placed = windows.placed(["all"])
    listed = [
        (tuple(row), at) for row in windows.corpus(np.arange(len(rows))).tolist() for at in range(1, row.index(vocabulary.eos))
    ]
    assert placed.size == len(listed) == sum(lengths)
    numbers = np.array(data.draw(st.lists(st.integers(0, len(listed) - 1), min_size=1, max_size=30)))
    tokens, places = placed.read(numbers)
    assert [(tuple(tokens[r].tolist()), int(p)) for r, p in zip(places.row, places.position, strict=True)] == [
        listed[n] for n in numbers
    ]
    marks = placed.marks(tokens, places)
    prefixes = [listed[n][0][: listed[n][1] + 1] for n in numbers]
    for i, one in enumerate(prefixes):
        assert (marks == placed.mark(np.array([listed[numbers[i]][0]]), listed[numbers[i]][1])).tolist() == [
            one == other for other in prefixes
        ]


def test_positions_all_of_a_study_is_the_least_of_all(addition: iv.Study, tmp_path: Path) -> None:
    """D of an input over every position, as the paper has it, and each input once."""
    rows = addition.inputs.placed(["all"])
    count = 300
    tokens = addition.inputs.corpus(np.arange(count))
    mask = (tokens != addition.inputs.pad) & (tokens != addition.inputs.eos)
    size = int(mask.sum())
    bank = iv.build_bank(addition, tmp_path / "bank", rows=size, sites=["x0.post"], positions=["all"])
    assert rows.merged
    query = addition.query("615+861=1476", at="=", site="x0.post")
    found = iv.search(addition, query, bank=bank, epsilon=0.6, k=40)
    z = addition.model.activations(torch.from_numpy(tokens), [Site.parse("x0.post")])[0]
    d = ((z - query.z).norm(dim=-1) / query.z.norm()).masked_fill(~torch.from_numpy(mask), torch.inf).amin(1)
    assert found.to_json()["places"] == "all"
    assert found.inside_count == int((d <= 0.6).sum())
    assert found.candidates == count
    texts_found = [sample.text for sample in found.samples]
    assert len(set(texts_found)) == len(texts_found) >= 40
    best = sorted(d.tolist())[: len(texts_found)]
    assert [sample.distance for sample in found.samples] == pytest.approx(best, abs=2e-3)
    named = iv.search(addition, query, epsilon=0.6).to_json()["places"]
    assert "=" in named
    assert "END" not in named


# -- bits -------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 400), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_windows_of_one_occurrence_are_inputs(windows: int, hits: int) -> None:
    """Where nothing hangs together, the interval is that of inputs, but for W − 1 in place of W."""
    hits = min(hits, windows)
    made = clustered_bits(np.arange(windows) < hits, np.ones(windows, dtype=np.int64))
    plain = bits(hits, windows)
    assert (made.value, made.occurrences, made.windows) == (plain.value, hits, hits)
    assert made.low <= plain.low + 1e-9
    assert made.low == pytest.approx(plain.low, abs=0.35 if windows < 30 else 0.05)


def test_windows_that_are_all_or_nothing_count_once() -> None:
    """Hits that fill their windows: n_eff = W − 1 by the variance of a share over W equal clusters."""
    made = clustered_bits(np.repeat([40, 0], [5, 45]), np.full(50, 40))
    low, high = clopper_pearson(49, 490)  # 10 % of 490; the interval of 4.9 of 49 is wider
    assert made.value == pytest.approx(np.log2(10))
    assert made.low < -np.log2(high)
    assert made.high is not None
    assert made.high > -np.log2(low)
    from scipy.stats import beta

    assert made.low == pytest.approx(-np.log2(beta.ppf(0.975, 4.9 + 1, 49 - 4.9)))
    assert made.high == pytest.approx(-np.log2(beta.ppf(0.025, 4.9, 49 - 4.9 + 1)))


def test_without_a_hit_each_window_counts_once() -> None:
    made = clustered_bits(np.zeros(30, dtype=np.int64), np.full(30, 100))
    assert (made.low, made.high) == (pytest.approx(bits(0, 30).low), None)
    assert made.value == pytest.approx(np.log2(3000))


# -- texts ------------------------------------------------------------------------------------------------------------


def test_what_one_text_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("four\nfive")
    for per, expected in {
        "line": ["one", "two", "three", "four", "five"],
        "paragraph": ["one\ntwo", "three", "four\nfive"],
        "file": ["one\ntwo\n\n\nthree", "four\nfive"],
    }.items():
        assert [text.strip() for text in read_texts(tmp_path, per=per)] == expected  # type: ignore[arg-type]


def test_a_pattern_names_files(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = iv.ProbedModel.from_pretrained(folders["GPT2"])
    for name, text in {"a1.txt": "we sat", "a2.txt": "by it", "b.txt": "river"}.items():
        (tmp_path / name).write_text(text)
    made = opened(TextSource(str(tmp_path / "a*.txt"), context=CONTEXT), model)
    assert made.about.texts == 2
    with pytest.raises(InputError, match="No file matches"):
        opened(TextSource(str(tmp_path / "c*.txt"), context=CONTEXT), model)


def test_a_source_that_is_far_too_large_is_read_by_lot(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inversionview.corpora.natural._LARGE", 0)
    model = iv.ProbedModel.from_pretrained(folders["GPT2"])
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"body": f"the river {n}"}) + "\n" for n in range(4000)))
    some = opened(TextSource(str(path), field="body", context=CONTEXT, tokens=500), model)
    assert 0.02 < some.about.share < 0.2
    assert 0.5 < some.about.texts / (4000 * some.about.share) < 2
    again = opened(TextSource(str(path), field="body", context=CONTEXT, tokens=500), model)
    assert again.fingerprint == some.fingerprint
    path.write_text(path.read_text().replace("river", "bank"))
    assert opened(TextSource(str(path), field="body", context=CONTEXT, tokens=500), model).fingerprint != some.fingerprint


def test_a_file_at_home_that_changes_is_read_again(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model, made = iv.ProbedModel.from_pretrained(folders["GPT2"]), []
    for text in ("we sat by the river", "it was old and cold"):
        (tmp_path / "own.txt").write_text(text)
        made.append(opened(TextSource("~/own.txt", context=CONTEXT), model).fingerprint)
    assert made[0] != made[1]


def test_one_long_line_is_cut_before_a_space(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Longer than what is tokenized at once: the tokens are those of the whole."""
    model = iv.ProbedModel.from_pretrained(folders["GPT2"])
    line = "the bank of a river was old " * 80_000
    (tmp_path / "long.txt").write_text(line)
    made = opened(TextSource(str(tmp_path / "long.txt"), context=64), model)
    assert made.about.texts == 1
    whole = model.vocabulary.encode(line)[1:-1]
    windows = made.table.column("tokens").to_pylist()
    assert sum(len(row) - 2 for row in windows) == len(whole)
    assert windows[0][1:-1] == whole[:63]


def test_what_the_model_writes_is_a_corpus(folders: dict[str, Path]) -> None:
    study = iv.load(model=folders["Llama"], texts=TextSource("model", context=16, tokens=150))
    assert isinstance(study.inputs, WindowInputs)
    assert len(study.inputs) == 10
    rows = study.inputs.corpus(np.arange(10))
    v = study.model.vocabulary
    assert not set(rows[:, 1:-1].ravel().tolist()) & v.special
    assert (rows[:, 0] == v.bos).all()
    again = iv.load(model=folders["Llama"], texts=TextSource("model", context=16, tokens=150))
    assert again.inputs.fingerprint == study.inputs.fingerprint
    query = study.query("we sat", at=-1, site="x0.post")
    assert iv.search(study, query, epsilon=1.9).inside


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2, said
    assert "Traceback" not in said
    return " ".join(said.split())


def test_mistakes_are_one_sentence(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2 = str(folders["GPT2"])
    search = ("search", "--model", gpt2, "we sat", "--texts")
    (tmp_path / "empty.txt").write_text("\n\n")
    assert "no text" in refused(capsys, *search, str(tmp_path / "empty.txt"))
    (tmp_path / "rows.jsonl").write_text('{"body": "we sat", "id": 3}\n')
    assert "body, id" in refused(capsys, *search, str(tmp_path / "rows.jsonl"))
    assert "There is no file" in refused(capsys, *search, str(tmp_path / "none.txt"))
    assert "at most 64" in refused(capsys, *search, str(corpus), "--context", "4000")
    assert "--context" in refused(capsys, *search, str(corpus), "--context", "1")
    assert "line, paragraph or file" in refused(capsys, *search, str(corpus), "--per", "word")
    assert "--texts" in refused(capsys, "search", "addition", "615+861=1476", "--texts", str(corpus))
    assert "nothing" in refused(capsys, "search", "addition", "615+861=1476", "--per-window", "2")
    assert "--tokens" in refused(capsys, "bank", "--model", gpt2, "--texts", str(corpus), "--inputs", "10")


def test_nul_bytes_are_told_with_their_line(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "nul.txt").write_bytes(b"we sat\0by it\nthe river\n")
    model = iv.ProbedModel.from_pretrained(folders["GPT2"])
    with pytest.raises(InputError, match=r"nul\.txt .*line 1 holds a NUL byte"):
        opened(TextSource(str(tmp_path / "nul.txt"), context=CONTEXT), model)


def test_banks_of_others_are_refused(folders: dict[str, Path], corpus: Path, tmp_path: Path, llama: iv.Study) -> None:
    iv.build_bank(llama, tmp_path / "bank", rows=100, sites=["x0.post"])
    query = llama.query("we sat", site="x0.post")
    wide = iv.load(model=folders["Llama"], texts=TextSource(str(corpus), context=CONTEXT + 4))
    with pytest.raises(MismatchError, match="another corpus"):
        iv.search(wide, query, bank=tmp_path / "bank")
    other = iv.load(model=folders["GPT2"], texts=TextSource(str(corpus), context=CONTEXT))
    with pytest.raises(MismatchError, match="another probed model"):
        iv.search(other, other.query("we sat", site="x0.post"), bank=tmp_path / "bank")
    with pytest.raises((BankError, iv.InversionViewError), match=r"not x1\.post"):
        iv.search(llama, llama.query("we sat", site="x1.post"), bank=tmp_path / "bank")
    with pytest.raises(SettingError, match="ask for"):
        iv.build_bank(llama, tmp_path / "more", rows=10**6, sites=["x0.post"])


def test_a_corpus_in_other_tokens_is_refused(folders: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    """Ids alone would not tell: both vocabularies have them."""
    study = iv.load(model=folders["Llama"], texts=TextSource(str(corpus), context=CONTEXT))
    windows = study.inputs
    assert isinstance(windows, WindowInputs)
    assert windows.folder is not None
    other = Vocabulary(byte_level(["<|end|>", "<|begin|>", "<|more|>"]), "<|begin|>", "<|end|>", None)
    with pytest.raises(InputError, match="another tokenizer"):
        WindowInputs.load(windows.folder, other)


def test_a_run_of_texts_is_a_study(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made by one command, it is read by its name alone, wherever the texts are then; a site it lacks is harvested."""
    own = tmp_path / "corpus.txt"
    own.write_text(corpus.read_text(encoding="utf-8"), encoding="utf-8")
    model, run = str(folders["GPT2"]), str(tmp_path / "run")
    options = (
        "--texts",
        str(own.parent / "corpus*.txt"),
        "--context",
        "12",
        "--sites",
        "x*.post,a1.*",
        "--tokens",
        "300",
        "--out",
        run,
    )
    main(["bank", "--model", model, *options])
    said = " ".join(capsys.readouterr().err.split())
    assert "300 of" in said
    assert "192 B a token" in said  # 2 sites of 32 numbers and 4 heads of 8, two bytes each
    own.unlink()  # the run keeps its windows; a pattern that matches nothing any more is not asked for either
    assert iv.load(run).inputs.fingerprint
    main(["search", run, "we sat by the bank", "--at=-1", "--site", "a1.2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["corpus"]["occurrences"] == 300
    with pytest.raises(SystemExit):
        main(["search", run, "we sat by the bank", "--site", "m1", "--bank", run])
    assert "not m1" in " ".join(capsys.readouterr().err.split())
    main(["search", run, "we sat by the bank", "--site", "m1", "--json"])
    assert json.loads(capsys.readouterr().out)["query"]["site"] == "m1"
