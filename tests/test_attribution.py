"""Direct logit attribution against plain Hugging Face forwards and formulas written out here; rates against a naive loop."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import inversionview as iv
from inversionview.analyses.attribute.cases import Cases, answer_cases
from inversionview.analyses.attribute.measure import attributions, components, promotion_rates
from inversionview.analyses.attribute.prompts import prompt_cases, word_ids
from inversionview.analyses.attribute.result import Attribution
from inversionview.core.errors import InputError, SettingError, UnknownPositionError, UnknownSiteError
from inversionview.model.bridge import BridgeBackend
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.model.tokens import Vocabulary
from tests.test_architectures import ARCHITECTURES, VOCABULARY, Loaded, save
from tests.test_cli import bad, run

WORDS = ["Mary", " Mary", " John", "Ann", " Ann", " gave", " to", " and", " milk", " .", "<unk>", "B", "E", "P"]
"""Mary and Ann are tokens with and without a space before them, John with one only."""


def gpt2(folder: Path, width: int = 16, **options: Any) -> GPT2LMHeadModel:
    """A random GPT-2 over ``WORDS`` on disk, its biases and gains far from their defaults."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=16, n_embd=width, n_layer=2, n_head=width % 2 + 2, initializer_range=0.3,
        bos_token_id=11, eos_token_id=12, **options,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + (".ln_" in name and name.endswith("weight")))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\S+"), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="B", eos_token="E", pad_token="P", unk_token="<unk>"
    ).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words")
    gpt2(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> ProbedModel:
    return ProbedModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()


def reference(plain: Any, ids: list[int]) -> dict[Site, Tensor]:
    """Every activation of a plain forward pass of a GPT-2, ``[pos, d_model]``, by the hooks of test_architectures."""
    heads = plain.config.n_head
    loaded = Loaded(ARCHITECTURES["gpt2"], Path(), None, plain)  # type: ignore[arg-type]
    loaded.head = lambda z, site: _head(plain, z, site, heads)  # type: ignore[method-assign]
    found = loaded.reference(torch.tensor([ids]))
    return {site: z[0] for site, z in found.items() if site.head is None or site.head < heads}


def _head(plain: Any, z: Tensor, site: Site, heads: int) -> Tensor:
    w_o, width = plain.transformer.h[site.layer].attn.c_proj.weight, z.size(-1) // heads
    mine = slice((site.head or 0) * width, ((site.head or 0) + 1) * width)
    return z[..., mine] @ w_o[mine]


def layer_norm_frozen(plain: Any, v: Tensor, x: Tensor) -> Tensor:
    """g ⊙ (v − mean v) / √(var x + ε): LayerNorm at the scale of x, without its bias."""
    ln = plain.transformer.ln_f
    return ln.weight * (v - v.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + ln.eps).sqrt()


def by_id(result: Attribution) -> Tensor:
    """The contributions to all tokens, from a result with all of them."""
    out = torch.full((len(result.promoted),), torch.nan)
    out[[t.id for t in result.promoted]] = torch.tensor([t.logit for t in result.promoted])
    return out


IDS = [11, 1, 7, 2, 5, 8, 6, 12]
"""B Mary and John gave milk to E"""


# -- one input ---------------------------------------------------------------------------------------------------------

FORMULAS: dict[str, Any] = {
    "gpt2": lambda m: m.transformer.ln_f,
    "llama": lambda m: m.model.norm,
    "gemma": lambda m: m.model.norm,
    "pythia": lambda m: m.gpt_neox.final_layer_norm,
    "gptj": lambda m: m.transformer.ln_f,
}
"""Where the last norm of an architecture is."""


def frozen(architecture: str, norm: Any, v: Tensor, x: Tensor) -> Tensor:
    """LayerNorm or RMSNorm (Gemma's with gain 1 + w) of v at the scale of x, as their papers define them."""
    if hasattr(norm, "bias"):
        return norm.weight * (v - v.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    gain = norm.weight + (architecture == "gemma")
    eps = norm.eps if architecture == "gemma" else norm.variance_epsilon
    return gain * v / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("name", list(FORMULAS))
def test_contributions_are_the_formula_on_a_plain_forward(name: str, tmp_path: Path) -> None:
    plain = save(ARCHITECTURES[name], tmp_path)
    plain.set_attn_implementation("eager")
    backend, tokenizer = BridgeBackend.from_pretrained(str(tmp_path))
    model = ProbedModel(backend, Vocabulary.from_transformers(tokenizer), name)
    ids = torch.randint(VOCABULARY - 3, (7,), generator=torch.Generator().manual_seed(1))
    found = Loaded(ARCHITECTURES[name], tmp_path, backend, plain).reference(ids[None])
    x, norm = found[Site(1, "post")][0], FORMULAS[name](plain)
    w_u = plain.get_output_embeddings().weight
    for position in (0, 4):
        results = attributions(model, ids.tolist(), position, "a*.*,m*,x*.*", k=7)
        unfolded = attributions(model, ids.tolist(), position, "a*.*,m*,x*.*", k=7, folded=False)
        assert [r.site for r in results] == [s.short for s in sorted(found, key=lambda s: ("amx".index(s.short[0]), s))]
        for result, bare in zip(results, unfolded, strict=True):
            v = found[Site.parse(result.site)][0, position]
            for shown, wanted in ((result, frozen(name, norm, v, x[position]) @ w_u.T), (bare, v @ w_u.T)):
                for direction, sign in ((shown.promoted, 1), (shown.suppressed, -1)):
                    logits = torch.tensor([t.logit for t in direction])
                    assert (logits - wanted[[t.id for t in direction]]).abs().max() <= 1e-4
                    assert (logits - sign * (sign * wanted).sort(descending=True).values[:7]).abs().max() <= 1e-4


@pytest.mark.parametrize("options", [{}, {"width": 15}, {"layer_norm_epsilon": 0.5}, {"tie_word_embeddings": False}], ids=str)
def test_parts_of_the_stream_add_up_to_the_logits(tmp_path: Path, options: dict[str, Any]) -> None:
    """Embedding + heads + biases of W_O + MLPs, and the norm's own bias through W_U, are the model's logits."""
    plain = gpt2(tmp_path, **options)
    model, k = ProbedModel.from_pretrained(tmp_path), len(WORDS)
    with torch.no_grad():
        logits = plain(torch.tensor([IDS])).logits[0]
        w_u, ln_bias = plain.lm_head.weight, plain.transformer.ln_f.bias
        x = reference(plain, IDS)[Site(1, "post")]
        biases = sum(layer_norm_frozen(plain, block.attn.c_proj.bias, x) for block in plain.transformer.h) @ w_u.T
        rest = ln_bias @ w_u.T
    for position in range(len(IDS)):
        parts = attributions(model, IDS, position, "x0.pre,a*.*,m*", k=k)
        assert (sum(map(by_id, parts)) + biases[position] + rest - logits[position]).abs().max() <= 1e-4
        steps = attributions(model, IDS, position, "x0.pre,x0.mid-x0.pre,x0.post-x0.mid,x1.post-x0.post", k=k)
        assert (sum(map(by_id, steps)) + rest - logits[position]).abs().max() <= 1e-4
        (last,) = attributions(model, IDS, position, "x1.post", k=k)
        assert (by_id(last) + rest - logits[position]).abs().max() <= 1e-4


def test_a_difference_is_attributed_with_either_sign(model: ProbedModel) -> None:
    there, back, mlp = attributions(model, IDS, 6, "x1.post-x1.mid, x1.mid−x1.post, m1", k=len(WORDS))
    assert (there.site, back.site) == ("x1.post-x1.mid", "x1.mid-x1.post")
    assert torch.allclose(by_id(there), -by_id(back), atol=1e-5)
    assert torch.allclose(by_id(there), by_id(mlp), atol=1e-4)
    assert [t.id for t in there.promoted[:3]] == [t.id for t in back.suppressed[:3]]


def test_sites_may_be_written_in_every_style(model: ProbedModel) -> None:
    found = components("a^{0,1},blocks.1.hook_resid_post-blocks.0.hook_resid_pre,x^{1,mid}-x0.post,m*", model.sites)
    assert list(map(str, found)) == ["a0.1", "x1.post-x0.pre", "x1.mid-x0.post", "m0", "m1"]


def test_a_result_says_where_it_was_read(model: ProbedModel) -> None:
    (result,) = attributions(model, IDS, -2, "a1.0", folded=False)
    value = json.loads(json.dumps(result.to_json()))
    assert (value["position"], value["tokens"][6], value["site"], value["folded"]) == (6, " to", "a1.0", False)
    assert len(value["promoted"]) == len(value["suppressed"]) == 1  # a tenth of 14 tokens
    assert all(WORDS[t["id"]] == t["token"] for t in value["promoted"] + value["suppressed"])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"what": "a9.9"}, UnknownSiteError, "a9.9"),
        ({"what": ""}, UnknownSiteError, "no site"),
        ({"what": "x1.post-"}, SettingError, "'x1.post-' is no difference"),
        ({"what": "-x1.post"}, SettingError, "is no difference"),
        ({"what": "x1.post-x1.post"}, SettingError, "is no difference"),
        ({"what": "x1.post-x0.post-x0.pre"}, SettingError, "is no difference"),
        ({"what": "x1.post-a0.0"}, SettingError, "is no difference"),
        ({"what": "x1.post-x9.post"}, UnknownSiteError, "x9.post"),
        ({"position": 8}, UnknownPositionError, "no position 8"),
        ({"position": -9}, UnknownPositionError, "no position -9"),
        ({"k": 0}, SettingError, "from 1 to the vocabulary's 14"),
        ({"k": 15}, SettingError, "from 1 to the vocabulary's 14"),
    ],
)
def test_mistakes(model: ProbedModel, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        attributions(model, IDS, **{"position": 3, "what": "a0.0", **options})


class _Squashing(GPT2Backend):
    """A GPT-2 that ends in tanh instead of a norm."""

    def final_norm(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_a_norm_that_does_not_only_scale_is_not_folded(folder: Path) -> None:
    model = ProbedModel(_Squashing.from_folder(folder), Vocabulary.from_folder(folder), "tanh")
    with pytest.raises(SettingError, match="cannot be frozen"):
        attributions(model, IDS, 3, "a0.0")
    assert attributions(model, IDS, 3, "a0.0", folded=False)


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "ids"), [("Mary", (0, 1)), (" Mary", (0, 1)), ("John", (2,)), ("  John ", (2,)), ("Ann", (3, 4)), (".", (9,))]
)
def test_a_word_is_its_tokens_with_and_without_a_space(model: ProbedModel, word: str, ids: tuple[int, ...]) -> None:
    assert word_ids(model, word) == ids


