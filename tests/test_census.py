"""Features of occurrences against plain loops over characters; the census against brute force with plain transformers; its
views, resuming, features of the user's own, and what is common in a reading of text."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.analyses.census import measure
from inversionview.analyses.census.predictions import Predictions
from inversionview.analyses.census.result import Census
from inversionview.core.errors import InputError, SettingError
from inversionview.corpora.natural import TextSource
from inversionview.corpora.own_features import asked, spans
from inversionview.corpora.token_features import DISTANCES, FEATURES, POSITIONS, Windows
from inversionview.model.tokens import Vocabulary
from inversionview.preimage.preimage import Preimage
from inversionview.preimage.reading import reading
from tests.language import deep_llama
from tests.plain import Plain
from tests.test_cli import run

SITES = ("x0.post", "x1.mid", "a1.2", "m0")
LINES = [
    *(f'John gave Mary {i} rings. "Then," said Peter, Mary and John went to the garden {i % 3} times!' for i in range(9)),
    *(
        "Mary said: “the garden is John's”. He gave it to Mary… No?",
        "John, John and John gave a (ring) to Mary; to Peter – 12.",
    ),
    *(f"The garden of Mary is old.\tJohn gave it to {name}" for name in ("Peter", "John", "Mary", "猫😀")),
]
CONTEXT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deep_llama(tmp_path_factory.mktemp("census") / "llama", layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study(folder: Path, corpus: Path) -> iv.Study:
    return iv.load(model=folder, texts=TextSource(str(corpus), context=CONTEXT))


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.from_folder(folder)


# -- features ----------------------------------------------------------------------------------------------------------


def plain_features(tokens: Sequence[int], texts: Sequence[str], t: int) -> dict[str, Any]:
    """What FEATURES say of token t of a window, by loops over its tokens and characters."""
    before = "".join(texts[:t])
    same = [j for j in range(t) if tokens[j] == tokens[t]]
    marks = '.,;:?!"“”()[]-–—…'
    curly = [c for c in before if c in "“”"]

    def begins(i: int) -> bool:
        head, bare = "".join(texts[:i]), "".join(texts[:i])
        while bare and (bare[-1].isspace() or bare[-1] in "\"”’')]}»“‘([{«"):
            bare = bare[:-1]
        gap = head[len(bare) :] + texts[i]
        spaced = any(c.isspace() for c in head[len(bare) :]) or texts[i][:1].isspace()
        broken = any(c in "\n\r" for c in head[len(bare) :])
        ended = broken or bare == "" or bare[-1] in ".!?…。！？"
        nothing = bare == "" and not broken
        return any(c.isalnum() for c in texts[i]) and ended and (spaced or nothing) and bool(gap)

    word = t
    while word > 0 and texts[word][:1].isalnum() and texts[word - 1][-1:].isalnum():
        word -= 1
    first = texts[word].strip()
    capital = unicodedata.category(first[:1] or " ") in ("Lu", "Lt") and first != "I" and not begins(word)

    def class_of(number: int, starts: Sequence[int]) -> int:
        return max(i for i, start in enumerate(starts) if start <= number)

    return {
        "token": tokens[t],
        "token before": tokens[t - 1] if t else -1,
        "token two before": tokens[t - 2] if t > 1 else -1,
        "position": class_of(t + 1, POSITIONS),
        "distance to same": class_of(t - same[-1], DISTANCES) if same else -1,
        "token after same": tokens[same[-1] + 1] if same else -1,
        "quoted": int(before.count('"') % 2 == 1 or curly[-1:] == ["“"]),
        "number": int(any(c.isdigit() for c in texts[t])),
        "name": int(capital and texts[t].strip()[:1].isalpha()),
        "sentence start": int(begins(t)),
        "last punctuation": next((1 + marks.index(c) for c in reversed(before + texts[t]) if c in marks), 0),
        "next token": tokens[t + 1] if t + 1 < len(tokens) else -1,
    }


PIECES = [
    "John",
    " Mary",
    " the",
    '"',
    " “",
    "”",
    ".",
    "! ",
    "\n",
    " 12",
    "3",
    " I",
    "U",
    ".S",
    " gave",
    ",",
    " (",
    ")",
    "猫",
    "…",
    " ",
]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=25).map("".join), min_size=1, max_size=4))
def test_features_are_those_of_plain_loops(vocabulary: Vocabulary, texts: list[str]) -> None:
    framed = [vocabulary.encode(text) for text in texts if text.strip()]
    if not framed:
        return
    tokens = np.full((len(framed), max(map(len, framed)) + 1), vocabulary.pad)
    for row, ids in zip(tokens, framed, strict=True):
        row[: len(ids)] = ids
    windows = Windows(tokens, vocabulary)
    found = {feature.name: feature.codes(windows) for feature in FEATURES}
    for row, ids in enumerate(framed):
        body = ids[1:-1]
        contents = [vocabulary.pieces.content(number) for number in body]
        words = [c if isinstance(c, str) else c.decode("utf-8", "replace") for c in contents]
        for t in range(len(body)):
            assert {name: int(codes[row, t + 1]) for name, codes in found.items()} == plain_features(body, words, t), words


def test_every_feature_has_a_sentence_and_labels(study: iv.Study) -> None:
    told = study.inputs.example_features(10_000)
    assert list(told) == [feature.name for feature in FEATURES] == list(study.inputs.glossary)
    assert len({len(column) for column in told.values()}) == 1
    assert len(told["token"]) == study.inputs.occurrences(np.arange(len(study.inputs))).sum()
    assert {"yes", "no"} == set(told["quoted"]) == set(told["name"])
    assert " Mary" in told["token"]
    assert len(study.inputs.example_features(7)["token"]) == 7


# -- the census --------------------------------------------------------------------------------------------------------


def plain_census(folder: Path, study: iv.Study, epsilon: float, distance: str, queries: np.ndarray, run: measure.Pass) -> Any:
    """For each site and query, which occurrences lie inside ε, by plain transformers, window by window; and next tokens."""
    from transformers import AutoModelForCausalLM

    plain = Plain(AutoModelForCausalLM.from_pretrained(folder))
    z: dict[str, list[torch.Tensor]] = {site: [] for site in SITES}
    prefixes, expected = [], []
    for row in run.all.tokens:
        ids = [int(i) for i in row if i not in (study.inputs.pad, study.inputs.eos)]
        logits, seen = plain.run(ids)
        expected += logits[1:].argmax(-1).tolist()
        prefixes += [tuple(ids[: t + 1]) for t in range(1, len(ids))]
        for site in SITES:
            z[site].append(seen[site][1:])
    hits = {}
    for site in SITES:
        x = torch.cat(z[site]).double()
        for i, q in enumerate(queries.tolist()):
            cosine = 1 - (x @ x[q]) / (x.norm(dim=1) * x[q].norm())
            d = cosine if distance == "cosine" else (x - x[q]).norm(dim=1) / x[q].norm()
            assert float((d - epsilon).abs().min()) > 1e-5
            hits[site, i] = [j for j in range(len(x)) if float(d[j]) <= epsilon and prefixes[j] != prefixes[q]]
    others = [sum(prefix != prefixes[q] for prefix in prefixes) for q in queries.tolist()]
    return hits, others, expected


@pytest.mark.parametrize(("distance", "epsilon"), [("cosine", 0.31), ("euclidean", 0.77)])
def test_bits_are_those_of_brute_force(
    folder: Path, study: iv.Study, distance: str, epsilon: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "_MOST", 60)  # several blocks
    kept: list[measure.Pass] = []
    begin = measure.Pass.__init__

    def noted(self: measure.Pass, *given: Any) -> None:
        begin(self, *given)
        kept.append(self)

    monkeypatch.setattr(measure.Pass, "__init__", noted)
    census = iv.inform(study, sites=SITES, queries=6, epsilon=epsilon, distance=distance, seed=3)
    (run,) = kept
    assert census.occurrences == sum(len(study.model.encode(line)) - 2 for line in LINES)
    queries = run.all.draw(6, 3)
    assert len(np.unique(np.searchsorted(run.all.ends, queries, side="right"))) == 6  # each of another window
    hits, others, expected = plain_census(folder, study, epsilon, distance, queries, run)
    codes = {feature.name: codes for feature, codes in zip(run.features, run.all.codes, strict=True)}
    assert codes["model's next token"].tolist() == expected
    for site in SITES:
        total = next(total for total in census.totals if total.site == site)
        found = [len(hits[site, i]) for i in range(6)]
        assert total.bits.value == pytest.approx(
            np.mean([math.log2(n / max(1, k)) for n, k in zip(others, found, strict=True)])
        )
        assert total.found == np.mean([k > 0 for k in found])
        for cell in (cell for cell in census.cells if cell.site == site):
            values = codes[cell.feature]
            gained, same = [], []
            for i, q in enumerate(queries.tolist()):
                if hits[site, i]:
                    prior = float((values == values[q]).mean())
                    p = (sum(int(values[j] == values[q]) for j in hits[site, i]) + prior) / (len(hits[site, i]) + 1)
                    gained.append(math.log2(p / prior))
                    same.append(p)
            assert cell.bits.value == pytest.approx(np.mean(gained)), (site, cell.feature)
            assert cell.consistency.value == pytest.approx(np.mean(same))
            shares = np.unique(values, return_counts=True)[1] / len(values)
            assert cell.entropy == pytest.approx(float(-(shares * np.log2(shares)).sum()))
            assert cell.queries == len(gained)


def test_both_ways_to_what_the_model_expects_agree(study: iv.Study) -> None:
    """From the last stream, or by a run of its own where that gives other probabilities: those of the model's logits."""
    tokens = study.inputs.corpus(np.arange(len(study.inputs)))
    there = study.inputs.occurring(tokens)
    found = Predictions(study.model, tokens[:2])
    assert found.from_stream
    stream = study.model.activations(torch.from_numpy(tokens), [found.site])[0][torch.from_numpy(there)]
    logits = study.model.logits(torch.from_numpy(tokens))[torch.from_numpy(there)][:, : study.model.vocabulary.size]
    told = found.codes(stream, tokens, there)
    assert told[0].tolist() == logits.argmax(-1).tolist()
    edges = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9]
    assert told[1].tolist() == [sum(p >= edge for edge in edges) for p in logits.softmax(-1).max(-1).values.tolist()]
    found.from_stream = False
    assert np.array_equal(found.codes(stream, tokens, there), told)


