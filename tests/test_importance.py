"""Bits by importance: weights by hand, against a listed input space, and on the shipped studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from transformers import GPT2Config, GPT2LMHeadModel

import inversionview as iv
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.importance import balance, importance_bits, k_hat, kish, most_k, share
from inversionview.core.information import bits
from inversionview.core.scope import Scope
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import log_probs_at, token_log_probs
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.model.tokens import character_tokenizer
from inversionview.page.preimages import Preimage as Contract
from inversionview.preimage.common import told
from inversionview.preimage.preimage import Preimage, Query, Weighed
from inversionview.sources.merged import merged
from inversionview.sources.weighed import weighed

torch.set_num_threads(1)
TOKENS = [*"abcd", "B", "E", "P"]
BOS, EOS, PAD = 4, 5, 6


class Strings(Inputs):
    """All 340 strings of one to four of four letters; each a makes one three times as likely."""

    bos, eos, pad, max_length, sampled = BOS, EOS, PAD, 6, False

    @cached_property
    def every(self) -> Ids:
        texts = [text for length in range(1, 5) for text in product(range(4), repeat=length)]
        return np.array([[BOS, *text, EOS, *[PAD] * (4 - len(text))] for text in texts])

    def __len__(self) -> int:
        return len(self.every)

    def tokens(self, rows: Ids, salt: int = 0) -> Ids:
        return self.every[rows]

    def log_prior(self, tokens: Ids) -> np.ndarray:
        real = np.array([(*row, *[PAD] * (6 - len(row))) in self.known for row in map(tuple, tokens.tolist())], dtype=bool)
        return np.where(real, np.log(3) * (tokens == 0).sum(1), -np.inf)

    @cached_property
    def known(self) -> set[tuple[int, ...]]:
        return {tuple(row) for row in self.every.tolist()}

    @cached_property
    def log_total(self) -> float:
        return float(logsumexp(self.log_prior(self.every)))

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        return self.every[rng.choice(len(self), size=count, p=self.pi)]

    @cached_property
    def pi(self) -> np.ndarray:
        p: np.ndarray = np.exp(self.log_prior(self.every))
        return p / p.sum()

    def features(self, tokens: Ids) -> dict[str, Any]:
        return {"first": tokens[:, 1], "length": self.lengths(tokens)}


class Toy:
    """A tiny GPT-2 over these strings, a decoder of random weights, and what is exact, by list."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        sizes = {"vocab_size": len(TOKENS), "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
        ids = {"bos_token_id": BOS, "eos_token_id": EOS}
        GPT2LMHeadModel(GPT2Config(**sizes, **ids, initializer_range=0.5)).save_pretrained(folder)
        character_tokenizer(TOKENS).save_pretrained(folder)
        self.model = ProbedModel.from_pretrained(folder)
        self.inputs, self.site = Strings(), Site.parse("x0.post")

    def decoder(self, never: Sequence[int] = (), spread: float = 1.0) -> Decoder:
        """One of random weights; ``never`` are letters that it all but never writes."""
        torch.manual_seed(3)
        sizes: dict[str, Any] = {"layers": 1, "heads": 2, "width": 16, "pathway": 16, "blocks": 1, "hidden": 16}
        decoder = ScratchDecoder(DecoderConfig(("x0.post",), 8, len(TOKENS), 6, bos=BOS, eos=EOS, pad=PAD, **sizes)).eval()
        with torch.no_grad():
            decoder.norm.weight[0], decoder.norm.bias[0] = 0.0, 1.0  # the head's first column is a bias
            decoder.lm_head.weight.normal_(std=spread / 4)
            decoder.lm_head.weight[:, 0] = 0.0
            decoder.lm_head.weight[list(never), 0] = -40.0
        return decoder

    def query(self, text: str, position: int = 2) -> Query:
        ids = (BOS, *("abcd".index(letter) for letter in text), EOS)
        z = self.model.activations(torch.tensor([ids]), [self.site], torch.tensor([[position]]))[0, 0, 0]
        return Query(text, ids, tuple(TOKENS[i] for i in ids), position, self.site, "toy", z)

    def inside(self, query: Query, epsilon: float) -> np.ndarray:
        every = torch.from_numpy(self.inputs.every)
        _, near, _ = distance_to(self.model, every, query.z.expand(len(every), -1), self.site)
        own = np.array([*query.ids, *[PAD] * (6 - len(query.ids))])
        found: np.ndarray = (near <= epsilon).numpy() & (self.inputs.every != own).any(1)
        return found

    def share(self, query: Query, epsilon: float) -> float:
        own = self.inputs.pi[(self.inputs.every == np.array([*query.ids, *[PAD] * (6 - len(query.ids))])).all(1)].sum()
        return float(self.inputs.pi[self.inside(query, epsilon)].sum() / (1 - own))

    def read(self, decoder: Decoder, query: Query, epsilon: float, count: int = 2000, seed: int = 0) -> Weighed:
        found = weighed(decoder, self.model, self.inputs, query, 0, Scope(epsilon, "euclidean"), count, seed)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    """Three draws of q, one of π: the mixture of the first place is (3 · 0.5 + 1 · 0.25) / 4."""
    log_pi = np.log([0.25, 0.25, 0.5, 0.0 + 1e-300])
    log_pi[3] = -np.inf
    log_q = np.log([0.5, 0.1, 0.4, 0.2])
    found = balance(log_pi, np.stack([log_q, log_pi]), (3, 1))
    assert found == pytest.approx([0.25 / 0.4375, 0.25 / 0.1375, 0.5 / 0.425, 0.0])


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=20), st.integers(1, 50), st.integers(1, 50))
def test_no_weight_exceeds_one_over_the_share_of_the_prior(logs: list[float], own: int, prior: int) -> None:
    log_pi = np.array(logs)
    missed = np.full(len(logs), -np.inf)
    found = balance(log_pi, np.stack([missed, log_pi]), (own, prior))
    assert found == pytest.approx(np.full(len(logs), (own + prior) / prior))
    with pytest.raises(SettingError, match="density 0 under all"):
        balance(log_pi, missed[None], (own,))


