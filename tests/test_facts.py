"""Study facts: statements in a model's tokens, files of facts, heads that retrieve, and where they rest."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import inversionview as iv
from inversionview.analyses.recall import verb as recall
from inversionview.analyses.recall.result import Carried, ContentTable, HeadContent
from inversionview.analyses.recall.retrieval import RetrievalHead, heads_by_proximity, proximity_shares
from inversionview.analyses.recall.show import markdown
from inversionview.core.errors import InputError, SettingError
from inversionview.core.information import Mean
from inversionview.corpora.contrasts import study_pairs
from inversionview.decoder.pairs import Banked
from inversionview.decoder.training import TrainConfig
from inversionview.model.attention import attends_elsewhere
from inversionview.model.sites.site import Site
from inversionview.model.tokens import Vocabulary
from inversionview.runs.train import Reading, train_study
from inversionview.sources.settings import Setting
from inversionview.studies.facts.corpus import FactsInputs
from inversionview.studies.facts.known import check_known, measured_known
from inversionview.studies.facts.statements import NONE, read_statements
from inversionview.studies.load import keep
from tests.test_cli import run

SHIPPED = read_statements()


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it, trained on the statements."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator((f"{s.text} {s.object}" for s in SHIPPED[::3]), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_transformers(_tokenizer())


@cache
def _inputs() -> FactsInputs:
    return FactsInputs(Vocabulary.from_transformers(_tokenizer()))


@pytest.fixture(scope="module")
def inputs() -> FactsInputs:
    return _inputs()


def _gpt2(size: int) -> Any:
    config = GPT2Config(vocab_size=size, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1,
                        initializer_range=0.3)  # fmt: skip
    return GPT2LMHeadModel(config)


def _llama(size: int) -> Any:
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, bos_token_id=0,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=1, pad_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module", params=[_gpt2, _llama], ids=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("model"), _tokenizer()
    request.param(len(tokenizer)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of every sixth subject's statements."""
    path = tmp_path_factory.mktemp("facts")
    names = list(dict.fromkeys(s.subject for s in SHIPPED))[::6]
    records = [
        {"prompt": s.template, "subject": s.subject, "relation": s.relation, "object": s.object, "attributes": s.attributes}
        for s in SHIPPED if s.subject in set(names)
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path))
        yield iv.load("facts", model=folder, facts=_lines(path / "facts.jsonl", records))


def _ids(row: Any, pad: int) -> list[int]:
    return [int(i) for i in row if i != pad]


def _padded(rows: list[list[int]], pad: int) -> Any:
    return np.array([[*row, *[pad] * (max(map(len, rows)) - len(row))] for row in rows])


# -- statements in tokens ---------------------------------------------------------------------------------------------


def test_every_statement_is_in_the_models_own_tokens(inputs: FactsInputs, vocabulary: Vocabulary) -> None:
    texts = {s.text: s for s in SHIPPED}
    assert len(inputs) == len(texts) > 4000
    tokens = inputs.tokens(np.arange(0, len(inputs), 7))
    named, answers = inputs.named_positions(tokens), inputs.answer_of(tokens, "object")
    features = inputs.features(tokens)
    for i, row in enumerate(tokens):
        ids = _ids(row, inputs.pad)
        statement = texts[vocabulary.decode(ids)]
        assert ids == vocabulary.encode(statement.text)
        upto = named["SUBJ"][i]
        assert vocabulary.decode(ids[: upto + 1]) == statement.text[: statement.end]
        assert named["END"][i] == len(ids) - 2
        if statement.object:
            whole = vocabulary.encode(f"{statement.text} {statement.object}")
            assert whole[: len(ids) - 1] == ids[:-1]
            assert answers[i] == whole[len(ids) - 1]
        else:
            assert answers[i] == -1
        assert (features["subject"][i], features["relation"][i]) == (statement.subject, statement.relation)
        assert features["object"][i] == (statement.object or NONE)
    assert (inputs.read_at(tokens, "object") == np.where(answers < 0, -1, named["END"])).all()


