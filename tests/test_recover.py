"""Recovery of a text from its states: held against plain transformers, and against all texts there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import inversionview as iv
from inversionview.analyses.recover import whole
from inversionview.analyses.recover.engine import Engine
from inversionview.analyses.recover.order import interleaved
from inversionview.analyses.recover.rounding import precision_of, rounded
from inversionview.analyses.recover.state_map import MomentSums
from inversionview.cli import main
from inversionview.core.errors import InputError, InversionViewError, SettingError
from inversionview.model.sites.site import Site
from inversionview.model.tokens import character_tokenizer
from tests.test_architectures import ARCHITECTURES, CHARACTERS
from tests.vocabularies import QWEN, QWEN_SPECIALS, byte_level, save

TEXT = "Tom has 3 rings"
TOKENIZER = character_tokenizer(CHARACTERS)


@pytest.fixture(scope="module", params=["llama", "gpt2", "pythia", "gemma2", "qwen2"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, iv.ProbedModel]:
    """A random model of transformers, and the same laid open."""
    model = ARCHITECTURES[request.param].model()
    return model, iv.ProbedModel.wrap(model, TOKENIZER)


@pytest.fixture(scope="module")
def llama() -> Any:
    return ARCHITECTURES["llama"].model()


@pytest.fixture(scope="module")
def probed(llama: Any) -> iv.ProbedModel:
    return iv.ProbedModel.wrap(llama, TOKENIZER)


@torch.no_grad()
def hidden(model: Any, ids: list[int], layer: int) -> torch.Tensor:
    """The residual stream behind a layer, by transformers."""
    found: torch.Tensor = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0].float()
    return found


def body(probed: iv.ProbedModel, text: str = TEXT) -> list[int]:
    """A text's ids without EOS."""
    return probed.encode(text)[:-1]


def test_the_states_of_transformers_give_their_text_back(pair: tuple[Any, iv.ProbedModel]) -> None:
    model, probed = pair
    ids = body(probed)
    found = iv.recover(probed, hidden(model, ids, 0), site="x0.post")
    assert found.text == TEXT
    assert found.texts[0].ids == tuple(ids)
    assert [t.id for t in found.tokens] == ids[1:]
    assert found.texts[0].largest <= found.threshold
    assert all(t.distance <= found.threshold and t.rank < t.tried <= found.vocabulary for t in found.tokens)
    for site in ("m1", "a1.2"):
        assert iv.recover(probed, text=TEXT, site=site, order="next").exact