def test_a_feature_alone_tells_itself(study: iv.Study) -> None:
    """The preimage of a site that knew a feature and nothing else: all that agree in it."""
    census = iv.inform(study, sites="x0.post", queries=8)
    alone = {(cell.site, cell.feature): cell for cell in census.alone}
    assert {site for site, _ in alone} >= {"token", "quoted", "position"}
    for (site, feature), cell in alone.items():
        if site == feature:
            assert cell.consistency.value >= 0.5  # (n + p) / (n + 1) of n others, all of which agree
            assert cell.bits.value > 0
    assert alone["quoted", "quoted"].bits.value > alone["position", "quoted"].bits.value


def test_goes_on_where_it_was_interrupted(study: iv.Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "_MOST", 60)
    monkeypatch.setattr("inversionview.analyses.census.kept._EVERY", 0.0)
    asked_for = {"sites": SITES, "queries": 5, "epsilon": 0.3}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    whole = iv.inform(study, **asked_for)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cut"))
    heard: list[float] = []

    def stop(share: float, note: str) -> None:
        heard.append(share)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iv.inform(study, **asked_for, report=stop)
    before = heard[-1]
    heard.clear()
    again = iv.inform(study, **asked_for, report=lambda share, note: heard.append(share))
    assert heard[0] > before
    assert heard[-1] == 1.0
    assert again == whole
    heard.clear()
    assert iv.inform(study, **asked_for, report=lambda share, note: heard.append(share)) == whole
    assert heard == []  # nothing is left to count


