"""Training a decoder: it learns, resumes exactly after a kill, computes the same on two processes, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import inversionview as iv
from inversionview.core import errors
from inversionview.decoder.batches import make_pool
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.pairs import FreshInputs, pick_pairs
from inversionview.decoder.pathway import polar
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.decoder.whitening import clusters, fit_site
from inversionview.model.sites.patterns import expand
from inversionview.studies.registry import shipped_inputs

SMALL = ["--batch", "32", "--width", "16", "--decoder-layers", "1", "--sites", "x0.pre,x1.post"]


def command(out: Path, steps: int, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "inversionview.cli",
        "train",
        "addition",
        "--out",
        str(out),
        "--steps",
        str(steps),
        *SMALL,
        *more,
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 160 steps (two and a half pools) that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(out, 160), check=True, env=environment(), capture_output=True)
    return out


def test_a_run_holds_what_it_should(whole: Path) -> None:
    assert (whole / "study.json").is_file()
    assert (whole / "decoder" / "config.json").is_file()
    steps = [step for step, _ in losses(whole)]
    assert steps == [64, 128, 160]  # a pool has 64 batches
    row = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["pairs"] == 160 * 32
    assert set(row["good_ratios"]) == {"x0.pre", "x1.post"}
    curve = [loss for _, loss in losses(whole)]
    assert curve[-1] < curve[0]
    study = iv.load(whole)
    assert len(iv.read(study, study.query("615+861=1476", at="=", site="x0.pre"), count=3, source="decoder")) == 3


def until(process: subprocess.Popen[Any], done: Callable[[], bool]) -> None:
    """Wait for what a running training does, on a busy machine too."""
    end = time.monotonic() + 240
    while not done():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def test_resumes_exactly_after_kill_minus_nine(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command(out, 160), env=environment(), stderr=subprocess.DEVNULL)
    until(process, lambda: (out / "metrics.jsonl").exists() and len(losses(out)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "decoder").exists()
    subprocess.run(command(out, 160), check=True, env=environment(), capture_output=True)
    assert losses(out) == losses(whole)
    once, again = (load_file(run / "decoder" / "model.safetensors") for run in (whole, out))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_two_processes_have_the_loss_curve_of_one(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "inversionview.cli"]
    subprocess.run([*launch, *command(out, 160)[3:]], check=True, env=environment(), capture_output=True, timeout=300)
    assert [step for step, _ in losses(out)] == [step for step, _ in losses(whole)]
    np.testing.assert_allclose([b for _, b in losses(out)], [b for _, b in losses(whole)], rtol=2e-3)


def test_two_processes_end_together_when_trained_by_the_clock(tmp_path: Path) -> None:
    """Both must take the same steps at the same rates, or their weights part and the run hangs."""
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "inversionview.cli"]
    timed = ["train", "addition", "--out", str(out), "--minutes", "0.1", *SMALL]
    subprocess.run([*launch, *timed], check=True, env=environment(), capture_output=True, timeout=120)
    assert (out / "decoder" / "config.json").is_file()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] >= 6


def test_a_full_disk_leaves_the_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    """The file size limit stands for a full disk: the checkpoint of a finished run is there, the next cannot be written."""
    out = tmp_path / "run"
    process = subprocess.Popen(command(out, 160), env=environment(), stderr=subprocess.DEVNULL)
    until(process, lambda: (out / "checkpoints" / "last").exists())
    process.kill()
    process.wait()
    before = (out / "checkpoints" / "last" / "state.safetensors").read_bytes()
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *command(out, 160)]
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "checkpoints" / "last" / "state.safetensors").read_bytes() == before
    subprocess.run(command(out, 160), check=True, env=environment(), capture_output=True)
    assert losses(out) == losses(whole)


def test_an_interrupt_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(out, 100_000), env=environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run behind a shell, it is ignored
    )  # fmt: skip
    until(process, lambda: (out / "metrics.jsonl").exists())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err


def test_other_settings_or_another_model_do_not_mix_with_a_run(whole: Path) -> None:
    done = subprocess.run(command(whole, 320), capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert "steps = 160" in done.stderr
    done = subprocess.run([*command(whole, 160)[:-1], "x0.mid"], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert "sites" in done.stderr


def test_an_unfinished_run_says_what_to_do(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text((whole / "study.json").read_text())
    study = iv.load(tmp_path)
    with pytest.raises(errors.WeightsError, match="inversionview train"):
        study.decoder


def test_slices_of_a_pool_make_the_whole_pool(addition: iv.Study) -> None:
    config = iv.TrainConfig(minutes=None, steps=1, batch=32, pool=3, groups=2)
    inputs, sites = shipped_inputs("addition"), expand("x0.pre,a0.*", addition.model.sites)
    weights = np.ones((len(sites), inputs.place_count))

    def pool(rank: int, world: int):
        return list(make_pool(FreshInputs(addition.model, inputs, sites), config, 5, weights).batches(rank, world))

    for one, *parts in zip(pool(0, 1), pool(0, 2), pool(1, 2), strict=True):
        assert {one.predicted} == {part.predicted for part in parts}
        for i, group in enumerate(one.groups):
            for rank, part in enumerate(parts):
                assert torch.equal(group.tokens[rank::2], part.groups[i].tokens)
                assert torch.allclose(group.z[rank::2], part.groups[i].z, atol=1e-5)
                assert torch.equal(group.site[rank::2], part.groups[i].site)


def test_pairs_are_activations_of_their_own_inputs(addition: iv.Study) -> None:
    """Each z must be the activation of its input at its site, at one of the trained positions or BOS."""
    config = iv.TrainConfig(minutes=None, steps=1, batch=16, pool=2, groups=2, bos_share=0.2)
    inputs, sites = shipped_inputs("addition"), expand("a0.*,x1.post", addition.model.sites)
    for batch in make_pool(FreshInputs(addition.model, inputs, sites), config, 0, np.ones((5, inputs.place_count))).batches():
        for group in batch.groups:
            everywhere = addition.model.activations(group.tokens, sites)  # (site, row, pos, d_model)
            for row, (z, site) in enumerate(zip(group.z, group.site, strict=True)):
                gap = (everywhere[site, row] - z).norm(dim=-1) / z.norm()
                position = int(gap.argmin())
                assert gap[position] < 1e-4
                trained = inputs.trained_positions(group.tokens.numpy())[row]
                assert position == 0 or trained[position]


def test_pairs_are_drawn_by_their_weights() -> None:
    """One pair of each of many rows: its probability is its weight over the sum of the weights of the row's pairs."""
    inputs = shipped_inputs("addition")
    tokens = np.repeat(inputs.tokens(np.array([515 * 900 + 761])), 60_000, axis=0)  # 615 + 861 = 1476: places 1 … 12
    weights = np.random.default_rng(0).random((3, inputs.place_count)) ** 2
    weights[1, 4] = 0
    allowed = inputs.trained_positions(tokens)
    positions, sites = pick_pairs(inputs.places(tokens), allowed, np.random.default_rng(1), 1, 0.0, weights)
    found = np.zeros((3, 14))
    np.add.at(found, (sites, positions), 1 / len(tokens))
    expected = np.where(np.isin(np.arange(14), range(1, 13)), weights, 0)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.005)  # 4 standard errors of a share of 0.1
    assert found[1, 4] == 0