@pytest.mark.parametrize("word", ["Bob", "John gave", "", "  ", "<unk>", "E"])
def test_a_word_that_is_no_token_is_refused(model: ProbedModel, word: str) -> None:
    with pytest.raises(InputError, match="no single token"):
        word_ids(model, word)


# -- rates -------------------------------------------------------------------------------------------------------------

CANDIDATES = {"Mary": (0, 1), "John": (2,), "Ann": (3, 4), "milk": (8,)}


def counted(note: str) -> tuple[int, int]:
    """Return what a note such as ``80 of 240 readings`` counts."""
    done, total = re.findall(r"[\d,]+", note)
    return int(done.replace(",", "")), int(total.replace(",", ""))


def some_cases(count: int, seed: int = 0) -> Cases:
    """Random inputs of several lengths with random expectations; milk is expected at times but no rival."""
    rng = np.random.default_rng(seed)
    tokens, positions = np.full((count, 9), 13), np.zeros(count, dtype=np.int64)
    for row in range(count):
        length = rng.integers(3, 10)
        tokens[row, :length] = [11, *rng.integers(0, 10, size=length - 2), 12]
        positions[row] = rng.integers(0, length - 1)
    rivals = np.array([word != "milk" for word in CANDIDATES])
    return Cases(tokens, positions, rng.integers(4, size=count), tuple(CANDIDATES.values()), rivals)