def test_attributes_hold_whatever_is_asked(inputs: FactsInputs, vocabulary: Vocabulary) -> None:
    asked = [
        "The currency of Japan is the",
        "We talked about Japan for a while, and then",
        "Japan is a country whose capital is",
    ]
    features = inputs.features(_padded([vocabulary.encode(text) for text in asked], inputs.pad))
    for name, value in {"continent": "Asia", "language": "Japanese", "capital": "Tokyo", "currency": "yen"}.items():
        assert features[name].tolist() == [value] * 3
    assert features["relation"].tolist() == ["currency", NONE, "capital"]
    assert features["object"].tolist() == ["yen", NONE, "Tokyo"]


def test_other_texts_are_read_by_template_and_by_the_subjects_in_them(inputs: FactsInputs, vocabulary: Vocabulary) -> None:
    texts = [
        "The capital of Narnia is", "In 1990 I saw New Delhi, not Delhi", "Nothing at all", "The official language of Oslo is",
    ]  # fmt: skip
    tokens = _padded([vocabulary.encode(text) for text in texts], inputs.pad)
    features, named = inputs.features(tokens), inputs.named_positions(tokens)
    assert features["relation"].tolist() == ["capital", NONE, NONE, "language"]
    assert features["subject"].tolist() == [NONE, "New Delhi", NONE, "Oslo"]
    assert features["object"].tolist() == [NONE, NONE, NONE, "Norwegian"]
    upto = [vocabulary.decode(_ids(row[: at + 1], inputs.pad)) for row, at in zip(tokens, named["SUBJ"], strict=True)]
    assert upto[:2] == ["The capital of Narnia", "In 1990 I saw New Delhi"]
    assert named["SUBJ"][2] == -1
    assert (inputs.read_at(tokens, "object") == -1).all()
    assert (inputs.log_prior(tokens) == -np.inf).all()


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.integers(0, 899), max_size=12))
def test_any_tokens_have_features_and_positions(data: list[int]) -> None:
    inputs = _inputs()
    tokens = np.array([[inputs.bos, *data, inputs.eos, inputs.pad]])
    subject = inputs.named_positions(tokens)["SUBJ"][0]
    assert -1 <= subject <= len(data)
    assert (subject == -1) == (inputs.features(tokens)["subject"][0] == NONE) or inputs.features(tokens)["template"][0] >= 0


@pytest.mark.parametrize(
    ("changes", "same"),
    [(None, ("template", "relation")), (("relation",), ("subject",)), (("template",), ("subject", "relation"))],
)
def test_a_contrast_changes_the_answer_and_nothing_else(inputs: FactsInputs, changes: Any, same: tuple[str, ...]) -> None:
    pairs = study_pairs(inputs, changes=changes, limit=300) if changes != ("template",) else None
    if pairs is None:  # the object does not depend on the words
        with pytest.raises(SettingError, match="does not alter object"):
            study_pairs(inputs, changes=changes, limit=300)
        return
    before, after = inputs.features(pairs.original), inputs.features(pairs.contrast)
    assert len(pairs) > 100
    assert (pairs.answers[:, 0] != pairs.answers[:, 1]).all()
    assert (pairs.answers >= 0).all()
    for name in same:
        assert (before[name] == after[name]).all()
    assert (pairs.read == inputs.named_positions(pairs.original)["END"]).all()