def test_pairs_of_an_input_differ_while_it_has_any_left() -> None:
    inputs = shipped_inputs("counting")
    tokens, weights = inputs.draw(200, split="train", seed=(0,)), np.ones((3, inputs.place_count))
    trained = inputs.trained_positions(tokens)  # two positions, so six pairs of three sites
    positions, sites = pick_pairs(inputs.places(tokens), trained, np.random.default_rng(0), 8, 0.0, weights)
    assert np.take_along_axis(trained, positions, 1).all()
    for row in zip(positions.tolist(), sites.tolist(), strict=True):
        assert len(set(zip(*row, strict=True))) == 6


def test_a_row_without_positions_and_the_share_of_bos() -> None:
    inputs = shipped_inputs("addition")
    tokens = inputs.draw(5000, split="train", seed=(0,))
    tokens[0, 1:] = inputs.pad
    places, allowed = inputs.places(tokens), inputs.trained_positions(tokens)
    positions, _ = pick_pairs(places, allowed, np.random.default_rng(0), 4, 0.1, np.ones((2, inputs.place_count)))
    assert (positions[0] == 0).all()
    assert abs((positions[1:] == 0).mean() - 0.1) < 0.01  # 4.7 standard errors of 20,000 draws


def test_clusters_find_blobs_that_lie_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    blobs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    which = torch.randint(4, (400,), generator=rng)
    points = blobs[which] + torch.randn(400, 2, generator=rng) * 0.3
    centers, nearest = clusters(points, 4, seed=0)
    for blob in range(4):
        (found,) = nearest[which == blob].unique().tolist()
        assert torch.allclose(centers[found], points[which == blob].mean(0), atol=1e-5)
    centers, nearest = clusters(torch.ones(5, 2), 3, seed=0)  # fewer distinct points than centres
    assert torch.equal(centers, torch.ones(3, 2))