def naive(plain: Any, cases: Cases, site: Site, k: int, sign: int, folded: bool) -> list[tuple[bool, bool]]:
    """For each input: is the expected word among the k most promoted tokens, and is it then the first of the candidates?"""
    found = []
    for row, position, expected in zip(cases.tokens, cases.positions, cases.expected, strict=True):
        z = reference(plain, [i for i in row.tolist() if i != 13])
        v = z[site][position]
        v = layer_norm_frozen(plain, v, z[Site(1, "post")][position]) if folded else v
        order = (sign * v @ plain.lm_head.weight.T).sort(descending=True).indices.tolist()
        rank = {number: min(order.index(i) for i in ids) for number, ids in enumerate(CANDIDATES.values())}
        rivals = [rank[number] for number in range(3) if number != expected]  # milk, the fourth, is none
        inside = rank[int(expected)] < k
        found.append((inside, inside and all(rank[int(expected)] < other for other in rivals)))
    return found


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("numbers", [2**23, 40, 1])
def test_rates_are_those_of_a_naive_loop(
    model: ProbedModel, plain: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch, folded: bool, numbers: int
) -> None:
    """Whatever the size of the batches."""
    monkeypatch.setattr("inversionview.analyses.attribute.measure._NUMBERS", numbers)
    cases, done = some_cases(40), []
    table = promotion_rates(
        model, cases, "a*.*,m1,x1.post", k=4, folded=folded, report=lambda _, note: done.append(counted(note))
    )
    assert [row.site for row in table.rows] == ["a0.0", "a0.1", "a1.0", "a1.1", "m1", "x1.post"]
    assert (table.inputs, table.candidates, table.k, table.tokens, table.folded) == (40, 3, 4, 14, folded)
    assert done[-1] == (240, 240)
    assert done == sorted(done)
    seen = set()
    for row in table.rows:
        for sign, within, first in ((1, row.promoted, row.promoted_first), (-1, row.suppressed, row.suppressed_first)):
            wanted = np.mean(naive(plain, cases, Site.parse(row.site), 4, sign, folded), axis=0)
            assert (within.value, first.value) == tuple(wanted)
            assert 0 <= within.low <= within.value <= within.high <= 1
            seen |= {within.value, first.value}
    assert len(seen) > 6, "the rates hardly differ: the comparison would mean nothing"