def test_moves_stay_among_statements_and_are_as_likely_as_their_way_back(inputs: FactsInputs) -> None:
    rng = np.random.default_rng(0)
    tokens = inputs.fresh(64, rng)
    every = inputs.tokens(np.arange(len(inputs)))
    assert np.exp(inputs.log_total) == pytest.approx(len(np.unique(every, axis=0)))
    for move in inputs.moves:
        new, ratio = move.propose(tokens, rng)
        assert (ratio == 0).all()
        assert (inputs.log_prior(new) == 0).all()
    # from one statement, "subject" reaches every subject of its template about equally often
    start = np.repeat(tokens[:1], 20_000, axis=0)
    new, _ = inputs.moves[0].propose(start, rng)
    template = inputs.features(tokens[:1])["template"][0]
    every = inputs.tokens(np.arange(len(inputs)))
    size = int((inputs.features(every)["template"] == template).sum())
    _, counts = np.unique(inputs.rows_of(new), return_counts=True)
    assert len(counts) == size
    expected = 20_000 / size
    assert ((counts - expected) ** 2 / expected).sum() < size + 6 * (2 * size) ** 0.5  # χ²


# -- files ------------------------------------------------------------------------------------------------------------

PLACES = {"Aba": "Oslo", "Bebe": "Paris", "Coda": "Rome", "Dodo": "Lima"}
PROMPTS = [f"{a} {b} {{}} is" for a in ("The home of", "The town of", "The place of") for b in ("dear", "poor", "old", "young")]


def _own() -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "subject": name, "relation": prompt.split()[1], "object": town, "attributes": {"size": name[0]}}
        for prompt in PROMPTS for name, town in PLACES.items()
    ]  # fmt: skip


def _counterfact() -> list[dict[str, Any]]:
    return [
        {"case_id": n, "requested_rewrite": {"prompt": r["prompt"], "relation_id": r["relation"], "subject": r["subject"],
         "target_new": {"str": "Berlin", "id": "Q1"}, "target_true": {"str": r["object"], "id": "Q2"}}}
        for n, r in enumerate(_own())
    ]  # fmt: skip


def _lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _bear(folder: Path, labelled: bool) -> Path:
    folder.mkdir()
    relations = {
        "P1": {"templates": [p.replace("{}", "[X]") + " [Y]." for p in PROMPTS] + ["[Y] is the home of [X]."],
               "answer_space_labels": list(PLACES.values()), "answer_space_ids": [f"Q{n}" for n in range(4)]},
        "P2": {"templates": ["[Y] likes [X]"]},
    }  # fmt: skip
    (folder / "metadata_relations.json").write_text(json.dumps(relations))
    records = [{"sub_id": "Q9", "sub_label": name, "obj_id": f"Q{n}"} | ({"obj_label": town} if labelled else {})
               for n, (name, town) in enumerate(PLACES.items())]  # fmt: skip
    _lines(folder / "P1.jsonl", records)
    return folder