def test_activations_are_whitened_within_their_cell() -> None:
    """In each cell the mean is 0 and the variances are (s / (s + f))², s the cell's own deviations, f 2 % of its mean norm."""
    rng = torch.Generator().manual_seed(0)
    large = torch.tensor([100.0, 0, 0, 0, 0]) + torch.randn(800, 5, generator=rng) * torch.tensor([1.0, 2, 3, 4, 5])
    small = torch.tensor([0.0, 1, 0, 0, 0]) + torch.randn(800, 5, generator=rng) * 0.05
    config = DecoderConfig(("x0.pre",), 5, 4, 4, bos=0, eos=1, pad=2, cells=2)
    pathway = ScratchDecoder(config).pathway
    with torch.no_grad():
        fit_site(pathway, 0, torch.cat([large, small]), seed=0)
    for z in (large, small):
        cell = (polar(z)[:, None] - pathway.cells_at[0]).norm(dim=-1).argmin(1).unique()
        assert len(cell) == 1
        along = (z - pathway.mean[0]) @ pathway.directions[0].T
        white = (along - pathway.cells_mean[0, cell]) @ pathway.cells_whiten[0, cell[0]]
        s = np.sqrt(np.linalg.eigvalsh(np.cov(z.T.numpy(), bias=True)))
        f = 0.02 * float(z.norm(dim=1).mean())
        np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(np.cov(white.T.numpy(), bias=True)), np.sort((s / (s + f)) ** 2), rtol=0.01
        )


def test_begin_from_another_decoder(whole: Path, tmp_path: Path) -> None:
    """A rate of zero leaves the weights that were begun from as they are; another shape is refused."""
    study = iv.load(whole)
    config = iv.TrainConfig(minutes=None, steps=2, batch=8, groups=2, pool=2, muon_lr=0.0, adam_lr=0.0, queries=2)
    start, sizes = whole / "decoder", {"width": 16, "layers": 1}
    decoder = iv.train(study.model, study.inputs, ["x0.pre", "x1.post"], config, start=start, **sizes)
    again = study.decoder.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in decoder.state_dict().items())
    with pytest.raises(errors.MismatchError, match="width"):
        iv.train(study.model, study.inputs, ["x0.pre", "x1.post"], config, start=start, width=32, layers=1)
    iv.train(study.model, study.inputs, ["x0.pre", "x1.post"], config, tmp_path / "run", start=start, **sizes)
    with pytest.raises(errors.MismatchError, match="was begun with start = "):  # which leads the chains
        iv.train(study.model, study.inputs, ["x0.pre", "x1.post"], config, tmp_path / "run", **sizes)


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": None}, {"steps": 5}, {"minutes": None, "steps": -2}])
def test_lengths_that_are_none(wrong: dict) -> None:
    with pytest.raises(errors.SettingError):
        iv.TrainConfig(**wrong)