def test_views_and_files(study: iv.Study, tmp_path: Path) -> None:
    census = iv.inform(study, sites=["x0.pre", *SITES], queries=8, epsilon=0.6)
    assert isinstance(census, Census)
    rows = pandas.read_csv(census.save(tmp_path / "census.csv"))
    assert len(rows) == len(census.cells)
    assert {"site", "feature", "bits", "bits_low", "bits_high", "consistency", "site_bits"} <= set(rows.columns)
    for name in ("heat.png", "heat.svg", "heat.html", "census.parquet"):
        assert census.save(tmp_path / name).stat().st_size > 2000
    page = (tmp_path / "heat.html").read_text()
    assert "token two before" in page
    assert "x1.mid, token: " in page
    assert json.loads(json.dumps(census.to_json()))["occurrences"] == census.occurrences
    printed = repr(census)
    assert "token before" in printed
    assert "8 queries" in printed


# -- features of the user's own ----------------------------------------------------------------------------------------


def codes_of(study: iv.Study, *texts: str) -> tuple[Windows, list[Any]]:
    _, own = asked(texts, study.inputs)
    windows = Windows(study.inputs.corpus(np.arange(len(study.inputs))), study.inputs.read_by)
    return windows, [
        [feature.label(int(c), study.inputs.read_by) for c in feature.codes(windows)[windows.inside]] for feature in own
    ]


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="aJohn 猫😀é.\n", min_size=1, max_size=20).filter(str.strip))
def test_spans_are_where_tokens_stand(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)[1:-1]
    joined, where = spans(vocabulary, ids)
    assert joined == text
    assert where[0][0] == 0
    whole = [(text[a:b], vocabulary.decode([i])) for (a, b), i in zip(where, ids, strict=True)]
    assert all(part == alone for part, alone in whole if "\ufffd" not in alone)
    assert {i for a, b in where for i in range(a, b)} >= set(range(len(text)))


