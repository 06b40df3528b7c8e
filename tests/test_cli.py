"""The command line as other programs call it: output, JSON, and one sentence on stderr with exit code 2 for every mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import inversionview as iv
from inversionview.cli import main
from inversionview.studies.naming import is_study
from inversionview.studies.registry import stated
from inversionview.studies.shipped import shipped_path
from inversionview.studies.spec import write_spec

COUNT = "vvzccvczvvvzvcvc|v:8"
ADD = "615+861=1476"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_read_as_a_table_in_a_fresh_process() -> None:
    command = [sys.executable, "-m", "inversionview.cli", "read", "addition", ADD, "--at", "=", "--site", "a0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "B615+861(=)1476E" in done.stdout
    assert "ε" in done.stdout


def test_reading_needs_neither_transformers_nor_transformer_lens() -> None:
    code = (
        "import sys; from inversionview.cli import main; "
        f"main(['read', 'addition', '{ADD}', '--at', '=', '--site', 'a0.0', '--json']); "
        "sys.exit(sum(name in sys.modules for name in ('transformers', 'transformer_lens', 'datasets', 'accelerate')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_read_json_is_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "read", "counting", COUNT, "--at", ":", "--site", "a1.0", "--json", "--seed", "2")
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert value["seed"] == 2
    assert value["query"]["site"] == "a1.0"
    assert value["query"]["tokens"][value["query"]["position"]] == ":"
    assert len(value["samples"]) == 100
    inside = [s["inside"] for s in value["samples"]]
    assert inside == sorted(inside, reverse=True)


def test_options_reach_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(
        capsys, "read", "addition", ADD, "--at", "-5", "--site", "blocks.0.attn.hook_result[0]", "--json", "--count", "7",
        "--epsilon", "0.2", "--distance", "cosine", "--temperature", "1", "--temperature", "2", "--candidates", "9",
        "--fixed", "=",
    )  # fmt: skip
    value = json.loads(out)
    assert (value["epsilon"], value["distance"], value["candidates"]) == (0.2, "cosine", 18)
    assert value["query"]["position"] == 8
    assert len(value["samples"]) <= 7
    assert {s["position"] for s in value["samples"]} <= {8}


def test_sites_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "sites", "addition", "--json")
    value = json.loads(out)
    names = [site["short"] for site in value["sites"]]
    assert names == [
        "x0.pre",
        "a0.0",
        "a0.1",
        "a0.2",
        "a0.3",
        "x0.mid",
        "x0.post",
        "a1.0",
        "a1.1",
        "a1.2",
        "a1.3",
        "x1.mid",
        "x1.post",
    ]
    assert {"F1", "S3", "+", "=", "A4", "END"} <= set(value["positions"])
    _, out, _ = run(capsys, "sites", "counting")
    assert "blocks.1.attn.hook_result[0]" in out
    assert "query" in out


@pytest.mark.parametrize("study", ["counting", "addition"])
@pytest.mark.parametrize("part", ["model", "decoder"])
def test_path_leads_to_hugging_face_folders(capsys: pytest.CaptureFixture[str], study: str, part: str) -> None:
    _, out, _ = run(capsys, "path", study, part)
    folder = Path(out.strip())
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000


@pytest.mark.parametrize("holds", [(), ("bank",), ("checkpoints",), ("bank", "checkpoints")])
@pytest.mark.parametrize("study", ["addition", "ioi", "texts"])
def test_path_of_a_decoder_is_that_which_is_read_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, study: str, holds: tuple[str, ...]
) -> None:
    spec = stated(study if is_study(study) else "ioi")[0].model_copy(update={"inputs": study})
    write_spec(tmp_path / "b", spec)
    for part in holds:
        (tmp_path / "b" / part).mkdir()
    if study == "addition" and holds == ("bank",):
        assert Path(run(capsys, "path", str(tmp_path / "b"), "decoder")[1].strip()) == shipped_path("addition", "decoder")
    else:
        bad(capsys, "path", str(tmp_path / "b"), "decoder", says="b has no trained decoder in ")
    shutil.copytree(shipped_path("addition", "decoder"), tmp_path / "b" / "decoder")
    assert Path(run(capsys, "path", str(tmp_path / "b"), "decoder")[1].strip()) == tmp_path / "b" / "decoder"


@pytest.mark.parametrize("holds", [(), ("checkpoints",)])
def test_path_and_evaluate_say_the_same_where_there_is_no_decoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, holds: tuple[str, ...]
) -> None:
    write_spec(tmp_path / "b", stated("addition")[0])
    for part in holds:
        (tmp_path / "b" / part).mkdir()
    said = [run(capsys, *words) for words in (("path", str(tmp_path / "b"), "decoder"), ("evaluate", str(tmp_path / "b")))]
    assert said[0] == said[1]
    assert said[0][0] == 2
    assert "has no trained decoder in" in said[0][2]


@pytest.mark.parametrize("study", ["ioi", "facts"])
def test_no_decoder_comes_with_a_language_model_s_study(capsys: pytest.CaptureFixture[str], study: str) -> None:
    bad(capsys, "path", study, "decoder", says=f"No decoder comes with {study}: train one, `inversionview train {study} --out")


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "evaluate", "addition", "--queries", "5", "--json")
    value = json.loads(out)
    assert code == 0
    assert len(value["sites"]) == 13
    assert value["mean"] == pytest.approx(sum(value["sites"].values()) / 13)
    assert all(0 <= ratio <= 1 for ratio in value["sites"].values())


def test_demo_shows_three_readings_of_each_study(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo")
    assert code == 0
    assert [out.count(f"{i}/6") for i in range(1, 7)] == [1] * 6
    assert out.count("query ") >= 6


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("read", "train", "train-probed", "evaluate", "sites", "path"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"inversionview {command}" in out


def bad(capsys: pytest.CaptureFixture[str], *arguments: str, says: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("read", "adition", ADD), "addition"),
        (("read", "addition", ADD, "--site", "a9.9"), "layers 0, 1"),
        (("read", "addition", ADD, "--at", "Q"), "no position 'Q'"),
        (("read", "addition", "615+8é1=1476"), "é"),
        (("read", "addition", "615+861=1476615+861=1476"), "shorten"),
        (("read", "addition", ""), "empty"),
        (("read", "addition", ADD, "--epsilon", "0"), "ε must be"),
        (("read", "addition", ADD, "--epsilon", "nought"), "1/1000, 10bits or 0.1nat, but not 'nought'"),
        (("read", "addition", ADD, "--count", "0"), "positive"),
        (("read", "addition", ADD, "--distance", "taxi"), "taxi"),
        (("read", "addition", ADD, "--model", "/no/such/model"), "/no/such/model"),
        (("read", "addition", ADD, "--colour", "red"), "--colour"),
        (("read", "addition"), "text"),
        (("path", "addition", "corpus"), "corpus"),
        (("path", "nowhere", "model"), "nowhere"),
        (("sites", "nowhere"), "nowhere"),
        (("evaluate", "addition", "--queries", "0"), "--queries"),
        (("train", "counting"), "--out"),
        (("train", "--texts", "x.txt", "--out", "x"), "--model"),
        (("train", "nowhere", "--out", "x", "--steps", "1"), "nowhere"),
        (("train", "counting", "--out", "x", "--minutes", "-1"), "positive"),
        (("train", "counting", "--out", "x", "--steps", "2", "--minutes", "1"), "either"),
        (("train", "addition", "--out", "x", "--steps", "2", "--batch", "30"), "groups"),
        (("train", "addition", "--out", "x", "--steps", "2", "--width", "30"), "heads"),
        (("train-probed", "multiplication"), "multiplication"),
        (("reed", "addition"), "reed"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad(capsys, *arguments, says=says)


@pytest.fixture
def copied_model(tmp_path: Path, addition: iv.Study) -> Path:
    return Path(shutil.copytree(addition.model_path, tmp_path / "model"))


def test_another_checkpoint_of_the_same_weights_reads(capsys: pytest.CaptureFixture[str], copied_model: Path) -> None:
    code, out, _ = run(capsys, "read", "addition", ADD, "--at", "=", "--json", "--count", "3", "--model", str(copied_model))
    assert code == 0
    assert json.loads(out)["query"]["model"] == str(copied_model)


def test_a_pickled_checkpoint_is_read_with_weights_only(capsys: pytest.CaptureFixture[str], copied_model: Path) -> None:
    import torch

    torch.save(load_file(copied_model / "model.safetensors"), copied_model / "pytorch_model.bin")
    (copied_model / "model.safetensors").unlink()
    code, *_ = run(capsys, "read", "addition", ADD, "--at", "=", "--count", "3", "--model", str(copied_model))
    assert code == 0


def test_a_decoder_of_other_weights_is_refused(capsys: pytest.CaptureFixture[str], copied_model: Path) -> None:
    weights = load_file(copied_model / "model.safetensors")
    weights["transformer.h.0.ln_1.bias"][0] += 1e-3
    save_file(weights, copied_model / "model.safetensors", metadata={"format": "pt"})
    asked = ("--at", "=", "--source", "decoder", "--model", str(copied_model))
    bad(capsys, "read", "addition", ADD, *asked, says="another probed model")


def test_a_truncated_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], copied_model: Path) -> None:
    path = copied_model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    bad(capsys, "read", "addition", ADD, "--at", "=", "--model", str(copied_model), says="truncated")


def test_a_model_of_another_vocabulary_is_refused(capsys: pytest.CaptureFixture[str], counting: iv.Study) -> None:
    bad(capsys, "read", "addition", ADD, "--at", "=", "--model", str(counting.model_path), says="vocabulary")