def test_what_adds_nothing_promotes_nothing(tmp_path: Path) -> None:
    """An MLP of zeros adds zero to every logit: the expected word is not among the first of equals."""
    plain = gpt2(tmp_path)
    with torch.no_grad():
        plain.transformer.h[0].mlp.c_proj.weight.zero_()
        plain.transformer.h[0].mlp.c_proj.bias.zero_()
    plain.save_pretrained(tmp_path)
    (row,) = promotion_rates(ProbedModel.from_pretrained(tmp_path), some_cases(10), "m0", k=13).rows
    assert (row.promoted.value, row.suppressed.value) == (0, 0)
    assert row.promoted.high == pytest.approx(1 - 0.025 ** (1 / 10))  # Clopper and Pearson without a hit


def test_no_inputs_have_no_rate(model: ProbedModel) -> None:
    with pytest.raises(InputError, match="no input"):
        promotion_rates(model, some_cases(0), "a0.0")


# -- the studies' own inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["A1", "A2", "A3", "A4"])
def test_an_addition_is_read_before_the_digit(addition: iv.Study, target: str) -> None:
    cases = answer_cases(addition.inputs, target, 300, seed=1)
    assert len(cases) == 300
    names, place = addition.model.vocabulary.tokens, int(target[1]) - 1
    for row, position, expected in zip(cases.tokens, cases.positions, cases.expected, strict=True):
        text = addition.model.vocabulary.decode(row.tolist())
        first, second = text.split("=")[0].split("+")
        digits = [*str(int(first) + int(second)), "E"]
        assert names[cases.words[expected][0]] == digits[place]
        assert position == text.index("=") + 1 + place  # BOS comes before the text
    assert {names[i] for (i,) in cases.words} == set("0123456789") - ({"0"} if target == "A1" else set()) | (
        {"E"} if target == "A4" else set()
    )
    assert cases.candidates.all()


def test_counting_is_read_at_the_colon(counting: iv.Study) -> None:
    cases = answer_cases(counting.inputs, "count", 200)
    names = counting.model.vocabulary.tokens
    for row, position, expected in zip(cases.tokens, cases.positions, cases.expected, strict=True):
        letters, question = counting.model.vocabulary.decode(row.tolist()).split("|")
        assert names[row[position]] == ":"
        assert names[cases.words[expected][0]] == str(letters.count(question[0]))


