"""Every option of every command at values that mean nothing: one sentence or a right answer; see ``nonsense.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.nonsense import BASE, NUMBERS, commands


@pytest.fixture(scope="module")
def seen() -> list[dict[str, Any]]:
    """All cases, gone through in a process that may address 8 GB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.nonsense"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_has_a_small_task() -> None:
    assert set(BASE) == set(commands())


def test_one_sentence_or_an_answer(seen: list[dict[str, Any]]) -> None:
    def fine(case: dict[str, Any]) -> bool:
        lines = case["err"].strip().splitlines()
        refused = case["code"] == 2 and len(lines) == 1 and not case["out"]
        return (refused or case["code"] == 0) and "Traceback" not in case["err"]

    assert [case for case in seen if not fine(case)] == []


def _codes(seen: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    codes: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for case in seen:
        codes[case["command"], case["option"]][case["value"]] = case["code"]
    return codes


def test_what_no_number_may_be_is_refused_everywhere(seen: list[dict[str, Any]]) -> None:
    numbers = {place: codes for place, codes in _codes(seen).items() if set(codes) >= set(NUMBERS)}
    assert len(numbers) > 50
    wrong = {place for place, codes in numbers.items() if {codes[value] for value in ("nan", "inf", "x", "")} != {2}}
    assert wrong == set()


def test_small_tasks_and_sound_numbers_are_answered(seen: list[dict[str, Any]]) -> None:
    """What is refused is refused for its value: with another each command runs, and each of its numbers."""
    sound = {place: next(iter(codes.values())) for place, codes in _codes(seen).items() if set(codes) >= set(NUMBERS)}
    tasks = {place: codes[""] for place, codes in _codes(seen).items() if not place[1]}
    assert {place for place, code in {**sound, **tasks}.items() if code != 0} == set()


def test_every_seed_to_the_largest_is_one(seen: list[dict[str, Any]]) -> None:
    seeds = [case for case in seen if case["option"] == "--seed"]
    assert {case["code"] for case in seeds if case["value"] == str(2**63 - 1)} == {0}
    assert {case["code"] for case in seeds if case["value"] == str(2**64)} == {2}
