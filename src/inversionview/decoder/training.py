"""Train a decoder: draw pairs of an input and one of its activations, learn to write the one from the other.

Pairs come in pools, each a pure function of (seed, pool number, weights), see ``pairs.py``; checkpoints fall between pools.
So an interrupted run goes on exactly where it stood, and several processes, each taking its slice of every batch, compute
what one would.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core import optim
from inversionview.core.errors import DivergenceError, SettingError
from inversionview.core.locks import locked
from inversionview.core.memory import check_memory
from inversionview.core.scope import Scope
from inversionview.core.storage import replacing
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.balls.balls import Balls
from inversionview.decoder.balls.guide import Guide
from inversionview.decoder.batches import Batch, Group, Pools
from inversionview.decoder.beginning import begin_from, new_decoder
from inversionview.decoder.checkpoint import Standing, append_metrics, cut_metrics, load_checkpoint, save_checkpoint
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.evaluation import agreements, ball_shares, by_place, good_shares, rebalanced
from inversionview.decoder.loss import SMALL
from inversionview.decoder.occurrences import banked
from inversionview.decoder.pairs import FreshInputs, PairSource
from inversionview.decoder.recipe import TrainConfig
from inversionview.model.backend import widest
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from accelerate import Accelerator

    from inversionview.bank.store import ActivationBank


def loss_of(wrapped: torch.nn.Module, decoder: Decoder, batch: Group) -> Tensor:
    """Return the summed cross entropy of the next token over BOS … EOS, in nats; ``wrapped`` is what runs ``decoder``."""
    tokens = decoder.begun(batch.tokens)
    ids = decoder.own(tokens)
    target = ids.masked_fill(tokens == decoder.config.pad, -1)[:, 1:]
    if batch.others is not None and decoder.config.size <= SMALL:
        others = decoder.own(decoder.begun(batch.others.flatten(0, 1))).unflatten(0, batch.others.shape[:2])
        target = next_among(others, ids, target, decoder.config.size)
    loss: Tensor = wrapped(ids[:, :-1].clamp(min=0), batch.z, batch.site, target)
    return loss


def next_among(
    members: Int[Tensor, "row member pos"], ids: Int[Tensor, "row pos"], target: Int[Tensor, "row pos-1"], size: int
) -> Float[Tensor, "row pos-1 vocabulary"]:
    """Return how often each token comes next among the members of a ball that agree with an input up to there.

    Its expectation over members is that of the input's own next token, which is one of these, but it varies far less. Zeros
    where the ``target`` is negative.
    """
    agree = (members == ids[:, None]).long().cumprod(2)[:, :, :-1].mT.float()  # (row, pos − 1, member)
    counts = torch.zeros(*target.shape, size, device=ids.device)
    counts.scatter_add_(2, members[:, :, 1:].mT.clamp(min=0, max=size - 1), agree)
    return (counts / agree.sum(2, keepdim=True)).masked_fill(target[:, :, None] < 0, 0.0)


class Clock:
    """How much of a run is done: by steps, or by minutes of training over all its sittings, on the first process' clock."""

    def __init__(self, config: TrainConfig, standing: Standing, accelerator: Accelerator) -> None:
        self.config, self.standing, self.accelerator = config, standing, accelerator
        self._last = time.perf_counter()

    def tick(self) -> float:
        """Count the time since the last tick, and return the share of the run that is done."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        if self.config.steps is None and self.accelerator.num_processes > 1:
            first = passed if self.accelerator.is_main_process else 0.0
            passed = gather(first, self.accelerator)
        self.standing.seconds += passed
        if self.config.steps is not None:
            return self.standing.step / self.config.steps
        return self.standing.seconds / (60 * (self.config.minutes or 1.0))


def optimizers_of(decoder: Decoder, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return the optimisers of all that is trained; the LM of a pretrained decoder has one of its own, at a lower rate."""
    own = torch.nn.ModuleDict({name: part for name, part in decoder.named_children() if name != "lm"})
    direct = torch.nn.ParameterDict({f"embed_{name}": p for name, p in decoder.named_parameters(recurse=False)})
    made = optim.build(
        torch.nn.ModuleList([own, direct]), muon_lr=config.muon_lr, adam_lr=config.adam_lr, weight_decay=config.weight_decay
    )
    if lm := [p for name, p in decoder.named_parameters() if name.startswith("lm.") and p.requires_grad]:
        made.append(torch.optim.AdamW(lm, lr=config.lm_lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True))
    return made