def test_the_last_stream_promotes_what_the_model_answers(addition: iv.Study) -> None:
    """x1.post with the norm's bias is the logits; without it the first token is still the model's own in nearly all inputs."""
    cases = answer_cases(addition.inputs, "A2", 500)
    (row,) = promotion_rates(addition.model, cases, "x1.post").rows
    assert row.promoted_first.value > 0.95


def test_an_answer_that_the_inputs_lack_is_refused(addition: iv.Study, own_model: Path) -> None:
    with pytest.raises(InputError, match=r"no answer 'A5'.*A1, A2, A3, A4"):
        answer_cases(addition.inputs, "A5")
    texts = iv.TextInputs.tokenize([f"ann has {n} figs" for n in range(60)], ProbedModel.from_pretrained(own_model).tokenizer)
    with pytest.raises(InputError, match="no answers of their own"):
        answer_cases(texts, "count")
    with pytest.raises(SettingError, match="at least 1"):
        answer_cases(addition.inputs, "A1", 0)


# -- prompts and the command line --------------------------------------------------------------------------------------

PROMPTS = [
    {"text": " Mary and John gave milk to", "expected": " Mary"},
    {"text": " John and Ann gave to", "expected": "John", "at": " gave"},
    {"text": " Ann and Ann gave", "expected": "milk", "at": 2},
    {"text": " Mary and Ann gave milk to", "expected": "Mary", "at": "END"},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, PROMPTS)) + "\n\n")
    return path


def test_prompts_are_located_and_their_words_are_the_candidates(model: ProbedModel, folder: Path, prompts: Path) -> None:
    locate = iv.load(model=folder).locate
    cases = prompt_cases(model, prompts, locate)
    assert cases.positions.tolist() == [6, 4, 2, 6]
    assert [cases.words[i] for i in cases.expected] == [(0, 1), (2,), (8,), (0, 1)]
    assert len(cases.words) == 3
    assert cases.candidates.all()
    (among := prompts.with_name("names.txt")).write_text("Ann\n\n Mary\n")
    cases = prompt_cases(model, prompts, locate, among=among)
    rivals = {word for word, rival in zip(cases.words, cases.candidates, strict=True) if rival}
    assert rivals == {(0, 1), (3, 4)}


def test_rates_over_prompts_of_a_model_alone(
    capsys: pytest.CaptureFixture[str], folder: Path, plain: GPT2LMHeadModel, prompts: Path
) -> None:
    out = prompts.with_name("rates.csv")
    code, said, err = run(
        capsys, "dla", "--model", str(folder), "--prompts", str(prompts), "--sites", "a1.*,x1.post", "-k", "5", "--json",
        "--out", str(out),
    )  # fmt: skip
    value = json.loads(said)
    assert (code, err) == (0, "")
    assert (value["inputs"], value["candidates"], value["k"], value["folded"]) == (4, 3, 5, True)
    tokens = np.full((4, 8), 13)
    for row, ids in zip(
        tokens,
        ([11, 1, 7, 2, 5, 8, 6, 12], [11, 2, 7, 4, 5, 6, 12], [11, 4, 7, 4, 5, 12], [11, 1, 7, 4, 5, 8, 6, 12]),
        strict=True,
    ):
        row[: len(ids)] = ids
    cases = Cases(tokens, np.array([6, 4, 2, 6]), np.array([0, 1, 3, 0]), (), np.ones(0, dtype=bool))
    for row in value["rows"]:
        for direction, sign in (("promoted", 1), ("suppressed", -1)):
            wanted = naive(plain, cases, Site.parse(row["site"]), 5, sign, True)
            assert row[direction]["value"] == np.mean([inside for inside, _ in wanted])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["site"] for row in rows] == ["a1.0", "a1.1", "x1.post"]
    assert [float(row["promoted"]) for row in rows] == [row["promoted"]["value"] for row in value["rows"]]


