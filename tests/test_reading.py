"""Reading a shipped study through the library: every figure that is shown is measured again here, by plain Hugging Face."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import inversionview as iv
from inversionview.core import errors

TEXT = "615+861=1476"


@pytest.fixture(scope="module")
def plain(addition: iv.Study):
    return AutoModelForCausalLM.from_pretrained(addition.model_path).eval()


@torch.no_grad()
def residual_after(model, layer: int, ids: list[int]) -> torch.Tensor:
    """x^{layer,post} at all positions, by a hook on Hugging Face's own block."""
    kept = []
    handle = model.transformer.h[layer].register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
    model(torch.tensor([ids]))
    handle.remove()
    return kept[0].reshape(len(ids), -1)


def test_every_sample_is_verified_in_the_model(addition: iv.Study, plain) -> None:
    query = addition.query(TEXT, at="A1", site="x1.post")
    preimage = iv.read(addition, query, count=40, source="decoder")
    ids = addition.model.vocabulary.tokenizer.token_to_id
    z = residual_after(plain, 1, list(query.ids))[query.position]
    assert torch.allclose(z, query.z, atol=1e-4)
    for sample in preimage:
        row = [ids(token) for token in sample.tokens]
        activations = residual_after(plain, 1, row)
        candidates = len(row) - (sample.tokens[-1] == "E")
        distances = ((activations - z).norm(dim=1) / z.norm())[:candidates]
        assert sample.distance == pytest.approx(distances.min().item(), abs=1e-4)
        assert distances[sample.position].item() == pytest.approx(sample.distance, abs=1e-4)
        assert sample.inside == (sample.distance <= 0.1)
        assert [d for d in sample.token_distances if d is not None] == pytest.approx(distances.tolist(), abs=1e-4)
        assert (sample.token_distances[-1] is None) == (sample.tokens[-1] == "E")


def test_samples_are_sorted_distinct_and_counted(counting: iv.Study) -> None:
    preimage = iv.read(counting, counting.query("vvzccvczvvvzvcvc|v:8", at="query", site="x0.post"), source="decoder")
    distances = [s.distance for s in preimage]
    assert distances == sorted(distances)
    assert len({s.tokens for s in preimage}) == len(preimage) <= 100
    assert 1 <= sum(s.count for s in preimage) <= preimage.candidates == 768
    assert all(s.tokens[0] == "B" and "P" not in s.tokens and s.source == "decoder" for s in preimage)
    assert all(s.text == "".join(t for t in s.tokens if t not in "BEP") for s in preimage)


def test_the_query_itself_is_at_distance_zero(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="x0.pre")
    preimage = iv.read(addition, query, count=200, source="decoder")
    # x0.pre at '=' is its embedding and place alone: whatever has '=' there is at 0
    for sample in preimage:
        if len(sample.tokens) > 8 and sample.tokens[8] == "=":
            assert sample.distance == pytest.approx(0, abs=1e-6)
            assert sample.position == 8


def test_effect_is_the_difference_of_two_probabilities(addition: iv.Study) -> None:
    """p(token ∣ prefix, z_q) − p(token ∣ prefix, z_BOS), by two forward passes of the decoder over the sample's prefix."""
    query = addition.query(TEXT, at="A1", site="x1.post")
    sample = iv.read(addition, query, count=3, source="decoder").samples[0]
    decoder, vocabulary = addition.decoder, addition.model.vocabulary
    ids = [vocabulary.tokenizer.token_to_id(t) for t in sample.tokens]
    z_bos = addition.query(TEXT, at=0, site="x1.post").z
    site = torch.tensor([decoder.config.sites.index("x1.post")])
    with torch.no_grad():
        for place in range(1, len(ids)):
            prefix = torch.tensor([ids[:place]])
            with_z, without = (decoder(prefix, z[None], site)[0, -1].softmax(-1)[ids[place]] for z in (query.z, z_bos))
            assert sample.effect[place] == pytest.approx((with_z - without).item(), abs=1e-5)
    assert sample.effect[0] == 0
    assert all(-1 <= e <= 1 for e in sample.effect)


def test_seeds_reproduce(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="a0.0")
    once, again, other = (iv.read(addition, query, seed=s, count=30, source="decoder").to_json() for s in (3, 3, 4))
    assert once == again
    assert once["samples"] != other["samples"]