AfterPool = Callable[[float, dict[str, Any]], None]
"""Called after every pool with the share of the run that is done and the last metrics."""


def train_decoder(
    decoder: Decoder,
    model: ProbedModel,
    source: PairSource,
    config: TrainConfig,
    out: Path | None,
    *,
    report: AfterPool | None = None,
    accelerator: Accelerator | None = None,
    guide: Guide | None = None,
) -> Decoder:
    """Train ``decoder`` in place, from the last checkpoint in ``out`` if there is one.

    Args:
        decoder: freshly made by ``new_decoder`` (or to be overwritten by the checkpoint).
        model: the probed model.
        source: where pairs come from.
        config: length and recipe.
        out: folder for ``checkpoints/`` and ``metrics.jsonl``; ``None`` keeps nothing.
        report: called after every pool, for a progress bar.
        accelerator: of Hugging Face Accelerate, for GPUs and several processes; by default one for this machine.
        guide: leads the chains that walk to members of balls.

    Raises:
        MismatchError: ``out`` holds a run of another model or with other settings.
        WeightsError: its checkpoint is damaged.
        DivergenceError: loss or weights are not finite any more; the checkpoint before that still stands.
        StorageError: the disk is full; the last checkpoint still stands.
    """
    torch.set_flush_denormal(True)  # moments of idle weights decay into denormals, which halve a CPU's speed
    accelerator = accelerator or make_accelerator(str(model.device))
    run = _begun(decoder, model, source, config, out, accelerator, guide)
    done = run.clock.tick()
    try:
        while done < 1:
            done = run.pool(done)
            if report is not None:
                report(done, run.row)
    finally:
        run.pools.close()
    return decoder


def _begun(
    decoder: Decoder,
    model: ProbedModel,
    source: PairSource,
    config: TrainConfig,
    out: Path | None,
    accelerator: Accelerator,
    guide: Guide | None,
) -> _Training:
    """Return a run as it begins, or as its last checkpoint in ``out`` stands."""
    optimizers = optimizers_of(decoder, config)
    base = optim.rates(optimizers)
    wrapped = accelerator.prepare(decoder)
    told = {**asdict(config), "decoder": asdict(decoder.config), "start": None if guide is None else guide.digest}
    settings = json.loads(json.dumps(told))  # as they are read again
    alike = rebalanced(np.zeros((len(source.sites), source.inputs.place_count)), 0.0)
    standing, row = Standing(model.fingerprint, settings, alike.tolist()), dict[str, Any]()
    if out is not None:
        standing = load_checkpoint(out / "checkpoints" / "last", standing, decoder, optimizers) or standing
        if accelerator.is_main_process:
            row = cut_metrics(out / "metrics.jsonl", standing.step)
    clock = Clock(config, standing, accelerator)
    balls = Balls(source, model, config, guide) if config.target == "ball" else None
    pools = Pools(source, config, balls, decoder.spelt)
    return _Training(decoder, wrapped, model, source, config, out, accelerator, optimizers, base, standing, clock, row, pools)


