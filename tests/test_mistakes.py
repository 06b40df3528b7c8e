"""Mistakes on the command line: one sentence that names the way out, of this study, before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inversionview.cli import main
from inversionview.errors import UnknownSiteError
from inversionview.header import sites_of
from inversionview.sites import Site, all_sites, expand, find_site
from inversionview.studies import default_model

ADD = "615+861=1476"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(list(arguments))
    captured = capsys.readouterr()
    assert error.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("command", ["read", "walk", "search", "sites", "bank", "inform", "threshold", "evaluate", "path"])
def test_a_model_in_place_of_a_study(capsys: pytest.CaptureFixture[str], own_model: Path, command: str) -> None:
    words = {"sites": [], "bank": [], "inform": [], "evaluate": [], "path": ["model"]}.get(command, ["ann has 5 figs"])
    assert f"is a model, no study: give it by --model {own_model}" in said(capsys, command, str(own_model), *words)


def test_a_gguf_file_in_place_of_a_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert "There is no file" in said(capsys, "read", str(path), "hello")
    path.write_bytes(b"GGUF")
    assert f"is a model, no study: give it by --model {path}" in said(capsys, "read", str(path), "hello")


def test_a_study_in_place_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "addition is a study, no model" in said(capsys, "read", "--model", "addition", ADD)


@pytest.mark.parametrize("command", ["sites", "bank", "evaluate"])
def test_a_run_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "study.json").write_text("{}")
    near = str(tmp_path / "heads")
    told = said(capsys, command, str(tmp_path / "haeds"))
    assert f"There is no folder {tmp_path / 'haeds'}" in told
    assert f"Runs lie in {near}." in told
    told = said(capsys, command, str(tmp_path))
    assert "holds no study.json" in told
    assert f"Runs lie in {near}." in told
    (tmp_path / "heads" / "bank").mkdir()
    assert f"is a part of a run: name the run, {near}" in said(capsys, command, str(tmp_path / "heads" / "bank"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("read", "addition", "615+861", "=", "1476"), "= 1476. Put a text in quotes"),
        (("read", "addition", ADD, "--epsilon", "10%"), "--epsilon is a number, but '10%' is none: write 0.1."),
        (("read", "addition", ADD, "--epsilon=0,25"), "--epsilon is a number, but '0,25' is none: write 0.25."),
        (("walk", "addition", ADD, "--seconds", "ten"), "--seconds is a number, but 'ten' is none"),
        (("search", "addition", ADD, "--count", "2.5"), "--count is a whole number, but '2.5' is none: write 2."),
        (("read", "addtion", ADD), "Did you mean 'addition'?"),
        (("read", "The", "capital"), "a text of several words stands in quotes"),
        (("ablate", "addition"), "No activation is named: write for instance --at '=:a0.0'"),
        (("ablate", "counting"), "No activation is named: write for instance --at '::a1.0'"),
        (("patch", "addition", "--at", "query"), "such as '=:a0.0'"),
        (("ablate", "addition", "--at", "query:a0.0", "--limit", "20"), "name another (F1, F2, F3, +, S1, S2, S3, =, A1"),
        (("read", "addition", ADD, "--site", "x7.post"), "x*.post are in layers 0, 1."),
        (("read", "addition", ADD, "--site", "a1.9"), "layer 1 has heads 0–3."),
    ],
)
def test_the_way_out(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert says in said(capsys, *arguments)


DEEP = all_sites([9] * 30)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("x35.post", r"x\*\.post are in layers 0–29."),
        ("blocks.30.hook_resid_mid", r"x\*\.mid are in layers 0–29."),
        ("a30.0", "heads are in layers 0–29."),
        ("a29.9", "layer 29 has heads 0–8."),
        ("m99", r"MLPs \(m0, …\) are in layers 0–29."),
        ("x5.pst", r"Did you mean 'x5.post'\?"),
    ],
)
def test_layers_and_heads_are_named_in_place_of_a_guess(site: str, says: str) -> None:
    for look in (find_site, expand):
        with pytest.raises(UnknownSiteError, match=says):
            look(site, DEEP)


def test_sites_of_a_few() -> None:
    few = [*(Site(9, "head", head) for head in (1, 4, 6, 7, 8)), Site(12, "head", 0)]
    with pytest.raises(UnknownSiteError, match="layer 9 has heads 1, 4 and 6–8"):
        find_site("a9.0", few)
    with pytest.raises(UnknownSiteError, match="heads are in layers 9 and 12"):
        find_site("a3.0", few)


def test_the_header_of_a_gguf_file_tells_its_sites() -> None:
    assert sites_of(default_model()) == all_sites([9] * 30)  # SmolLM2-135M


def test_a_configuration_tells_the_sites(own_model: Path, tmp_path: Path) -> None:
    assert sites_of(own_model) == all_sites([4])
    assert sites_of(tmp_path) is None
    for text in ("[]", "{", '{"n_layer": "x", "n_head": 2}', '{"n_layer": 100000000, "n_head": 2}', '{"n_layer": 2}'):
        (tmp_path / "config.json").write_text(text)
        assert sites_of(tmp_path) is None
    for data in (b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"x" * 200):
        (tmp_path / "m.gguf").write_bytes(data)
        assert sites_of(tmp_path / "m.gguf") is None


def test_a_site_of_a_language_model_is_refused_before_it_is_loaded() -> None:
    """Neither transformers nor the bridge is even imported."""
    code = (
        "import sys\nfrom inversionview.cli import main\n"
        f"try:\n main(['read', '--model', {str(default_model())!r}, 'hello', '--site', 'x35.post'])\n"
        "except SystemExit:\n pass\n"
        "sys.exit(10 * sum(name in sys.modules for name in ('transformers', 'transformer_lens')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "x*.post are in layers 0–29" in done.stderr