def test_files_of_the_users_and_of_published_sets(tmp_path: Path, vocabulary: Vocabulary) -> None:
    indented = tmp_path / "counterfact.json"
    indented.write_text(json.dumps(_counterfact(), indent=2))
    made = {
        "own": _lines(tmp_path / "own.jsonl", _own()),
        "lines": _lines(tmp_path / "lines.jsonl", _counterfact()),
        "array": indented,
        "bear": _bear(tmp_path / "BEAR", True),
        "ids": _bear(tmp_path / "BEAR2", False),
    }
    expected = {(p.replace("{}", name), name, town) for p in PROMPTS for name, town in PLACES.items()}
    for source in made.values():
        statements = read_statements(source)
        assert {(s.text, s.subject, s.object) for s in statements} == expected
        assert len(FactsInputs(vocabulary, source)) == 48
    features = FactsInputs(vocabulary, made["own"]).features(FactsInputs(vocabulary, made["own"]).tokens(np.arange(48)))
    assert set(features["size"]) == set("ABCD")
    assert set(features["home"]) == set(PLACES.values())  # the object of any statement holds in all


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], "line 1 .*lacks 'prompt'"),
        ([json.dumps(_own()[0]), "", "{nonsense"], "line 3 is not JSON"),
        ([json.dumps(_own()[0]), "[1, 2]"], "line 2 .*no object"),
        (['{"prompt": "Where is it", "subject": "Aba"}'], "line 1 .*once"),
        (['{"prompt": "{} is", "subject": "Aba", "object": "Oslo"}'], "line 1 .*relation and object"),
        (['{"prompt": "{} is", "subject": "Aba", "town": "Oslo"}'], "line 1 .*no field 'town'"),
        (['{"prompt": "{} is", "subject": 5}'], "line 1 .*texts|line 1"),
        (['{"prompt": "{} is", "subject": "Aba", "attributes": {"known": "x"}}'], "line 1 .*called known"),
        ([json.dumps({"requested_rewrite": {"prompt": "{} is", "subject": "A", "relation_id": "P"}})], "line 1 .*target_true"),
        ([], "holds no statement"),
        ([json.dumps(_own()[0])], "at least 40"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, vocabulary: Vocabulary, lines: list[str], message: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        FactsInputs(vocabulary, path)


def test_wrong_places_and_options_are_refused(tmp_path: Path, vocabulary: Vocabulary, folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_statements(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"metadata_relations\.json"):
        read_statements(tmp_path)
    broken = _bear(tmp_path / "BEAR", True)
    _lines(broken / "P1.jsonl", [{"sub_label": "Aba", "obj_label": "Oslo"}, {"sub_label": "Bebe"}])
    with pytest.raises(InputError, match=r"P1\.jsonl, line 2"):
        read_statements(broken)
    with pytest.raises(SettingError, match=r"no option 'fact'.*Did you mean 'facts'"):
        iv.load("facts", model=folder, fact="x")


def test_a_run_keeps_where_its_facts_are(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _lines(tmp_path / "own.jsonl", _own())
    study = iv.load("facts", model=folder, facts="own.jsonl")
    keep(study, tmp_path / "run")
    monkeypatch.chdir("/")
    again = iv.load(tmp_path / "run")
    assert len(again.inputs) == 48
    assert again.inputs.fingerprint == study.inputs.fingerprint
    assert again.spec.options == {"facts": str(tmp_path / "own.jsonl")}


# -- retrieval --------------------------------------------------------------------------------------------------------


def test_proximity_in_closed_form() -> None:
    """Parts on coordinates of their own have their L1 norms as proximity; one that points away has none."""
    parts = torch.diag(torch.tensor([1.0, 2.0, 5.0]))[:, None]
    assert proximity_shares(parts, parts.sum(0))[:, 0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    both = torch.tensor([[[3.0, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0]]])  # y = (2, 1): 3 − |(−1, 1)| = 1, 0, 3 − 2 = 1
    assert proximity_shares(both, both.sum(0))[:, 0].tolist() == pytest.approx([0.5, 0.0, 0.5])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 100))
def test_proximity_shares_sum_to_one_whatever_the_scale(seed: int, scale: float) -> None:
    parts = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(seed))
    shares = proximity_shares(parts, parts.sum(0))
    assert shares.min() >= 0
    whole = parts.sum(0)
    near = whole.abs().sum(-1) - (whole - parts).abs().sum(-1)  # where no part is near, none has a share
    assert shares.sum(0).tolist() == pytest.approx([float(each) for each in (near > 0).any(0)], abs=1e-5)
    assert torch.allclose(proximity_shares(parts * scale, parts.sum(0) * scale), shares, atol=1e-5)


def test_heads_are_picked_by_their_mean_share(study: Any) -> None:
    rows = np.arange(0, 400, 20)
    tokens = study.inputs.tokens(rows)
    ends = study.inputs.named_positions(tokens)["END"]
    found = heads_by_proximity(study.model, tokens, ends, least=0.0)
    shares: dict[str, float] = {}
    for layer in (2, 3):  # the upper half of four
        sites = [Site(layer, "pre"), *(Site(layer, "head", head) for head in range(4)), Site(layer, "mid")]
        for row, end in zip(tokens, ends, strict=True):
            pre, *heads, mid = study.model.activations(torch.from_numpy(row[None, : end + 1]), sites)[:, 0, end].double()
            near = [max(0.0, float(mid.abs().sum() - (mid - part).abs().sum()))
                    for part in (pre, *heads, mid - pre - sum(heads))]  # fmt: skip
            for head in range(4):
                shares[f"a{layer}.{head}"] = shares.get(f"a{layer}.{head}", 0) + near[1 + head] / sum(near) / len(rows)
    best = sorted(shares, key=lambda name: -shares[name])
    assert [head.site for head in found] == [name for name in best if shares[name] > 0]
    assert [head.share for head in found] == pytest.approx([shares[head.site] for head in found], rel=1e-3, abs=1e-6)
    limit = found[1].share
    assert [h.site for h in heads_by_proximity(study.model, tokens, ends, least=limit)] == [found[0].site]
    assert {(head.position, head.group) for head in found} == {("END", "retrieval")}
    with pytest.raises(SettingError, match="Layers"):
        heads_by_proximity(study.model, tokens, ends, layers=[4])
    with pytest.raises(InputError, match="no fact"):
        heads_by_proximity(study.model, tokens[:0], ends[:0])


def test_heads_rest_where_they_attend_to_bos(study: Any) -> None:
    tokens = study.inputs.tokens(np.arange(0, 200, 20))
    ends = study.inputs.named_positions(tokens)["END"]
    heads = [Site(1, "head", 0), Site(3, "head", 2)]
    rests = [
        float(study.model.attention(torch.from_numpy(row[None, : end + 1]), head.layer)[0, head.head, end, 0])
        for head in heads
        for row, end in zip(tokens, ends, strict=True)
    ]
    for most in np.quantile(rests, [0.3, 0.7]):
        mask = attends_elsewhere(study.model, tokens, ends, heads, most)
        assert mask.any()
        assert not mask.all()
        for i, head in enumerate(heads):
            for j, (row, end) in enumerate(zip(tokens, ends, strict=True)):
                pattern = study.model.attention(torch.from_numpy(row[None, : end + 1]), head.layer)[0, head.head]
                assert mask[i, j] == (pattern[end, 0] < most)
    assert not attends_elsewhere(study.model, tokens, np.full(len(tokens), -1), heads).any()
    both = attends_elsewhere(study.model, tokens, np.stack([ends, np.full(len(ends), -1)], axis=1), heads, most)
    assert (both == np.stack([mask, np.zeros_like(mask)], axis=2)).all()
    with pytest.raises(SettingError, match="Only heads"):
        attends_elsewhere(study.model, tokens, ends, [Site(0, "mlp")])


def test_known_facts_are_those_that_the_model_completes(folder: Path, study: Any) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = FactsInputs(study.model.vocabulary, study.spec.options["facts"])
    known = np.zeros(len(inputs), dtype=bool)
    for i in range(len(inputs)):
        ids = _ids(inputs.tokens(np.array([i]))[0], inputs.pad)[:-1]
        if inputs._answer[i] >= 0:
            said = int(plain(torch.tensor([ids])).logits[0, -1].argmax())
            if i % 5 == 0:  # let what the model says be right
                inputs._answer[i] = said
            known[i] = inputs._answer[i] == said
    assert (measured_known(study.model, inputs) == known).all()
    assert len(inputs) / 3 > known.sum() > 50


def test_a_model_that_knows_nothing_is_told_of(study: Any) -> None:
    with pytest.raises(InputError, match=r"completes \d+ of \d+ facts rightly \(\d"):
        recall.retrieval_heads(study)
    with pytest.raises(InputError, match=r"19 of 50 .*38\.0%"):
        check_known(np.arange(50) < 19, 50, "tiny")
    again = iv.load("facts", model=study.model_path, **study.spec.options)  # measured once: kept, and a feature from now on
    assert (again.inputs.known == study.inputs.known).all()
    assert set(again.inputs.features(again.inputs.tokens(np.arange(len(again.inputs))))["known"]) <= {"yes", "no", NONE}
    with pytest.raises(SettingError, match="no study of facts"):
        recall.known_facts(iv.load("counting"))


def test_what_a_head_carries_against_brute_force(study: Any) -> None:
    """Bits about an attribute, over all prompts: distances, preimages and shares are computed here again."""
    recall.known_facts(study)
    inputs, site = study.inputs, Site(2, "head", 1)
    tokens = inputs.tokens(np.arange(len(inputs)))
    ends = inputs.named_positions(tokens)["END"]
    head = heads_by_proximity(study.model, tokens[:50], ends[:50], layers=[2], least=0.0)[0]
    site = Site.parse(head.site)
    table = recall.recall(study, [head], queries=60, epsilon=0.05, seed=3)
    (told,) = table.heads
    works = attends_elsewhere(study.model, tokens, ends, [site])[0]
    assert told.works == pytest.approx(works.mean())
    z = torch.nn.functional.normalize(study.model.harvest(tokens, [site], ends[:, None])[0, :, 0].double(), dim=1)
    features = inputs.features(tokens)
    order = np.random.default_rng((3, 5)).permutation(len(inputs))
    corpus = inputs.rows_of(inputs.corpus(np.arange(len(inputs))))  # the bank's order
    queries = [row for row in corpus[order] if works[row]][:60]
    checked = 0
    for own in told.attributes:
        column = features[own.feature]
        there = works & (column != NONE)
        gained, asked = [], []
        for q in queries:
            near = (1 - z @ z[q] <= 0.05).numpy() & there
            near[q] = False
            if not there[q] or not near.any():
                continue
            prior = (column[there] == column[q]).mean()
            gained.append(np.log2(((column[near] == column[q]).sum() + prior) / (near.sum() + 1) / prior))
            asked.append(features["relation"][q] == own.feature)
        assert own.queries == len(gained)
        assert own.bits.value == pytest.approx(np.mean(gained), abs=0.02)
        if own.unasked is not None:
            part = [g for g, a in zip(gained, asked, strict=True) if not a]
            assert own.unasked == pytest.approx(np.mean(part) / own.entropy, abs=0.02)
        checked += 1
    assert checked >= 4
    assert table.to_json()["heads"][0]["head"]["site"] == head.site


def test_patching_and_ablation_ask_for_the_object(folder: Path, study: Any) -> None:
    from transformers import AutoModelForCausalLM

    patched = iv.patch(study, ["END:x3.post"], limit=12, seed=1)
    assert patched.settings["target"] == "object"
    assert patched.together.value == pytest.approx(patched.total, abs=1e-3)  # the last state of the stream decides all
    plain, inputs = AutoModelForCausalLM.from_pretrained(folder).eval(), study.inputs
    result = iv.ablate(study, ["END:a3.0"], limit=40, seed=1)
    tokens = inputs.tokens(np.random.default_rng((1, 23)).permutation(inputs.split("test"))[:40])
    asked = tokens[inputs.read_at(tokens, "object") >= 0]
    said = [int(plain(torch.tensor([_ids(row, inputs.pad)[:-1]])).logits[0, -1].argmax()) for row in asked]
    assert result.inputs == len(asked) < 40
    assert result.sets[0].losses[0].accuracy == np.mean(said == inputs.answer_of(asked, "object"))


# -- the table and the command ----------------------------------------------------------------------------------------


def _told(feature: str, share: float, asked: float | None = None, unasked: float | None = None) -> Carried:
    return Carried(feature, Mean(share * 2, share, share * 3), share, 2.0, 50, asked, unasked)


@pytest.mark.parametrize(
    ("asked", "unasked", "relation", "agnostic"),
    [(0.9, 0.8, 0.1, True), (0.9, 0.4, 0.1, False), (0.9, 0.6, 0.7, False), (0.05, 0.05, 0.0, False), (None, 0.5, 0.0, None)],
)
def test_a_head_is_agnostic_by_its_definition(asked: Any, unasked: float, relation: float, agnostic: bool | None) -> None:
    attributes = (_told("capital", 0.9, asked, unasked), _told("symbol", 0.8, None, 0.1))
    head = HeadContent(
        RetrievalHead("a1.2", "END", "retrieval", 0.05),
        0.5,
        0.1,
        attributes,
        _told("relation", relation),
        _told("subject", 0.3),
    )
    assert head.agnostic is agnostic
    table = ContentTable("tiny", 100, 0.3, 0.25, "cosine", 400, 0, (head,))
    row = markdown(table).splitlines()[2]
    said = {True: "yes", False: "no", None: "–"}[agnostic]
    assert row.startswith("| a1.2 | 0.050 | 50% (10%) | capital 1.80 (90%) | symbol 1.60 (80%) |")
    assert row.endswith(f"| {said} |")


def test_a_decoder_is_trained_where_heads_do_not_rest_and_drawn_from_by_the_pool_of_facts(
    folder: Path, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the attention of a model whose heads are sharp; the bank is of every prompt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _tokenizer().save_pretrained(tmp_path / "sharp")
    torch.manual_seed(0)
    sharp = _gpt2(len(_tokenizer()))
    for block in sharp.transformer.h:
        block.attn.c_attn.weight.data *= 40
    sharp.eval().save_pretrained(tmp_path / "sharp")
    sites, seen = ("a1.0", "a3.1", "x1.post"), []
    pairs = Banked.draw
    monkeypatch.setattr(Banked, "draw", lambda self, *given: seen.append((self, pairs(self, *given))) or seen[-1][1])

    def again(name: str, out: Path, **how: Any) -> Any:
        return train_study(
            name, out, TrainConfig(minutes=None, steps=2, batch=16, pool=2, evaluations=1, queries=4),
            model=str(tmp_path / "sharp"), given=study.spec.options, reading=Reading(sites=",".join(sites), **how), layers=1,
            heads=2, width=16, pathway=16, blocks=1,
        )  # fmt: skip

    made = again("facts", tmp_path / "run")
    (kept,) = (tmp_path / "run").glob("telling-*.npz")
    telling = np.load(kept)["values"]
    source, drawn = seen[-1]
    heads = np.array([site.kind == "head" for site in source.sites])
    assert telling[~heads].all()
    assert 0.05 < telling[heads].mean() < 0.95
    for row in range(0, len(drawn.tokens), 7):
        ids = drawn.tokens[row]
        named = {name: int(at[0]) for name, at in made.inputs.named_positions(ids[None]).items()}
        for number, site in enumerate(source.sites):
            pattern = made.model.attention(torch.from_numpy(ids[None]), site.layer)[0]
            for position in range(len(ids)):
                told = position in named.values() and (site.kind != "head" or float(pattern[site.head, position, 0]) < 0.6)
                assert drawn.allowed[row, position, number] == told
    monkeypatch.setattr("inversionview.runs.train.attends_elsewhere", None)  # what was measured is kept
    again("facts", tmp_path / "run")
    with pytest.raises(SettingError, match="--stream"):
        again("facts", tmp_path / "other", stream=True)
    query = made.query("The capital of France is", "END", "a3.1")
    assert iv.read(made, query, each=2, source="decoder").candidates == 2 * 16
    assert iv.read(made, query, each=2, settings=[Setting()], source="decoder").candidates == 2


def test_the_command_tells_mistakes_and_makes_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, made = _lines(tmp_path / "own.jsonl", _own()), tmp_path / "run"
    model = ["--model", str(folder)]
    assert run(capsys, "recall", "--facts", str(path), "--keep", str(made), *model)[0] == 0
    for arguments, message in {
        ("recall", str(made)): "facts rightly",
        ("recall", str(made), "--keep", str(made)): "is a run already",
        ("recall", "--facts", str(path), "--out", "table.txt", *model): "no Markdown file",
        ("recall", "--facts", str(tmp_path / "none"), *model): "cannot be read",
        ("recall", "counting"): "no study of facts",
        ("heads", str(made)): "inversionview recall",
    }.items():
        code, _, error = run(capsys, *arguments)
        assert (code, message in error, "Traceback" in error) == (2, True, False), error