@dataclass
class _Training:
    """A run under way."""

    decoder: Decoder
    wrapped: torch.nn.Module
    """What runs the decoder, on this process."""
    model: ProbedModel
    source: PairSource
    config: TrainConfig
    out: Path | None
    accelerator: Accelerator
    optimizers: list[torch.optim.Optimizer]
    base: list[list[float]]
    """Their learning rates before any schedule."""
    standing: Standing
    clock: Clock
    row: dict[str, Any]
    """The last metrics."""
    pools: Pools

    def pool(self, done: float) -> float:
        """Train on the next pool and keep what became of it; return the share of the run that is done then."""
        standing, config, accelerator = self.standing, self.config, self.accelerator
        since = replace(standing)
        loss, done = self._steps(done)
        _check_finite(self.decoder, loss, since.step, kept=self.out is not None)
        standing.pool += 1
        standing.pairs = standing.step * config.batch
        speed = (standing.pairs - since.pairs) / max(standing.seconds - since.seconds, 1e-9)
        self.row |= {
            "step": standing.step,
            "pairs": standing.pairs,
            "seconds": round(standing.seconds, 2),
            "loss": loss,
            "pairs_per_second": round(speed, 1),
        }
        if int(min(done, 1.0) * config.evaluations) > standing.evaluated:
            self.pools.wait()
            self.row |= _rebalance(self, done)
            done = self.clock.tick()
        if self.out is not None and accelerator.is_main_process:
            append_metrics(self.out / "metrics.jsonl", self.row)
            save_checkpoint(self.out / "checkpoints" / "last", standing, self.decoder, self.optimizers)
        accelerator.wait_for_everyone()
        return done

    def _steps(self, done: float) -> tuple[float, float]:
        """Make the steps of a pool; return the mean loss of a token in nats, over all processes, and the share of the run."""
        accelerator, loss, predicted = self.accelerator, 0.0, 0
        weights, rank = np.array(self.standing.weights), accelerator.process_index
        pool = self.pools.take(self.standing.pool, weights)
        self.row["alone"] = round(pool.alone, 4)
        for batch in pool.batches(rank, accelerator.num_processes):
            optim.set_rates(self.optimizers, self.base, optim.schedule(done, decay=self.config.decay))
            loss += step(self.wrapped, batch, self.optimizers, accelerator, self.decoder)
            predicted += batch.predicted
            self.standing.step += 1
            done = self.clock.tick()
            if done >= 1:
                break
        return gather(loss, accelerator) / predicted, done


def _check_finite(decoder: Decoder, loss: float, since: int, kept: bool) -> None:
    """Raise ``DivergenceError`` if the loss of a pool, which began after step ``since``, or a weight after it is not finite."""
    bad = [name for name, tensor in decoder.kept().items() if not bool(tensor.isfinite().all())]
    if math.isfinite(loss) and not bad:
        return
    what = f"{bad[0]} is" if math.isfinite(loss) else "its loss is"
    stands = f"the checkpoint of step {since} stands" if kept and since else "nothing was kept"
    raise DivergenceError(
        f"The training diverged after step {since}, {what} not finite any more; {stands}: train anew into another folder, with "
        "another seed, a larger batch, or, in the library, lower learning rates (muon_lr, adam_lr)."
    )


def _rebalance(run: _Training, done: float) -> dict[str, Any]:
    """Measure the good ratio, re-weight sites and places by it and by how well balls are drawn from; return it as metrics.

    The new weights are averaged with the old, as a place is seen by few queries.
    """
    decoder, source, config, standing = run.decoder, run.source, run.config, run.standing
    standing.evaluated = int(min(done, 1.0) * config.evaluations)
    seed, count = config.seed + standing.evaluated, source.inputs.place_count
    scope = Scope[Any](config.epsilon, config.distance)
    shares, places = good_shares(
        decoder, run.model, source.inputs, source.sites, scope=scope, queries=config.queries, samples=1, seed=seed
    )
    metrics = {
        "good_ratio": shares.mean(),
        "good_ratios": dict(zip(decoder.config.sites, shares.mean(1).tolist(), strict=True)),
    }
    ratios = by_place(shares, places, count)
    if run.pools.balls is not None and not source.prefix:  # of texts it is not known how likely they are
        shares, apart, places = ball_shares(
            decoder, run.model, source, run.pools.balls, config=config, pool=standing.pool, seed=seed
        )
        ratios = agreements(shares, apart, places, count)
        known = {name: row[np.isfinite(row)] for name, row in zip(decoder.config.sites, apart, strict=True)}
        metrics["apart"] = {name: float(row.mean()) for name, row in known.items() if len(row)}
    standing.weights = ((rebalanced(ratios, config.rebalance) + np.array(standing.weights)) / 2).tolist()
    return metrics