def test_alternatives_are_what_whole_texts_give(pair: tuple[Any, iv.ProbedModel]) -> None:
    _, probed = pair
    before, tokens = body(probed)[:5], torch.tensor([3, 40, 7])
    for site in (Site(0, "pre"), Site(1, "post"), Site(1, "mlp"), Site(1, "head", 2)):
        for prefix in ([], before):
            cache = probed.extend(torch.tensor([prefix]), None, site, logits=False).cache if prefix else None
            out = probed.alternatives(tokens, cache, site)
            whole_texts = torch.tensor([[*prefix, int(token)] for token in tokens])
            wanted = probed.activations(whole_texts, [site])[0, :, -1]
            assert torch.allclose(out.activations, wanted, atol=1e-5)
            after = probed.alternatives(torch.tensor([9]), out.after(1), site).activations
            further = probed.activations(torch.tensor([[*prefix, 40, 9]]), [site])[0, :, -1]
            assert torch.allclose(after, further, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_states_of_less_precision(llama: Any, probed: iv.ProbedModel, precision: str) -> None:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    found = iv.recover(probed, hidden(llama, body(probed), 0).to(dtype), site="x0.post", order="next")
    assert (found.text, found.precision) == (TEXT, precision)


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_what_was_rounded_once_is_within_the_unit_of_its_type(numbers: list[float]) -> None:
    z = torch.tensor([numbers])
    for name, unit in (("fp16", 2.0**-11), ("bf16", 2.0**-8)):
        again = rounded(z, name)
        small = float(z.abs().max()) < 1e-3  # where fp16 has no more digits
        assert small or float((again - z).norm()) <= unit * float(z.norm()) + 1e-6
        assert precision_of(again) in ("bf16", name)


def test_states_with_noise(probed: iv.ProbedModel) -> None:
    found = iv.recover(probed, text=TEXT, site="x1.post", noise=0.02, order="next", seed=3)
    assert found.exact
    assert all(0.01 < t.distance < 0.03 for t in found.tokens)


def test_where_a_text_begins_is_found_out(llama: Any, probed: iv.ProbedModel) -> None:
    ids, v = body(probed), probed.vocabulary
    z = hidden(llama, ids, 0)
    without = iv.recover(probed, z[1:], site="x0.post", order="next")
    assert (without.text, len(without.tokens)) == (TEXT, len(ids) - 1), "the row of BOS need not be there"
    zeros = torch.zeros(2, z.size(1))
    among = iv.recover(probed, torch.cat([zeros, z, zeros[:1]]), site="x0.post", order="next")
    assert (among.text, among.padding) == (TEXT, 3)
    padded = torch.tensor([[v.pad] * 3 + ids])
    left = probed.activations(padded, [Site(0, "post")])[0, 0]
    shifted = iv.recover(probed, left, site="x0.post", order="next")
    assert (shifted.text, shifted.padding) == (TEXT, 3)
    bare = iv.recover(probed, hidden(llama, ids[1:], 0), site="x0.post", order="next")
    assert bare.texts[0].ids == tuple(ids[1:]), "the text was run without a BOS"


def test_a_model_without_a_bos(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save(tmp_path / "qwen", byte_level(QWEN_SPECIALS), QWEN, "qwen2")
    study = iv.load(model=str(folder))
    ids = body(study.model, "The cat sat")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert iv.recover(study, hidden(plain, ids, 0), site="x0.post", order="next").texts[0].ids == tuple(ids)


@pytest.fixture(scope="module")
def twins() -> iv.ProbedModel:
    """A Llama in which 'b' is embedded as 'a' is, and 'd' twice as long as 'c'."""
    model = ARCHITECTURES["llama"].model()
    weight = model.get_input_embeddings().weight.data
    number = {name: CHARACTERS.index(name) for name in "abcd"}
    weight[number["b"]] = weight[number["a"]]
    weight[number["d"]] = 2 * weight[number["c"]]
    return iv.ProbedModel.wrap(model, TOKENIZER)


@pytest.mark.parametrize("order", ["mixed", "next", "id"])
def test_all_texts_that_give_the_states_are_returned(twins: iv.ProbedModel, order: Any) -> None:
    found = iv.recover(twins, text="xaybz", site="x1.post", order=order)
    assert {t.text for t in found.texts} == {"".join(each) for each in itertools.product("x", "ab", "y", "ab", "z")}
    assert found.exact is False
    assert [(each["position"], set(each["tokens"])) for each in found.remaining] == [(1, {"a", "b"}), (3, {"a", "b"})]
    assert "cannot tell them apart" in found.note


def test_a_head_alone_says_which_tokens_remain(twins: iv.ProbedModel) -> None:
    """Under RMSNorm the lengths of embeddings are lost: a head of the first layer cannot tell c from d, the stream can."""
    found = iv.recover(twins, text="xc", site="a0.1")
    assert {t.text for t in found.texts} == {"xc", "xd"}
    assert iv.recover(twins, text="xc", site="x0.post").exact


@settings(max_examples=5, deadline=None)
@given(st.text("abcdx", min_size=1, max_size=3), st.sampled_from(["a0.1", "a1.0", "x0.post", "m0"]))
def test_what_fits_is_what_of_all_texts_does(twins: iv.ProbedModel, text: str, site: str) -> None:
    found = iv.recover(twins, text=text, site=site, order="next", exhaustive=True)
    v = twins.vocabulary
    where = next(each for each in twins.sites if each.short == site)
    own = twins.activations(torch.tensor([body(twins, text)]), [where])[0, 0]
    allowed = [i for i in range(len(CHARACTERS)) if i != v.pad]
    fits = {tuple(v.front)}
    for row in range(1, len(own)):
        longer = [(*ids, token) for ids in fits for token in allowed]
        z = twins.activations(torch.tensor(longer), [where])[0, :, -1]
        near = (z - own[row]).norm(dim=1) <= found.threshold * own[row].norm()
        fits = {ids for ids, inside in zip(longer, near.tolist(), strict=True) if inside}
    assert {t.ids for t in found.texts} == fits


def test_states_of_no_text_give_none_and_the_nearest(probed: iv.ProbedModel) -> None:
    z = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    found = iv.recover(probed, z, site="x1.post", order="next")
    assert (found.text, found.texts, found.prefix) == (None, (), "")
    allowed = [i for i in range(len(CHARACTERS)) if i != probed.vocabulary.pad]
    rows = [torch.tensor([[*front, i] for i in allowed]) for front in ((), probed.vocabulary.front)]
    ends = torch.cat([probed.activations(some, [Site(1, "post")])[0, :, -1] for some in rows])
    least = float(((ends - z[0]).norm(dim=1) / z[0].norm()).min())
    assert found.nearest is not None
    assert found.nearest.distance == pytest.approx(least, rel=1e-4)
    assert found.nearest.tried == 2 * len(allowed)
    assert "of another model or site, of no text" in found.note


def test_states_of_another_model(probed: iv.ProbedModel) -> None:
    torch.manual_seed(1)
    other = ARCHITECTURES["qwen2"].model()
    found = iv.recover(probed, hidden(other, body(probed), 0), site="x0.post", order="next")
    assert found.text is None
    assert found.nearest is not None
    assert found.nearest.position == 0


def test_states_that_are_a_texts_only_at_first(llama: Any, probed: iv.ProbedModel) -> None:
    z = hidden(llama, body(probed), 0)
    z[6] += 0.1 * z[6].norm() / 32**0.5
    found = iv.recover(probed, z, site="x0.post", order="next")
    assert found.text is None
    assert found.prefix == TEXT[:5]
    assert found.nearest is not None
    assert found.nearest.position == 6
    assert "the first 6 rows fit" in found.note


def test_every_token_is_tried_where_that_is_asked(probed: iv.ProbedModel) -> None:
    found = iv.recover(probed, text="cat", site="x0.post", order="next", exhaustive=True)
    assert {t.tried for t in found.tokens} == {found.vocabulary}
    by_id = iv.recover(probed, text="cat", site="x0.post", order="id")
    assert [t.rank for t in by_id.tokens] == [t.id for t in by_id.tokens]
    few = iv.recover(probed, text="99", site="x0.post", order="id", tries=10)
    assert few.nearest is not None
    assert (few.text, few.nearest.tried, few.nearest.every) == (None, 10, False)


def test_an_interrupted_recovery_goes_on(addition: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_EVERY", 0.0)

    class StopError(Exception):
        pass

    def stop(share: float, note: str) -> None:
        if note.startswith("7 of"):
            raise StopError

    asked: dict[str, Any] = {"text": "615+861=1476", "site": "x1.post", "order": "next"}
    with pytest.raises(StopError):
        iv.recover(addition, **asked, report=stop)
    rows: list[int] = []
    step = Engine.step

    def seen(self: Engine, prefixes: Any, row: int) -> Any:
        rows.append(row)
        return step(self, prefixes, row)

    monkeypatch.setattr(Engine, "step", seen)
    found = iv.recover(addition, **asked)
    assert rows == list(range(6, 13)), "the seventh row was not kept yet"
    assert found.exact
    assert len(found.tokens) == 12
    rows.clear()
    iv.recover(addition, **asked)
    assert rows == list(range(1, 13)), "what has ended is forgotten"


def test_the_map_is_the_likelihood_of_a_gaussian() -> None:
    """log N(z | μ + A(e − ē), Σ), with A and Σ of the least-squares fit, up to what is the same for all tokens."""
    torch.manual_seed(0)
    embeddings = torch.randn(40, 6)
    which = torch.randint(40, (4000,))
    z = embeddings[which] @ torch.randn(6, 5) + torch.randn(4000, 5) @ (torch.eye(5) + 0.2) + 3
    moments = MomentSums(5, 6)
    moments.add(embeddings[which][:1500], z[:1500])
    moments.add(embeddings[which][1500:], z[1500:])
    made = moments.solved(embeddings)
    e = embeddings[which] - embeddings[which].mean(0)
    fit = torch.linalg.lstsq(e, z - z.mean(0)).solution
    off = z - z.mean(0) - e @ fit
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(5), off.T @ off / len(off))
    means = z.mean(0) + (embeddings - embeddings[which].mean(0)) @ fit
    wanted = torch.stack([gaussian.log_prob(each - means) for each in z[:50]])
    scores = made.scores(z[:50], embeddings)
    same = (scores - scores.mean(1, keepdim=True)), (wanted - wanted.mean(1, keepdim=True))
    assert torch.allclose(*same, rtol=0.05, atol=1)
    assert torch.allclose(made.expected(embeddings), means, atol=0.2)


@settings(deadline=None)
@given(st.lists(st.permutations(range(12)), min_size=1, max_size=3), st.integers(1, 14), st.sets(st.integers(0, 11)))
def test_rankings_are_taken_in_turn(orders: list[list[int]], size: int, gone: set[int]) -> None:
    left = torch.tensor([i not in gone for i in range(12)])
    scores = [torch.tensor([-float(order.index(i)) for i in range(12)]) for order in orders]
    found = interleaved(scores, left, size).tolist()
    assert len(found) == len(set(found)) == min(size, int(left.sum()))
    assert not gone & set(found)
    sorted_left = [[i for i in order if i not in gone] for order in orders]
    if found:
        assert found[0] == sorted_left[0][0]
        assert set(found) <= {i for order in sorted_left for i in order[: len(found)]}


def test_the_command_says_what_the_contract_says(
    llama: Any, probed: iv.ProbedModel, addition: iv.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = next(each for each in addition.model.sites if each.short == "x0.post")
    z = addition.model.activations(torch.tensor([addition.model.encode("615+861=1476")[:-1]]), [where])[0, 0]
    save_file({"states": z.contiguous()}, tmp_path / "states.safetensors")
    np.save(tmp_path / "states.npy", z.numpy()[None])
    for file in ("states.safetensors", "states.safetensors:states", "states.npy"):
        main(["recover", "addition", "--states", str(tmp_path / file), "--site", "x0.post", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert told["text"] == "615+861=1476"
        assert "exact" not in told
        assert {"token", "id", "rank", "tried", "distance", "seconds"} <= set(told["tokens"][0])
        assert told["seconds_per_token"] == pytest.approx(np.mean([t["seconds"] for t in told["tokens"]]))
    main(["recover", "addition", "--text", "615+861=1476", "--site", "x0.post", "--json"])
    assert json.loads(capsys.readouterr().out)["exact"] is True
    table = tmp_path / "tokens.csv"
    main(["recover", "addition", "--text", "615+861=1476", "--out", str(table)])
    assert "That is the text they were taken from." in capsys.readouterr().out.replace("\n", " ")
    assert len(table.read_text().splitlines()) == 13


def _wrong() -> Iterator[Any]:
    z = torch.ones(4, 32)
    odd, hole = z.clone(), z.clone()
    odd[2, 3], hole[1] = float("nan"), 0
    yield pytest.param({"states": torch.ones(4, 30)}, InputError, "the shape [4, 30]", id="another width")
    yield pytest.param({"states": torch.ones(32)}, InputError, "the shape [32]", id="one vector")
    yield pytest.param({"states": odd}, InputError, "Row 2 of The states holds NaN", id="NaN")
    yield pytest.param({"states": hole}, InputError, "Row 1 of The states is zero", id="a hole")
    yield pytest.param({"states": torch.zeros(4, 32)}, InputError, "all zero", id="nothing")
    yield pytest.param({"states": torch.ones(0, 32)}, InputError, "the shape [0, 32]", id="none")
    yield pytest.param({"states": torch.ones(100, 32)}, InputError, "the model reads 64", id="too long")
    yield pytest.param({"states": z, "positions": [0, 1, 3, 4]}, InputError, "Position 2 is missing", id="positions missing")
    yield pytest.param({"states": z, "positions": [5, 6, 7, 8]}, InputError, "attend to all tokens before", id="not from 0")
    yield pytest.param({"states": z, "positions": [0]}, InputError, "one for each", id="too few positions")
    yield pytest.param({}, SettingError, "either states or a text", id="neither")
    yield pytest.param({"states": z, "text": "cat"}, SettingError, "either states or a text", id="both")
    yield pytest.param({"states": z, "rounded": "bf16"}, SettingError, "told by their numbers", id="rounded")
    yield pytest.param({"text": "cat", "rounded": "fp8"}, SettingError, "choose bf16, fp16", id="no such type")
    yield pytest.param({"text": "cat", "noise": -0.1}, SettingError, "at least 0", id="noise")
    yield pytest.param({"text": "cat", "tries": 0}, SettingError, "tries", id="tries")
    yield pytest.param({"text": "cat", "order": "best"}, SettingError, "There is no order 'best'", id="order")
    yield pytest.param({"states": z[:, :1], "site": "n0.3"}, SettingError, "one number", id="a neuron")
    yield pytest.param({"states": "none.npy"}, InputError, "none.npy is not there", id="no file")
    yield pytest.param({"states": "none.npy[3]"}, InputError, "one row", id="a row")


@pytest.mark.parametrize(("asked", "error", "says"), _wrong())
def test_a_mistake_is_one_sentence(probed: iv.ProbedModel, asked: Any, error: type[InversionViewError], says: str) -> None:
    with pytest.raises(error) as raised:
        iv.recover(probed, **{"site": "x1.post", **asked})
    said = str(raised.value)
    assert says in said
    assert said.endswith(".")
    assert "\n" not in said


def test_sites_that_attend_to_nothing_need_no_positions_before_them(llama: Any, probed: iv.ProbedModel) -> None:
    z = llama.get_input_embeddings().weight.detach()[body(probed)]
    assert iv.recover(probed, z[4:], positions=range(4, len(z)), site="x0.pre", order="next").text == TEXT[3:]


def test_one_vector_finds_what_comes_nearest(addition: iv.Study) -> None:
    """Every text that is shown has its distance, and the search comes nearer than what it began with, or as near."""
    site = next(each for each in addition.model.sites if each.short == "x1.post")
    ids = body(addition.model, "403+288=691")[:8]
    z = addition.model.activations(torch.tensor([ids]), [site])[0, 0, -1]
    found = iv.recover_vector(addition, z, site="x1.post", rounds=8, seconds=600, count=6, longest=9)
    for each in found.texts:
        last = addition.model.activations(torch.tensor([[*addition.model.vocabulary.front, *each.ids]]), [site])[0, 0, -1]
        assert each.distance == pytest.approx(float((last - z).norm() / z.norm()), abs=1e-5)
    distances = [each.distance for each in found.texts]
    assert distances == sorted(distances)
    assert distances[0] <= found.corpus
    assert found.texts[0].ids[-1] == ids[-1], "the last token is never lost at a residual stream"
    for place, token in enumerate(found.tokens):
        back = len(found.tokens) - place
        assert token.agreed == all(len(t.ids) >= back and t.ids[-back] == token.id for t in found.texts)


def test_rounds_and_a_seed_fix_what_is_found(probed: iv.ProbedModel) -> None:
    z = torch.linspace(-1, 1, 32)
    made = [iv.recover_vector(probed, z, site="x0.post", rounds=3, seconds=600, count=4, longest=4) for _ in range(2)]
    assert made[0].texts == made[1].texts


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"seconds": 0.0}, "positive number of seconds"),
        ({"count": 0}, "number of texts"),
        ({"longest": 0}, "number of tokens"),
        ({"vector": torch.ones(3)}, "one of 32 numbers"),
        ({"vector": torch.full((32,), float("nan"))}, "NaN"),
        ({"site": "n0.1", "vector": torch.ones(1)}, "one number"),
    ],
)
def test_a_mistake_with_a_vector_is_one_sentence(addition: iv.Study, asked: Any, says: str) -> None:
    with pytest.raises(InversionViewError) as raised:
        iv.recover_vector(addition, **{"vector": torch.ones(32), "site": "x0.post", **asked})
    assert says in str(raised.value)


def test_the_command_with_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "v.npy", np.linspace(-1, 1, 32, dtype=np.float32))
    task = ["recover", "addition", "--vector", str(tmp_path / "v.npy"), "--site", "x0.post", "--seconds", "1", "--longest", "5"]
    main([*task, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["distance"] <= told["corpus"]
    assert len(told["texts"]) == 8
    assert {"token", "id", "agreed"} == set(told["tokens"][0])
    for wrong in (["--tries", "3"], ["--text", "615+861=1476"], ["--noise", "0.1"]):
        with pytest.raises(SystemExit) as ended:
            main([*task, *wrong])
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
