"""The walk on language models: on a tiny one every text can be listed, so the chain's distribution is known."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import inversionview as iv
from inversionview.cli import main
from inversionview.core.scope import Scope
from inversionview.markov.bigrams import Bigrams
from inversionview.markov.ended import EndedKernel
from inversionview.markov.kernel import Target
from inversionview.markov.language import LanguageKernel
from inversionview.markov.pool import Pool
from inversionview.markov.run import Walk, WalkSettings
from inversionview.markov.texts import last_of
from inversionview.preimage.preimage import Sample

CHARACTERS = [*"abcd", "B", "E", "P"]
FEWEST, MOST = 2, 4
"""Tokens of a text, BOS counted."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer GPT-2 of four letters, with random weights that are large enough for it to have opinions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from inversionview.model.tokens import character_tokenizer

    torch.manual_seed(3)
    tokenizer = character_tokenizer(CHARACTERS)
    config = GPT2Config(
        vocab_size=len(CHARACTERS), n_positions=12, n_embd=16, n_layer=2, n_head=2, initializer_range=0.35,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tiny") / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> iv.Study:
    return iv.load(model=folder)


def every_text() -> np.ndarray:
    """All texts of one to three letters, ``[84, 5]``."""
    bos, eos, pad = (CHARACTERS.index(c) for c in "BEP")
    bodies = [body for n in range(FEWEST - 1, MOST) for body in product(range(4), repeat=n)]
    return np.array([[bos, *body, eos, *[pad] * (MOST - 1 - len(body))] for body in bodies])


def prior(folder: Path, texts: np.ndarray, beta: float) -> np.ndarray:
    """log p(x)^β of each text by a plain Hugging Face forward, BOS, EOS and padding never drawn."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    out = []
    for row in texts:
        body = row[1 : list(row).index(CHARACTERS.index("E"))]
        with torch.no_grad():
            scores = model(torch.tensor([[row[0], *body]])).logits[0, :-1, :4].log_softmax(-1).double().numpy()
        out.append(beta * scores[np.arange(len(body)), body].sum() if beta else -len(body) * np.log(4))
    return np.array(out)


def distances_of(study: iv.Study, texts: np.ndarray, query: iv.Query, ended: bool = False) -> np.ndarray:
    """D of each text, or that of its last token, each run alone, without padding."""
    out = []
    for row in texts:
        ids = torch.from_numpy(row[None, : list(row).index(CHARACTERS.index("E"))])
        z = study.model.activations(ids, [query.site])[0, 0].double()
        cosine = torch.nn.functional.cosine_similarity(z, query.z.double(), dim=-1)
        out.append(float((1 - cosine)[-1] if ended else (1 - cosine).min()))
    return np.array(out)


def numbers(texts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Which of ``texts`` each row of tokens is."""
    known = {tuple(row): i for i, row in enumerate(texts.tolist())}
    return np.array([known[tuple(row)] for row in tokens.tolist()])


def corpus() -> tuple[Bigrams, ...]:
    """Counts of texts of the four letters, in which some follow others more often."""
    rows = np.random.default_rng(2).integers(4, size=(40, 6))
    rows[:, 1::2] = (rows[:, ::2] + 1) % 4
    return tuple(Bigrams(rows, rows < 4, len(CHARACTERS), gap) for gap in (1, 2))


def kernel_of(study: iv.Study, query: iv.Query, ended: bool = False, **options: object) -> LanguageKernel:
    """The kernel that a walk takes; where texts end at what is read and the model's prior counts, with what a corpus says."""
    if ended and options.get("beta", 1.0) and not options.get("guided"):
        options = {"ahead": corpus(), **options}
    kind = EndedKernel if "ahead" in options else LanguageKernel
    scope = Scope(distance="cosine", at=partial(last_of, pad=CHARACTERS.index("P")) if ended else None)
    return kind(study.model, Target(query.z, query.site, scope, ended), (FEWEST, MOST), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("guided", "ended"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_move_and_the_mix_leave_the_distribution_as_it_is(
    tiny: iv.Study, folder: Path, beta: float, guided: bool, ended: bool
) -> None:
    """Chains that start at exact draws of π(x) ∝ p(x)^β 1[D ≤ ε] are still distributed so after some steps of any move."""
    texts, query = every_text(), tiny.query("abc", site="x1.post")
    distance = distances_of(tiny, texts, query, ended)
    epsilon = float(np.quantile(distance, 0.6))
    weights = np.exp(prior(folder, texts, beta)) * (distance <= epsilon)
    lengths = (texts != CHARACTERS.index("P")).sum(1)
    pi = weights / weights.sum()
    assert 0.2 < pi[lengths == lengths.max()].sum() < 1
    assert (pi > 0).sum() > 20
    kernel = kernel_of(tiny, query, ended, beta=beta, guided=guided)
    assert kernel.moves == ("fill", "pair") if ended and beta and not guided else "fill" not in kernel.moves
    rng, count = np.random.default_rng(5), 4000
    for number in [*range(len(kernel.moves)), None]:
        if guided and kernel.moves[number if number is not None else 0] != "guided":
            continue
        start = rng.choice(len(texts), size=count, p=pi)
        states = kernel.begin(texts[start])
        moved = 0.0
        for step in range(40):  # the position is drawn by lot for all, and at some there is nothing to do for a move
            if step >= 9 and moved > 0.01:
                break
            which = np.full(count, rng.integers(len(kernel.moves)) if number is None else number)
            moved += kernel.step(states, np.full(count, epsilon), which, rng).accepted.mean()
        found = np.bincount(numbers(texts, states.tokens), minlength=len(texts))
        assert found[pi == 0].sum() == 0
        often = pi * count >= 5
        expected = np.append(pi[often], pi[~often].sum()) * count
        observed = np.append(found[often], found[~often].sum())
        keep = expected > 0
        assert moved > 0.01, kernel.moves[number or 0]
        assert chisquare(observed[keep], expected[keep]).pvalue > 1e-4, "mix" if number is None else kernel.moves[number]


@pytest.mark.parametrize("ended", [False, True])
def test_chains_from_one_text_come_to_the_known_distribution(tiny: iv.Study, folder: Path, ended: bool) -> None:
    texts, query = every_text(), tiny.query("abc", site="x1.post")
    distance = distances_of(tiny, texts, query, ended)
    pi = np.exp(prior(folder, texts, 1.0))
    pi /= pi.sum()
    kernel, rng, count = kernel_of(tiny, query, ended), np.random.default_rng(7), 3000
    states = kernel.begin(np.repeat(texts[:1], count, axis=0))
    for _ in range(120):
        kernel.step(states, np.full(count, np.inf), np.full(count, rng.integers(len(kernel.moves))), rng)
    found = np.bincount(numbers(texts, states.tokens), minlength=len(texts))
    often = pi * count >= 5
    observed, expected = np.append(found[often], found[~often].sum()), np.append(pi[often], pi[~often].sum()) * count
    assert chisquare(observed, expected).pvalue > 1e-4
    assert np.allclose(states.distance, distance[numbers(texts, states.tokens)], atol=1e-5)
    assert np.allclose(states.log_prior, prior(folder, texts, 1.0)[numbers(texts, states.tokens)], atol=1e-4)


def test_what_follows_the_position_is_no_part_of_the_walk(tiny: iv.Study) -> None:
    """The activation of a causal model knows nothing of it: the walk from the text up to there is the same."""
    whole, cut = tiny.query("abcad", at=2, site="x1.post"), tiny.query("ab", site="x1.post")
    read = [iv.walk(tiny, query, epsilon=0.6, steps=40, seed=3, count=1000) for query in (whole, cut)]
    assert [sample.ids for sample in read[0]] == [sample.ids for sample in read[1]]
    assert read[0].walk is not None
    assert read[0].walk.members > 5
    for sample in read[0]:
        assert sample.position == len(sample.tokens) - 2
        assert len(sample.tokens) <= 2 + 2 + 2  # BOS, two letters and EOS, at most two more
    assert len({sample.ids for sample in read[0]}) == len(read[0])
    assert read[0].draws is not None
    assert (read[0].draws != 6).sum(1).max() <= 6
    nearest = iv.walk(tiny, whole, epsilon=0.6, steps=40, seed=3, nearest=True)
    assert any(sample.position < len(sample.tokens) - 2 for sample in nearest)
    with pytest.raises(iv.InversionViewError, match="could be kept"):
        iv.walk(tiny, whole, steps=2, keep=[4])


def test_a_position_in_the_walk_is_compared_alone_or_the_nearest_is(tiny: iv.Study) -> None:
    query = tiny.query("abcad", at=2, site="x1.post")
    fixed = iv.walk(tiny, query, epsilon=0.6, steps=30, fixed=2)
    assert {sample.position for sample in fixed} == {2}
    assert any(len(sample.tokens) > 5 for sample in fixed)
    with pytest.raises(iv.InversionViewError, match="leave one of them out"):
        iv.walk(tiny, query, steps=2, fixed=2, nearest=True)
    with pytest.raises(iv.InversionViewError, match="leave nearest out"):
        iv.walk(iv.load("counting"), iv.load("counting").query("aab|a:2"), steps=2, nearest=True)


def test_chains_begin_at_texts_from_elsewhere_up_to_where_these_are_near(tiny: iv.Study) -> None:
    query = tiny.query("ab", site="x1.post")
    own = iv.walk(tiny, query, epsilon=0.05, distance="cosine", steps=1)

    def hit(text: str, position: int) -> Sample:
        ids = tuple(tiny.model.encode(text))
        return Sample(tuple(tiny.model.vocabulary.strings(ids)), text, 0.0, position, True, (), None, "corpus", 1, ids)

    hits = (hit("dccabab", 5), hit("cadbcadbab", 10), hit("b", 1))  # what follows the position, or is too long, is cut off
    far = []
    for sample in hits:
        z = tiny.model.activations(torch.tensor([sample.ids[: sample.position + 1]]), [query.site])[0, 0, -1]
        far.append(float(1 - torch.nn.functional.cosine_similarity(z.double(), query.z.double(), dim=-1)))
    starts = [replace(own, samples=hits, draws=None)]
    made = iv.walk(tiny, query, epsilon=max(far) + 1e-4, distance="cosine", steps=2, count=1000, chains=64, starts=starts)
    found = {sample.text: sample for sample in made if sample.inside}
    assert {"dccab", "b"} <= set(found)
    assert found["dccab"].distance == pytest.approx(far[0], abs=1e-5)
    assert max(len(sample.ids) for sample in made) <= 3 + 2 + 6 + 1
    assert made.walk is not None
    assert not any("All chains began at the query" in note for note in made.walk.notes)


def test_fresh_draws_have_the_prior(tiny: iv.Study, folder: Path) -> None:
    texts, query = every_text(), tiny.query("abc", site="x1.post")
    for beta in (0.0, 1.0):
        pi = np.exp(prior(folder, texts, beta))
        assert all(pi[(texts != 6).sum(1) == n].sum() == pytest.approx(1) for n in (3, 4, 5))  # uniform over lengths
        pi /= 3
        states = kernel_of(tiny, query, beta=beta).fresh(5000, np.random.default_rng(1))
        found = np.bincount(numbers(texts, states.tokens), minlength=len(texts))
        often = pi * 5000 >= 5
        observed, expected = np.append(found[often], found[~often].sum()), np.append(pi[often], pi[~often].sum()) * 5000
        keep = expected > 0
        assert chisquare(observed[keep], expected[keep]).pvalue > 1e-4


def test_what_is_kept_stays(tiny: iv.Study) -> None:
    query = tiny.query("abcd", site="a1.0")
    preimage = iv.walk(tiny, query, epsilon=2.0, steps=60, keep=[2, 3], seed=1)
    assert len(preimage) > 5
    assert all(sample.tokens[2:4] == ("b", "c") for sample in preimage)
    assert len({sample.tokens[1] for sample in preimage}) > 1
    with pytest.raises(iv.InversionViewError, match="kept"):
        iv.walk(tiny, query, steps=5, keep=range(5), longer=0)
    kept = iv.walk(tiny, query, epsilon=2.0, steps=30, keep=[-1], longer=0, seed=1)  # the last of the text, EOS not counted
    assert all(sample.tokens[4] == "d" for sample in kept)
    for keep in ([5], [-6], [99]):
        with pytest.raises(iv.InversionViewError, match=r"no token|no position"):
            iv.walk(tiny, query, steps=5, keep=keep)
    with pytest.raises(iv.InversionViewError, match="longer"):
        iv.walk(tiny, query, steps=5, longer=-1)


@pytest.mark.parametrize("nearest", [False, True])
def test_every_member_is_inside_when_it_is_run_again(tiny: iv.Study, nearest: bool) -> None:
    query = tiny.query("abca", site="x0.post")
    preimage = iv.walk(tiny, query, epsilon=0.05, distance="cosine", steps=80, seed=2, nearest=nearest)
    assert preimage.walk is not None
    assert preimage.inside
    assert preimage.outside
    for sample in preimage:
        ids = torch.tensor([tiny.model.encode(sample.text)[:-1]])
        z = tiny.model.activations(ids, [query.site])[0, 0].double()
        each = 1 - torch.nn.functional.cosine_similarity(z, query.z.double(), dim=-1)
        assert float(each.min() if nearest else each[-1]) == pytest.approx(sample.distance, abs=1e-5)
        assert sample.position == (int(each.argmin()) if nearest else len(each) - 1)
        assert sample.inside == (sample.distance <= 0.05)
        assert sample.source == "walk"


def test_bits_of_a_language_model_are_those_of_the_list(tiny: iv.Study, folder: Path) -> None:
    """With exchange over a ladder, P(D ≤ ε) under the model's own distribution, uniform over lengths."""
    texts, query = every_text(), tiny.query("abc", site="x1.post")
    distance = distances_of(tiny, texts, query)
    epsilon = float(np.sort(distance)[6]) + 1e-6
    pi = np.exp(prior(folder, texts, 1.0))
    inside = distance <= epsilon
    inside[numbers(texts, np.array([query.ids]))[0]] = False
    exact = -np.log2(pi[inside].sum() / pi.sum())
    kernel = kernel_of(tiny, query)
    start = kernel.begin(np.array([query.ids]))
    settings = WalkSettings(chains=256, seconds=None, steps=1500, population=512, warm=30)
    features = lambda tokens: {"length": (tokens != 6).sum(1)}  # noqa: E731
    run = Walk(kernel, start, settings, Pool(epsilon, start.tokens), features, None, None, np.random.default_rng(4))
    run.go()
    bits = run.bits()
    assert bits is not None
    assert bits.value == pytest.approx(exact, abs=0.2)
    assert bits.method == "splitting"


def test_a_model_alone_reads_by_walking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["read", "--model", str(folder), "abca", "--site", "x0.post", "--seconds", "1", "--json"])
    reading = json.loads(capsys.readouterr().out)
    assert reading["source"] == "walk"
    assert reading["distance"] == "cosine-normed"
    assert reading["walk"]["prior"] == "model"
    assert reading["walk"]["members"] >= len([s for s in reading["samples"] if s["inside"]]) > 0
    main(["walk", "--model", str(folder), "abca", "--steps", "20", "--prior", "uniform", "--guided"])
    shown = capsys.readouterr().out
    assert "distinct members" in shown
    assert "query" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walk", "abc"], "Give a study and a text"),
        (["walk", "--model", "MODEL", "abc", "--prior", "study"], "without a corpus"),
        (["walk", "--model", "MODEL", "abc", "--prior", "mine"], "prior"),
        (["walk", "--model", "MODEL", "abc", "--beta", "-1"], "β"),
        (["walk", "--model", "MODEL", "abc", "--keep", "two"], "indices"),
        (["walk", "--model", "MODEL", "abc", "--keep", "1", "--exchange"], "exchange"),
        (["walk", "--model", "MODEL", "abc", "--fixed", "1", "--nearest"], "leave one of them out"),
        (["walk", "counting", "aab|a:2", "--nearest"], "leave nearest out"),
        (["walk", "--model", "MODEL", "abcdabcdabcdabcd"], "tokens"),
        (["read", "--model", "MODEL", "abc", "--source", "decoder"], "decoder"),
        (["read", "--model", "MODEL", "abc", "--source", "corpus"], "corpus"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([str(folder) if a == "MODEL" else a for a in arguments])
    shown = capsys.readouterr()
    assert error.value.code == 2
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


def test_one_token_is_a_text(tiny: iv.Study) -> None:
    preimage = iv.walk(tiny, tiny.query("a", site="x0.pre"), epsilon=0.5, steps=30)
    assert preimage.walk is not None
    assert preimage.walk.steps == 30


def test_a_text_with_a_special_token_has_no_probability(tiny: iv.Study) -> None:
    query = tiny.query("abc", site="x0.post")
    odd = iv.Query("aBc", (4, 0, 4, 2, 5), ("B", "a", "B", "c", "E"), 3, query.site, query.model, query.z)
    with pytest.raises(iv.InversionViewError, match="probability 0"):
        iv.walk(tiny, odd, steps=3)