def step(
    wrapped: torch.nn.Module,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
    accelerator: Accelerator,
    decoder: Decoder,
) -> float:
    """Make one optimiser step on this process' slice of a batch; return the slice's summed loss in nats."""
    device, total = accelerator.device, 0.0
    size = decoder.rows_trained
    parts = [group.part(slice(start, start + size)) for group in batch.groups for start in range(0, max(1, len(group.z)), size)]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        here = part.to(device)
        with nullcontext() if last else accelerator.no_sync(wrapped):
            with accelerator.autocast():
                loss = loss_of(wrapped, decoder, here)
            # gradients are averaged over processes, the loss is a mean over the tokens of all
            accelerator.backward(loss * (accelerator.num_processes / batch.predicted))
        total += loss.item()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return total


def gather(value: float, accelerator: Accelerator) -> float:
    """Return the sum of ``value`` over all processes."""
    total: Tensor = accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=accelerator.device))
    return float(total)


def make_accelerator(device: str) -> Accelerator:
    """Return Accelerate's handle: bf16 autocast on a GPU, plain fp32 on a CPU."""
    from accelerate import Accelerator

    cpu = device == "cpu"
    return Accelerator(cpu=cpu, mixed_precision="no" if cpu else "bf16")


def train(
    model: ProbedModel,
    inputs: Inputs,
    sites: str | Sequence[str | Site] = "*",
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    *,
    bank: ActivationBank | None = None,
    telling: npt.NDArray[np.bool_] | None = None,
    start: str | Path | None = None,
    report: AfterPool | None = None,
    accelerator: Accelerator | None = None,
    dtype: torch.dtype = torch.float32,
    **sizes: Any,
) -> Decoder:
    """Train a decoder for ``sites`` (patterns such as ``"a9.*"``) of ``model`` on ``inputs``.

    Args:
        model: the probed model.
        inputs: fresh inputs come from their train split.
        sites: one decoder serves all of them.
        config: length and recipe.
        out: folder for checkpoints, metrics and the decoder; an interrupted run in it goes on.
        bank: of these inputs; then activations are read from it, at its named positions, and the model runs only to measure
            the good ratio. Of a bank of every token of texts it is what precedes each that is learned.
        telling: which of the bank's activations it is trained on, ``[site, row, position]``; by default all.
        start: begin from the weights of this decoder, a folder or hub name, of the same sites and sizes; it also leads the
            chains that walk to members of balls.
        report: called after every pool.
        accelerator: of Hugging Face Accelerate, where there are several processes.
        dtype: of the weights of a pretrained decoder's LM.
        sizes: fields of ``DecoderConfig``; with ``base``, a path or hub name, the decoder is built around that causal LM.

    Raises:
        UnknownSiteError: a pattern matches no site.
        MismatchError: ``out`` holds a run of another model or with other settings, ``start`` has another shape, or the bank
            is of another model or corpus.
        SettingError: ``telling`` is given without a bank.
        LockedError: another process trains into ``out``.
    """
    folder = None if out is None else Path(out)
    config = config or TrainConfig()
    accelerator = accelerator or make_accelerator(str(model.device))
    chosen = expand(sites, model.sites)
    if telling is not None and bank is None:
        raise SettingError("Which activations tell something is said of a bank's: give the bank, too.")
    if bank is not None:
        bank.check(model, inputs)
    check_memory(config.batch, "pairs in a batch", config.pool * (8 * widest(model.shape, chosen) + 32 * inputs.max_length))
    source: PairSource = FreshInputs(model, inputs, chosen) if bank is None else banked(bank, chosen, telling)
    with locked(folder / ".lock", folder) if folder is not None and accelerator.is_main_process else nullcontext():
        decoder = new_decoder(model, source, seed=config.seed, dtype=dtype, **sizes)
        guide = None if start is None else _begun_from(decoder, start, inputs, config)
        train_decoder(decoder, model, source, config, folder, report=report, accelerator=accelerator, guide=guide)
        if folder is not None and accelerator.is_main_process:
            with replacing(folder / "decoder") as temporary:
                decoder.save_pretrained(temporary)
    return decoder.eval()


def _begun_from(decoder: Decoder, start: str | Path, inputs: Inputs, config: TrainConfig) -> Guide | None:
    """Copy the weights of another decoder, and return it as a guide where balls are learned; see ``begin_from``."""
    begin_from(decoder, start)
    return Guide(deepcopy(decoder).requires_grad_(False), inputs.max_length, inputs.pad) if config.target == "ball" else None