@settings(max_examples=15, deadline=None)
@given(st.integers(100, 999), st.integers(100, 999), st.integers(0, 11), st.sampled_from(["x0.pre", "a0.2", "x1.post"]))
def test_any_query_can_be_read(addition: iv.Study, first: int, second: int, at: int, site: str) -> None:
    preimage = iv.read(
        addition, addition.query(f"{first}+{second}={first + second}", at=at, site=site), count=5, each=4, source="decoder"
    )
    assert all(s.inside == (s.distance <= 0.1) and 0 <= s.position < len(s.tokens) for s in preimage)


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_epsilon_moves_the_line_only(addition: iv.Study, epsilon: float) -> None:
    preimage = iv.read(addition, addition.query(TEXT, at="=", site="a0.0"), epsilon=epsilon, count=60, source="decoder")
    assert all(s.inside == (s.distance <= epsilon) for s in preimage)
    assert preimage.epsilon == epsilon


def test_fixed_position_compares_that_position_alone(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="a0.0")
    preimage = iv.read(addition, query, fixed="=", count=50, source="decoder")
    assert len(preimage) > 0
    for s in preimage:
        assert s.position == 8
        assert s.distance == s.token_distances[8]


def test_cosine_is_blind_to_length(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="a0.0")
    preimage = iv.read(addition, query, distance="cosine", count=20, source="decoder")
    assert preimage.to_json()["distance"] == "cosine"
    assert all(0 <= s.distance <= 2 for s in preimage)


def test_settings_draw_what_they_say(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="a0.0")
    preimage = iv.read(addition, query, settings=[iv.Setting(0.5), iv.Setting(1.0, noise=0.1)], each=10, source="decoder")
    assert preimage.candidates == 20


def test_json_has_the_agreed_fields(addition: iv.Study) -> None:
    value = iv.read(addition, addition.query(TEXT, at="=", site="a0.0"), count=4, source="decoder").to_json()
    assert set(value) == {
        "query",
        "distance",
        "epsilon",
        "seed",
        "samples",
        "candidates",
        "source",
        "inside",
        "distinct",
        "places",
        "bits",
    }
    assert value["bits"]["method"] == "importance"
    assert set(value["query"]) == {"text", "tokens", "ids", "position", "site", "model", "attention"}
    assert value["query"]["tokens"] == [*"B615+861=1476E"]
    assert value["query"]["position"] == 8
    fields = {
        "tokens",
        "text",
        "distance",
        "position",
        "inside",
        "token_distances",
        "effect",
        "source",
        "count",
        "ids",
        "log_p",
    }
    for s in value["samples"]:
        assert set(s) == fields
        assert len(s["tokens"]) == len(s["token_distances"]) == len(s["effect"])


@pytest.mark.parametrize(
    ("at", "position"),
    [("=", 8), ("A1", 9), ("END", 12), (8, 8), ("#8", 8), (-1, 12), ("-5", 8), ("+", 4), ("E", 13), ("B", 0), ("A4", 12)],
)
def test_positions(addition: iv.Study, at: str | int, position: int) -> None:
    assert addition.query(TEXT, at=at).position == position


@pytest.mark.parametrize("site", ["a0.3", "blocks.0.attn.hook_result[3]", "a^{0,3}", "$a^{0,3}$"])
def test_three_styles_name_one_site(addition: iv.Study, site: str) -> None:
    assert addition.query(TEXT, at="=", site=site).site == iv.Site(0, "head", 3)