def test_effective_draws() -> None:
    assert kish(np.ones(7)) == pytest.approx(7)
    assert kish(np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    assert kish(np.zeros(4)) == 0.0


def test_the_tail_of_weights() -> None:
    """k̂ is about the shape of a generalised Pareto distribution; equal weights, or a few, have none."""
    rng = np.random.default_rng(0)
    for shape in (0.3, 0.9):
        heavy = rng.uniform(size=20_000) ** -shape
        assert k_hat(heavy) == pytest.approx(shape, abs=0.15)
    assert [most_k(count) for count in (100, 1000, 10**6)] == pytest.approx([0.5, 2 / 3, 0.7])
    assert k_hat(np.ones(100)) is None
    assert k_hat(rng.uniform(size=20)) is None


def test_plain_draws_are_counted_as_a_corpus_is() -> None:
    """With weights of 1 all is as in a corpus: the share, and nearly the interval of Clopper and Pearson."""
    inside = np.arange(1000) < 250
    found = importance_bits(np.ones(1000), inside, np.zeros(1000, dtype=int))
    exact = bits(250, 1000)
    assert found.value == pytest.approx(2)
    assert found.high is not None
    assert exact.high is not None
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=2e-3)
    assert (found.hits, found.inputs, found.effective) == (250, 1000, pytest.approx(250))


def test_the_variance_is_each_proposals_own() -> None:
    """Two proposals whose draws all weigh the same, but not the two alike: nothing varies."""
    weights = np.repeat([1.0, 3.0], 50)
    told = share(weights, np.ones(100, dtype=bool), np.repeat([0, 1], 50))
    assert (told.value, told.variance) == (2.0, 0.0)


def test_without_a_draw_inside_only_a_bound_is_known() -> None:
    """None of 100 draws of π: P ≤ 1 − 0.025^(1/100), Clopper and Pearson."""
    found = importance_bits(np.zeros(400), np.zeros(400, dtype=bool), np.repeat([0, 1], [300, 100]))
    assert found.bounded
    assert found.high is None
    assert found.low == pytest.approx(-math.log2(1 - 0.025 ** (1 / 100)))