def test_one_text_of_a_model_alone(
    capsys: pytest.CaptureFixture[str], folder: Path, model: ProbedModel, tmp_path: Path
) -> None:
    arguments = ("dla", "--model", str(folder), " Mary and John gave milk to", "--site", "a1.1,x1.post-x0.post", "--plain")
    code, said, err = run(capsys, *arguments, "--json", "--out", str(tmp_path / "found.parquet"))
    value = json.loads(said)
    assert (code, err, value["folded"]) == (0, "", False)
    wanted = [result.to_json() for result in attributions(model, IDS, 6, "a1.1,x1.post-x0.post", folded=False)]
    assert value["sites"] == json.loads(json.dumps(wanted))
    assert (tmp_path / "found.parquet").stat().st_size > 0
    code, said, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "(" in said.splitlines()[0]
    assert "not folded" in said


def test_one_text_of_a_study(capsys: pytest.CaptureFixture[str], counting: iv.Study) -> None:
    text = "vvzccvczvvvzvcvc|v:8"
    code, said, _ = run(capsys, "dla", "counting", text, "--at", ":", "--site", "x1.post", "--json", "-k", "1")
    value = json.loads(said)
    (result,) = value["sites"]
    assert (code, value["study"], value["folded"]) == (0, "counting", True)
    assert result["tokens"][result["position"]] == ":"
    assert result["promoted"][0]["token"] == "8"


def test_rates_of_a_study_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "dla", "addition", "--target", "A4", "--sites", "a*.*,x1.post", "--inputs", "50")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()[1:10]] == [f"a{i}.{j}" for i in (0, 1) for j in range(4)] + [
        "x1.post"
    ]
    assert "50 inputs" in said
    assert "is folded in" in said
    again = [run(capsys, "dla", "addition", "--inputs", "20", "--json", "--seed", seed)[1] for seed in ("3", "3", "4")]
    assert again[0] == again[1]
    assert json.loads(again[0])["target"] == "A1"


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "dla", "--help")
    assert code == 0
    assert "inversionview dla" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dla",), "--model"),
        (("dla", "cuonting"), "counting"),
        (("dla", "addition", "--target", "A5"), "A1, A2, A3, A4"),
        (("dla", "addition", "--inputs", "0"), "--inputs"),
        (("dla", "addition", "--sites", "x1.post-"), "is no difference"),
        (("dla", "addition", "--sites", "a7.*"), "a7.*"),
        (("dla", "addition", "-k", "16"), "15 tokens"),
        (("dla", "addition", "--at", "="), "leave at and among out"),
        (("dla", "addition", "--among", "x"), "leave at and among out"),
        (("dla", "addition", "615+861=1476", "--at", "Q"), "no position 'Q'"),
        (("dla", "addition", "615+861=1476", "--target", "A1"), "leave them or TEXT out"),
        (("dla", "addition", "--out", "x.txt"), ".csv, .parquet"),
        (("dla", "addition", "--prompts", "none.jsonl"), "none.jsonl cannot be read"),
        (("dla", "addition", "--prompts", "none.jsonl", "--target", "A1"), "leave the target or the prompts"),
    ],
)
def test_mistakes_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad(capsys, *arguments, says=says)


