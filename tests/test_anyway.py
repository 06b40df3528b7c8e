"""``--anyway``: a dictionary is read where its files say that it does not belong; every command that names sites takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import inversionview as iv
from tests.nonsense import commands
from tests.test_cli import run as command
from tests.test_through import dictionary

TEXT = "615+861=1476"
READ = ("addition", TEXT, "--at", "=", "--site", "x0.post|sae:{}")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary that says it belongs at x0.pre."""
    folder = tmp_path_factory.mktemp("elsewhere") / "sae"
    dictionary(folder, 32)
    told = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**told, "hook_name": "blocks.0.hook_resid_pre"}))
    return folder


@pytest.fixture(scope="module")
def bank(addition: iv.Study, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    iv.build_bank(addition, folder / "bank", rows=500, sites=[f"x0.post|sae!:{elsewhere}"], positions=["="])
    return folder


@pytest.mark.parametrize(
    "asked",
    [
        ["read", *READ, "--source", "walk", "--seconds", "0.2", "--json"],
        ["search", *READ, "--bank", "BANK", "--json"],
        ["walk", *READ, "--steps", "2", "--json"],
        ["export", *READ, "--source", "walk", "--seconds", "0.2", "--out", "PAGE"],
        ["patch", "addition", "--at", "=:x0.post|sae:{}", "--limit", "20", "--json"],
        ["ablate", "addition", "--at", "=:x0.post|sae:{}", "--limit", "20", "--json"],
        ["inform", "addition", "--sites", "x0.post|sae:{}", "--positions", "=", "--queries", "2", "--bank", "BANK", "--json"],
        ["bank", "addition", "--sites", "x0.post|sae:{}", "--positions", "=", "--inputs", "30", "--out", "RUN"],
    ],
    ids=lambda asked: asked[0],
)  # fmt: skip
def test_what_is_refused_is_read_anyway(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, bank: Path, tmp_path: Path, asked: list[str]
) -> None:
    paths = {"BANK": str(bank), "RUN": str(tmp_path / "run"), "PAGE": str(tmp_path / "page.html")}
    words = [paths.get(word, word.replace("{}", str(elsewhere))) for word in asked]
    code, out, err = command(capsys, *words)
    assert (code, out) == (2, "")
    assert "belongs at blocks.0.hook_resid_pre" in err
    assert "--anyway" in err
    assert len(err.strip().splitlines()) == 1
    code, out, _ = command(capsys, *words, "--anyway")
    assert code == 0
    written = (tmp_path / "page.html").read_text(encoding="utf-8") if "PAGE" in asked else out
    assert "|sae!:" in written or asked[0] == "bank"


def test_anyway_without_a_dictionary_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "search", "addition", TEXT, "--at", "=", "--site", "x0.post", "--anyway")
    assert (code, out) == (2, "")
    assert "--anyway does nothing where no dictionary is named" in err


def test_every_command_that_names_sites_takes_it() -> None:
    def options(described: Any) -> set[str]:
        return {name for each in described.params for name in each.opts}

    assert {
        name for name, each in commands().items() if options(each) & {"--site", "--sites"} and "--anyway" not in options(each)
    } == set()
    assert "--anyway" in options(commands()["patch"])