# -- densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_densities_of_all_that_can_be_drawn_sum_to_one(toy: Toy, temperature: float) -> None:
    """Also the empty string and those that are cut; by ``token_log_probs`` a part goes to BOS and padding."""
    rows = [[BOS, *text, EOS, *[PAD] * (4 - n)] for n in range(5) for text in product(range(4), repeat=n)]
    rows += [[BOS, *text] for text in product(range(4), repeat=5)]
    tokens, z, decoder = torch.tensor(rows), torch.randn(1, 8), toy.decoder(spread=3.0)
    site = torch.zeros(len(rows), dtype=torch.long)
    drawn = log_probs_at(decoder, tokens, z.expand(len(rows), -1), site, (temperature,), as_drawn=True)[0].sum(1)
    assert float(drawn.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    plain = token_log_probs(decoder, tokens, z.expand(len(rows), -1), site).sum(1)
    assert float(plain.double().exp().sum()) < 0.99


# -- a listed input space ---------------------------------------------------------------------------------------------

PLACES = (("abca", 2, 0.2), ("dd", 2, 0.5), ("bcd", 3, 0.3), ("cb", 2, 0.5), ("dcba", 4, 0.5))
"""Strings with the position that is read, and an ε: from 0.035 to 0.47 of π lie inside."""


def test_bits_are_those_of_the_list(toy: Toy) -> None:
    """Over many seeds the share is unbiased, and its interval holds the exact value about 95 % of the time."""
    decoder, held, count = toy.decoder(spread=2.0), 0, 0
    for text, position, epsilon in PLACES:
        query = toy.query(text, position)
        exact = toy.share(query, epsilon)
        assert 0.03 < exact < 0.5
        found = [toy.read(decoder, query, epsilon, 600, seed).bits for seed in range(9)]
        shares = np.array([2.0**-bits.value if bits.hits else 0.0 for bits in found])
        assert abs(shares.mean() - exact) < 4 * shares.std(ddof=1) / 3
        held += sum(bits.low <= -math.log2(exact) <= (math.inf if bits.high is None else bits.high) for bits in found)
        count += len(found)
    assert held / count > 0.88


def test_shares_of_features_are_those_of_the_list(toy: Toy) -> None:
    query, epsilon, decoder = toy.query("dd", 2), 0.5, toy.decoder(spread=2.0)
    inside, pi = toy.inside(query, epsilon), toy.inputs.pi
    exact = pi[inside & (toy.inputs.every[:, 5] == EOS)].sum() / pi[inside].sum()
    assert 0.05 < exact < 0.95
    found, plain = [], []
    for seed in range(12):
        read = toy.read(decoder, query, epsilon, 2000, seed)
        mine = read.tokens[:, 5] == EOS  # all four letters
        found.append(np.average(mine, weights=read.weights))
        plain.append(mine.mean())
    error = np.std(found, ddof=1) / math.sqrt(12)
    assert abs(np.mean(found) - exact) < 4 * error + 0.003
    assert abs(np.mean(plain) - exact) > 4 * error  # the draws themselves are no draws from the preimage


def test_common_tells_the_weighed_shares(toy: Toy) -> None:
    query, epsilon = toy.query("dd", 2), 0.5
    read = toy.read(toy.decoder(), query, epsilon)
    assert not read.doubts
    preimage = Preimage(
        query, "euclidean", epsilon, 0, (), candidates=9, inside_count=3, distinct=3, draws=read.tokens[:3], bits=read.bits,
        weighed=read,
    )  # fmt: skip
    said = told(toy.inputs, preimage)
    assert said is not None
    assert said.weighed
    inside, pi = toy.inside(query, epsilon), toy.inputs.pi
    for one in said.features:
        values = toy.inputs.features(toy.inputs.every)[one.feature]
        exact = pi[inside & (values == one.value)].sum() / pi[inside].sum()
        assert one.low <= exact <= one.high
        assert one.share == pytest.approx(
            np.average(toy.inputs.features(read.tokens)[one.feature] == one.value, weights=read.weights)
        )
        assert one.trusted
    unsound = replace(preimage, weighed=replace(read, doubts=("Few.",)))
    said = told(toy.inputs, unsound)
    assert said is not None
    assert not said.weighed
    assert not said.features


def test_a_decoder_that_misses_part_of_the_preimage_is_told(toy: Toy) -> None:
    """The letters of most of the preimage are never written: only draws of π find it, a few, whose weights are large."""
    query, epsilon = toy.query("cb", 2), 0.2
    found = toy.inputs.every[toy.inside(query, epsilon)]
    never = np.unique(found[:, 2])  # what stands where it is read
    missing = toy.read(toy.decoder(never=never.tolist()), query, epsilon, 600)
    assert missing.doubts
    assert missing.doubts[0].endswith("Search the corpus, or walk.")
    assert missing.bits.high is not None
    assert missing.bits.low <= -math.log2(toy.share(query, epsilon)) <= missing.bits.high
    assert not toy.read(toy.decoder(), query, 0.5, 4000).doubts


def test_nothing_inside(toy: Toy) -> None:
    read = toy.read(toy.decoder(), toy.query("abca", 4), 1e-6)
    assert read.bits.bounded
    assert read.bits.high is None
    assert len(read.tokens) == len(read.weights) == 0
    assert "only a bound is known" in read.doubts[0]


def test_an_unknown_distribution_tells_no_bits(toy: Toy) -> None:
    class Unknown(Strings):
        log_total = None  # type: ignore[assignment]

    scope = Scope[Any](0.5, "euclidean")
    assert weighed(toy.decoder(), toy.model, Unknown(), toy.query("abca"), 0, scope, 100, 0) is None


def test_a_damaged_decoder_is_named(toy: Toy) -> None:
    decoder = toy.decoder()
    decoder.lm_head.weight.data[0] = torch.nan  # type: ignore[union-attr, operator]
    with pytest.raises(iv.errors.WeightsError, match="NaN"):
        toy.read(decoder, toy.query("abca"), 0.5)


# -- the shipped studies ----------------------------------------------------------------------------------------------


def test_the_distributions_of_the_shipped_studies_are_normalised(addition: iv.Study, counting: iv.Study) -> None:
    """All additions are equally likely; counting draws a triple, three counts, a letter, and then one of the orders."""
    assert addition.inputs.log_total == pytest.approx(math.log(810_000))
    assert counting.inputs.log_total == pytest.approx(math.log(math.comb(26, 3) * 9**3 * 3))


def test_a_reading_of_addition(addition: iv.Study) -> None:
    """All inputs with the hundreds' digits of 615+861 in either order, at a0.0, are its preimage: 20,000 of 810,000."""
    query = addition.query("615+861=1476", at="=", site="a0.0")
    read = iv.read(addition, query, source="decoder", weighed=1000)
    assert read.bits is not None
    assert read.bits.method == "importance"
    assert read.bits.high is not None
    assert read.bits.low <= -math.log2(19_999 / 809_999) <= read.bits.high
    assert read.bits.high - read.bits.low < 0.3
    said = Contract.model_validate(read.to_json())
    assert said.bits is not None
    assert said.bits.method == "importance"
    tokens = torch.tensor([[*s.ids, *[addition.inputs.pad] * (14 - len(s.ids))] for s in read])
    site = torch.full((len(tokens),), addition.decoder.config.sites.index("a0.0"))
    scored = token_log_probs(addition.decoder, tokens, query.z.expand(len(tokens), -1), site).sum(1)
    assert [sample.log_p for sample in read] == pytest.approx(scored.tolist(), abs=1e-3)
    assert "by importance" in str(read)
    both = next(one for one in iv.common(read).features if one.feature == "{F1,S1}")  # type: ignore[union-attr]
    assert both.share == pytest.approx(1.0)
    assert both.bits is not None


def test_no_draws_no_bits(addition: iv.Study) -> None:
    query = addition.query("615+861=1476", at="=", site="a0.0")
    read = iv.read(addition, query, source="decoder", each=4, weighed=0)
    assert (read.bits, read.weighed) == (None, None)
    old = read.to_json()
    for sample in old["samples"]:
        del sample["log_p"]
    Contract.model_validate(old)  # as readings were saved before
    with pytest.raises(SettingError):
        iv.read(addition, query, source="decoder", weighed=-3)


def test_a_merged_reading_has_the_bits_of_the_corpus(addition: iv.Study) -> None:
    query = addition.query("615+861=1476", at="=", site="a0.0")
    parts = [iv.read(addition, query, source="decoder", each=4, weighed=200), iv.search(addition, query)]
    both = merged(parts, 20)
    assert both.bits is not None
    assert (both.bits.method, both.weighed) == ("corpus", None)
    assert merged(parts[:1], 20).bits == parts[0].bits