def test_a_regex_marks_tokens_that_overlap_it(study: iv.Study) -> None:
    windows, (found,) = codes_of(study, "pair=/y and J/")
    tokens = [study.inputs.read_by.strings([i])[0] for i in windows.tokens[windows.inside].tolist()]
    marked = [token for token, value in zip(tokens, found, strict=True) if value == "yes"]
    assert marked[:3] == [" Mary", " and", " John"]
    assert len(marked) == 3 * sum("Mary and John" in line for line in LINES)


def test_a_function_is_called_with_texts_and_an_index(study: iv.Study, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def third(tokens, position):\n    return len(tokens[position].strip()) % 3\n")
    windows, (found,) = codes_of(study, f"{path}:third")
    texts = [study.inputs.read_by.decode([i]) for i in windows.tokens[windows.inside].tolist()]
    same = [(value, text) for value, text in zip(found, texts, strict=True) if "\ufffd" not in text]
    assert all(value == str(len(text.strip()) % 3) for value, text in same)


@pytest.mark.parametrize("by", ["text", "window"])
def test_labels_are_mapped_to_tokens(study: iv.Study, tmp_path: Path, by: str) -> None:
    path = tmp_path / "ner.jsonl"
    records = []
    windows = Windows(study.inputs.corpus(np.arange(len(study.inputs))), study.inputs.read_by)
    parts = [study.inputs.read_by.decode(row[at].tolist()) for row, at in zip(windows.tokens, windows.inside, strict=True)]
    for number, text in enumerate(LINES if by == "text" else parts):
        if (start := text.find("Mary")) >= 0:
            where = {"text": text} if by == "text" else {"window": number}
            records.append({**where, "start": start, "end": start + 4, "label": "PERSON"})
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    windows, (found,) = codes_of(study, str(path))
    tokens = [study.inputs.read_by.strings([i])[0].strip() for i in windows.tokens[windows.inside].tolist()]
    marked = [token for token, value in zip(tokens, found, strict=True) if value == "PERSON"]
    assert "".join(marked) == "Mary" * len(records)


MADE = {
    "mine.py": "def fails(tokens, position):\n    return 1 / 0\n",
    "broken.py": "import nothing_of_this_name\n",
    "lacking.jsonl": '{"window": 0, "start": 0, "end": 1}',
    "neither.jsonl": '{"start": 0, "end": 1, "label": "X"}',
    "far.jsonl": '{"window": 99, "start": 0, "end": 1, "label": "X"}',
    "back.jsonl": '{"window": 0, "start": 0, "end": 0, "label": "X"}',
    "foreign.jsonl": '{"text": "gave gave", "start": 0, "end": 1, "label": "X"}',
    "empty.jsonl": "\n",
}
BAD = {
    "x=/(/": "is not a regular expression",
    "gone.py:f": "There is no file",
    "mine.py:g": "has no function 'g'",
    "mine.py:fails": "The feature fails fails at",
    "broken.py:f": "cannot be run: ModuleNotFoundError",
    "gone.jsonl": "there is no file of that name",
    "lacking.jsonl": "line 1: 'label': field required",
    "neither.jsonl": "line 1: it names neither text nor window",
    "far.jsonl": "line 1: there is no window 99",
    "back.jsonl": "line 1: the label ends at 0, but begins at 0",
    "foreign.jsonl": "None of the 1 windows",
    "empty.jsonl": "holds no label",
    "toekn": "There is no feature 'toekn'",
    "token=/a/": "There is a feature 'token' already",
    "none=/nothing like it/": "The feature 'none' is the same at every occurrence",
}


@pytest.mark.parametrize("text", BAD)
def test_what_no_feature_can_be_made_of_is_said_in_a_sentence(
    study: iv.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for name, content in MADE.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)

    def told() -> None:
        names, own = asked([text], study.inputs)
        iv.inform(study, sites="x0.post", queries=2, features=names, extra=own)

    with pytest.raises((SettingError, InputError)) as error:
        told()
    assert BAD[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_takes_texts_or_a_study(
    folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["inform", "--model", str(folder), "--texts", str(corpus), "--queries", "4", "--sites", "x0.post,a1.*"]
    asked_for = ["--tokens", "150", "--features", "cap=/[A-Z][a-z]+/", "--features", "token,quoted"]
    code, out, _ = run(capsys, *small, *asked_for, "--json", "--out", str(tmp_path / "c.csv"))
    assert code == 0
    told = json.loads(out)
    assert {cell["feature"] for cell in told["cells"]} == {"token", "quoted", "cap"}
    lengths = [len(ids) - 2 for ids in map(iv.load(model=folder).model.encode, LINES)]
    assert 150 <= told["occurrences"] < 150 + max(lengths)
    assert (tmp_path / "c.csv").exists()
    for words, sentence in (
        (["inform"], "Name a study, or give --model and --texts."),
        (["inform", "addition", "--texts", "x"], "--texts are read with a model alone: give --model, and no study."),
        ([*small, "--where", "A1=1"], "--where does nothing where natural text is read: leave it out."),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out, err.strip()) == (2, "", sentence)


# -- what is common in a reading ---------------------------------------------------------------------------------------


def test_what_is_common_is_told_at_the_place_of_each_hit(study: iv.Study) -> None:
    """A preimage made by hand of the corpus' occurrences of " Mary": all agree in the token, as many as do in the others."""
    query = study.query("We saw Mary in the garden", at=" Mary", site="x0.post")
    tokens = study.inputs.corpus(np.arange(len(study.inputs)))
    rows, places = np.nonzero(tokens == query.ids[query.position])
    windows = Windows(tokens, study.inputs.read_by)
    preimage = Preimage(
        query, "cosine", 0.1, 0, (), candidates=100, source="corpus", inside_count=len(rows), distinct=len(rows),
        draws=tokens[rows], places=places, study=study,
    )  # fmt: skip
    shared = iv.common(preimage)
    assert shared is not None
    told = {one.feature: one for one in shared.features}
    assert list(told) == [feature.name for feature in FEATURES]
    assert told["token"].value == " Mary"
    assert told["token"].share == 1.0
    followed = [FEATURES[-1].label(int(c), study.inputs.read_by) for c in FEATURES[-1].codes(windows)[rows, places]]
    assert told["next token"].agreeing == followed.count(told["next token"].value)
    assert dict(told["next token"].values) == {value: followed.count(value) for value in dict(told["next token"].values)}
    prior = study.inputs.example_features(20_000)["token"]
    p = (prior == " Mary").mean()
    assert told["token"].bits == pytest.approx(math.log2((len(rows) + p) / (len(rows) + 1) / p))
    windows_apart = len(np.unique(rows))
    least = 1 / (1 + 1.959964**2 / windows_apart)  # Wilson's interval of all of so many
    assert told["token"].low == pytest.approx(least, abs=1e-6)
    page = reading(study, preimage)
    assert page.features is not None
    assert page.features.query["token"] == " Mary"


def test_the_own_occurrence_never_counts(study: iv.Study) -> None:
    """The query's prefix is left out, whatever follows it; the same window at another place is not."""
    line = LINES[0]
    query = study.query(line, at=2, site="x0.post")
    tokens = study.inputs.corpus(np.arange(len(study.inputs)))
    row = next(i for i, ids in enumerate(tokens) if tuple(ids[: query.position + 1]) == query.ids[: query.position + 1])
    found = Preimage(
        query, "cosine", 0.1, 0, (), candidates=100, source="corpus", inside_count=2, distinct=2, draws=tokens[[row, row]],
        places=np.array([query.position, query.position + 1]), study=study,
    )  # fmt: skip
    shared = iv.common(found)
    assert shared is not None
    assert shared.counted == 1
