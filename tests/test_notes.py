"""Notes of readings: texts outside the study, an ε that admits nearly everything, places not compared or trained at."""

from __future__ import annotations

import json

import numpy as np
import pytest

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import InputError, UnknownPositionError
from inversionview.explorer.answers import readings
from inversionview.preimage import reading as preimage_reading

ADD = "615+861=1476"
COUNT = "vvzccvczvvvzvcvc|v:8"


@pytest.mark.parametrize(
    ("study", "text", "why"),
    [
        ("addition", "61+861=922", "both operands are numbers from 100 to 999, but one is 61"),
        ("addition", "012+861=873", "but one is 012"),
        ("addition", "615+861=1477", r"615 \+ 861 is 1476, not 1477"),
        ("addition", "615+861=", "the sum is missing"),
        ("addition", "615861", r"not of the form 615\+861=1476"),
        ("counting", "vvcc|v:2", "three distinct letters, but this one 2"),
        ("counting", "vvvvvvvvvvcz|c:1", "at most nine times, but v 10 times"),
        ("counting", "vcz|q:1", "asked for, q, is not in the string"),
        ("counting", "vcz|v:2", "v occurs 1 times, not 2"),
        ("counting", "vcz|v:", "the count is missing"),
        ("counting", "vcz", "not of the form"),
    ],
)
def test_a_text_outside_the_study_is_told(request: pytest.FixtureRequest, study: str, text: str, why: str) -> None:
    loaded: iv.Study = request.getfixturevalue(study)
    query = loaded.query(text, at=-1, site=loaded.spec.site)
    made = iv.read(loaded, query, count=2, each=4, source="decoder")
    assert any("is no input of" in note for note in made.notes)
    with pytest.raises(InputError, match=why):
        iv.walk(loaded, query, steps=1)
    assert made.to_json()["notes"] == list(made.notes)
    assert preimage_reading.reading(loaded, made).to_json()["preimage"]["notes"] == list(made.notes)


@pytest.mark.parametrize("study", ["addition", "counting"])
def test_inputs_of_the_study_are_told_by_its_own_prior(request: pytest.FixtureRequest, study: str) -> None:
    """An input is one exactly where the study gives it a probability; damaged ones are none."""
    inputs = request.getfixturevalue(study).inputs
    tokens = inputs.corpus(np.arange(400))
    rng = np.random.default_rng(5)
    damaged = tokens[200:].copy()
    damaged[np.arange(200), rng.integers(1, 8, size=200)] = rng.integers(10, size=200)
    tokens[200:] = damaged
    real = np.isfinite(inputs.log_prior(tokens))
    assert real[:200].all()
    assert 0 < real[200:].sum() < 200
    assert [inputs.why_not(row[row != inputs.pad].tolist()) is None for row in tokens] == real.tolist()


def test_an_input_of_the_study_has_no_note(addition: iv.Study) -> None:
    made = iv.read(addition, addition.query(ADD, at="=", site="a0.0"), count=5, source="decoder")
    assert made.notes == ()
    assert "notes" not in made.to_json()


def test_the_terminal_shows_notes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["read", "addition", "61+861=922", "--at", "=", "--count", "3"])
    out = " ".join(capsys.readouterr().out.split())
    assert "'61+861=922' is no input of addition: both operands are numbers from 100 to 999, but one is 61." in out
    main(["read", "addition", "61+861=922", "--at", "=", "--count", "3", "--json"])
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("'61+861=922' is no input of addition")


def test_an_epsilon_that_admits_nearly_everything_is_told(addition: iv.Study) -> None:
    """Of the exact preimage the share is known; every addition lies within ε = 10 of every other."""
    query = addition.query(ADD, at="=", site="a0.0")
    searched = iv.search(addition, query, epsilon=10, count=3)
    assert searched.bits is not None
    assert searched.bits.hits == searched.bits.inputs
    for made in (searched, iv.read(addition, query, epsilon=10, count=3, each=4, source="decoder")):
        (note,) = made.notes
        assert note.startswith("ε = 10 (euclidean) admits 100%")
    walked = iv.walk(addition, query, epsilon=10, steps=8, chains=16, population=64, seconds=None)
    assert any("ε = 10 (euclidean) admits" in note for note in walked.notes)


def test_an_activation_that_tells_nothing_is_told_too(addition: iv.Study) -> None:
    """At '=' x0.pre holds that token alone: all 810,000 additions are inside any ε (docs/exact-preimages.md)."""
    made = iv.search(addition, addition.query(ADD, at="=", site="x0.pre"), count=3)
    assert any("admits 100% of the" in note and "tells next to nothing" in note for note in made.notes)


def test_a_bank_of_some_positions_says_which(counting: iv.Study) -> None:
    made = iv.search(counting, counting.query(COUNT, at=":", site="a1.0"), count=3)
    assert any(note.startswith("Compared at query and : only") for note in made.notes)
    made = iv.search(counting, counting.query(COUNT, at=":", site="a1.0"), count=3, fixed=":")
    assert made.notes[0] == "Compared at : only."


def test_a_bank_refuses_a_place_that_it_does_not_hold(counting: iv.Study, addition: iv.Study) -> None:
    query = counting.query(COUNT, at="#4", site="a1.0")
    with pytest.raises(UnknownPositionError, match=r"holds query and : alone, and 'c' at #4 .* --fixed :"):
        iv.search(counting, query)
    assert iv.search(counting, query, fixed="query", count=2).notes[0] == "Compared at query only."
    with pytest.raises(UnknownPositionError, match="BOS, which every input has"):
        iv.search(addition, addition.query(ADD, at=0, site="a0.0"))


def test_readings_of_places_that_no_bank_holds_come_from_elsewhere(counting: iv.Study) -> None:
    query = counting.query(COUNT, at="#4", site="a1.0")
    made = readings.read(counting, query, count=5, seconds=0.3)
    assert made.preimage.source != "corpus"
    if made.preimage.source == "decoder":
        assert any("was not trained at 'c' at #4" in note for note in made.preimage.notes or ())