GOOD = json.dumps(PROMPTS[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no prompt"),
        (f"{GOOD}\n\n{{", "prompts.jsonl, line 3 is not JSON"),
        (f"{GOOD}\n[1]", "prompts.jsonl, line 2: this is no JSON object"),
        ('{"text": " Mary gave"}', "line 1: 'expected': field required"),
        ('{"text": " Mary gave", "expected": 3}', "line 1: 'expected'"),
        ('{"text": " Mary gave", "expected": "Ann", "where": 2}', "line 1: 'where'"),
        ('{"text": " Mary gave", "expected": "Ann", "at": 2.5}', "line 1: 'at'"),
        ('{"text": "", "expected": "Ann"}', "line 1: The text is empty"),
        ('{"text": " Mary gave", "expected": "Bob"}', "line 1: 'Bob' is no single token"),
        ('{"text": " Mary gave", "expected": "Ann", "at": "Z"}', "line 1: There is no position 'Z'"),
        (json.dumps({"text": " Mary" * 20, "expected": "Ann"}), "line 1: The text has 22 tokens"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    bad(capsys, "dla", "--model", str(folder), "--prompts", str(path), says=says)


def test_a_word_of_the_candidates_that_is_no_token_is_named(
    capsys: pytest.CaptureFixture[str], folder: Path, prompts: Path
) -> None:
    names = prompts.with_name("names.txt")
    names.write_text("Ann\nBob\n")
    command = ("dla", "--model", str(folder), "--prompts", str(prompts), "--among", str(names))
    bad(capsys, *command, says="names.txt, line 2: 'Bob' is no single token")
    names.write_text("\n")
    bad(capsys, *command, says="holds no word")


def test_a_model_alone_has_no_answers(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    bad(capsys, "dla", "--model", str(folder), says="give prompts")


# -- the library -------------------------------------------------------------------------------------------------------


def test_a_study_attributes_a_query_or_a_text(folder: Path, model: ProbedModel, counting: iv.Study) -> None:
    study, text = iv.load(model=folder), " Mary and John gave milk to"
    query = study.query(text, at=" John", site="a1.1")
    assert iv.attribute(study, query) == attributions(model, IDS, 3, "a1.1")
    wanted = attributions(model, IDS, 3, "x1.post-x0.post,a0.*", k=4, folded=False)
    assert iv.attribute(study, query, "x1.post-x0.post,a0.*", k=4, folded=False) == wanted
    assert iv.attribute(study, text, "x1.post-x0.post,a0.*", at=" John", k=4, folded=False) == wanted
    assert iv.attribute(study, text, at=0) == attributions(model, IDS, 0, study.spec.site)
    (result,) = iv.attribute(counting, "vvzccvczvvvzvcvc|v:8")
    assert (result.site, result.tokens[result.position]) == (counting.spec.site, counting.spec.at)
    with pytest.raises(SettingError, match="A query has its position"):
        iv.attribute(study, query, at=2)
    with pytest.raises(UnknownPositionError, match="no position 'Q'"):
        iv.attribute(study, text, at="Q")


def test_a_study_takes_rates_over_its_answers(addition: iv.Study) -> None:
    told: list[tuple[int, int]] = []
    found = iv.rates(
        addition, "a*.*", target="A2", k=3, folded=False, limit=40, seed=5, report=lambda _, note: told.append(counted(note))
    )
    assert found == promotion_rates(addition.model, answer_cases(addition.inputs, "A2", 40, seed=5), "a*.*", k=3, folded=False)
    assert told[-1] == (320, 320)
    first = iv.rates(addition, limit=40)
    assert first == promotion_rates(addition.model, answer_cases(addition.inputs, "A1", 40), addition.spec.site)
    assert first != iv.rates(addition, limit=40, target="A3")


def test_a_study_takes_rates_over_prompts(folder: Path, model: ProbedModel, prompts: Path) -> None:
    (among := prompts.with_name("names.txt")).write_text("Ann\n Mary\n")
    study = iv.load(model=folder)
    for at, wanted in ((None, 6), (0, 0), (" gave", 4)):
        cases = prompt_cases(model, prompts, study.locate, at="END" if at is None else at, among=among)
        assert cases.positions[0] == wanted
        assert iv.rates(study, "a1.*", prompts=str(prompts), among=str(among), at=at) == promotion_rates(model, cases, "a1.*")
    assert iv.rates(study, "a1.*", prompts=prompts).candidates == 3


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"target": "A5"}, InputError, "A1, A2, A3, A4"),
        ({"limit": 0}, SettingError, "at least 1"),
        ({"what": "x1.post-"}, SettingError, "is no difference"),
        ({"at": "="}, SettingError, "leave at and among out"),
        ({"at": 0}, SettingError, "leave at and among out"),
        ({"among": "names.txt"}, SettingError, "leave at and among out"),
        ({"prompts": "none.jsonl", "target": "A1"}, SettingError, "leave the target or the prompts out"),
        ({"prompts": "none.jsonl"}, InputError, "none.jsonl cannot be read"),
    ],
)
def test_mistakes_in_rates(addition: iv.Study, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        iv.rates(addition, **options)


def test_no_rates_without_answers(folder: Path) -> None:
    with pytest.raises(SettingError, match="no answers of its own"):
        iv.rates(iv.load(model=folder), "a0.0")