@pytest.mark.parametrize(
    ("text", "at", "site", "error", "says"),
    [
        ("", "=", "a0.0", errors.InputError, "empty"),
        ("  ", "=", "a0.0", errors.InputError, "empty"),
        ("615x861=1476", "=", "a0.0", errors.InputError, "'x'"),
        ("615+861=14761476", "=", "a0.0", errors.InputError, "18 tokens"),
        (TEXT, "A9", "a0.0", errors.UnknownPositionError, "Did you mean 'A4'|Did you mean 'A1'"),
        ("100+100=200", "A4", "a0.0", errors.UnknownPositionError, "A3"),
        (TEXT, "99", "a0.0", errors.UnknownPositionError, "#0 to #13"),
        (TEXT, "-15", "a0.0", errors.UnknownPositionError, "#0 to #13"),
        (TEXT, "=", "a0.7", errors.UnknownSiteError, "heads 0–3"),
        (TEXT, "=", "x0.past", errors.UnknownSiteError, "Did you mean 'x0.post'"),
        (TEXT, "=", "x9.post", errors.UnknownSiteError, "layers 0, 1"),
    ],
)
def test_bad_queries(addition: iv.Study, text: str, at: str, site: str, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        addition.query(text, at=at, site=site)


def test_a_token_that_occurs_twice_must_be_named_by_its_index(counting: iv.Study) -> None:
    with pytest.raises(errors.UnknownPositionError, match="1, 2, 6"):
        counting.query("vvzccvcz|c:3", at="v")


@pytest.mark.parametrize("epsilon", [0.0, -0.1, math.nan, math.inf])
def test_bad_epsilon(addition: iv.Study, epsilon: float) -> None:
    with pytest.raises(errors.SettingError, match="positive"):
        iv.read(addition, addition.query(TEXT, at="=", site="a0.0"), epsilon=epsilon, source="decoder")


def test_bad_settings(addition: iv.Study) -> None:
    query = addition.query(TEXT, at="=", site="a0.0")
    for wrong in (
        {"count": 0},
        {"each": 0},
        {"settings": []},
        {"settings": [iv.Setting(0.0)]},
        {"settings": [iv.Setting(1, -1)]},
    ):
        with pytest.raises(errors.SettingError):
            iv.read(addition, query, **wrong, source="decoder")
    with pytest.raises(errors.SettingError, match="cosine"):
        iv.read(addition, query, distance="manhattan", source="decoder")


def test_a_site_the_decoder_was_not_trained_on(addition: iv.Study) -> None:
    with pytest.raises(errors.UnknownSiteError, match=r"not trained on m0"):
        iv.read(addition, addition.query(TEXT, at="=", site="m0"), source="decoder")


def test_studies_that_do_not_exist(tmp_path) -> None:
    with pytest.raises(errors.UnknownStudyError, match="Did you mean 'counting'"):
        iv.load("couting")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(errors.UnknownStudyError, match="damaged"):
        iv.load(tmp_path)


def test_views_show_tokens_as_text(addition: iv.Study) -> None:
    preimage = iv.read(addition, addition.query(TEXT, at="=", site="a0.0"), count=10, source="decoder")
    shown = str(preimage)
    assert "B615+861(=)1476E" in shown
    lines = [line for line in shown.splitlines() if re.match(r"\s+\d\.\d{3}", line)]
    assert len(lines) == len(preimage) + 1
    at = [i for i, line in enumerate(lines) if "ε" in line]
    assert at == [len(preimage.inside)]
    assert preimage._repr_html_().startswith("<pre")


def test_words_of_a_language_model() -> None:
    """Lines break between words; BOS and EOS are named in short where they stand, and nowhere else."""
    from inversionview.core.results import as_text
    from inversionview.preimage.preimage import Preimage, Query, Sample

    ends = ("<|im_start|>", "<|im_end|>")
    words = (" Mary", " and", " John", " went", " to", " the", " store", ",", " John", " gave", " a", " drink", " to")
    tokens = (ends[0], "When", *words, ends[1])
    texts = [tokens, (ends[0], *words * 3, ends[1]), (ends[0], "When", ends[1], " to", "\n")]
    samples = tuple(Sample(row, "", 0.05 * i, 3, True, (0.0,) * len(row), None, "walk", 1, (i,)) for i, row in enumerate(texts))
    query = Query("", tuple(range(len(tokens))), tokens, 14, iv.Site(20, "head", 3), "m", torch.zeros(1), (1.0, *[0.0] * 15))
    for width in (80, 120):
        shown = as_text(Preimage(query, "cosine", 0.1, 0, samples, 3), width=width)
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width
        said = "query BOS When Mary and John went to the store, John gave a drink (to) EOS"
        assert lines[0].rstrip().startswith(said)
        assert "attends to 'BOS' at 0: 1.00" in shown
        assert any(line.rstrip().endswith("BOS When<|im_end|> (to)⏎") for line in lines)
        first = next(i for i, line in enumerate(lines) if line.startswith("  0.050"))
        more = lines[first + 1 : first + 2 + (width < 100)]
        column = lines[first].index("BOS")
        assert all(line[:column].isspace() and not line[column].isspace() for line in more)  # it goes on below itself
        told = " ".join(line[column:].strip() for line in [lines[first], *more])
        assert told == ("BOS" + "".join(words * 3) + " EOS").replace(" John", " (John)", 1)


def test_hostile_token_text_stays_text() -> None:
    from inversionview.core.results import as_html, as_text
    from inversionview.preimage.preimage import Preimage, Query, Sample

    evil = "<img src=x onerror=alert(1)>\x1b[2J[red]"
    tokens = ("B", evil, "E")
    query = Query(evil, (0, 1, 2), tokens, 1, iv.Site(0, "pre"), "m", torch.zeros(1))
    sample = Sample(tokens, evil, 0.0, 1, True, (0.5, 0.0, None), (0.0, 0.9, 0.0), "decoder", 1)
    preimage = Preimage(query, "euclidean", 0.1, 0, (sample,), 1)
    assert "<img" not in as_html(preimage, width=200)
    assert "\x1b" not in as_text(preimage)
    assert "[red]" in as_text(preimage)
