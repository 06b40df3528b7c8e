"""Train a decoder: stream fresh inputs through the probed model, learn to write each from one of its activations.

The stream works in *pools* of a few thousand (input, site, position) pairs: one forward pass of the probed model serves all
pairs of an input, and a pool is sorted by length, so that batches hold next to no padding. A pool is a pure function of
(seed, pool number, weights); checkpoints fall between pools. So an interrupted run goes on exactly where it stood, and
several processes, each taking its slice of every batch, compute what one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from inversionview import optim
from inversionview.decoder.checkpoint import Progress, append_metrics, cut_metrics, load_checkpoint, save_checkpoint
from inversionview.decoder.evaluation import by_place, good_shares, rebalanced
from inversionview.decoder.model import Decoder, DecoderConfig, Pathway, polar
from inversionview.errors import MismatchError, SettingError
from inversionview.inputs import Ids, Inputs
from inversionview.principal import principal
from inversionview.probed import ProbedModel
from inversionview.sites import Site, expand
from inversionview.storage import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained; defaults are what did best on the two shipped studies."""

    minutes: float | None = 30.0
    """Length of the run in minutes of training; the learning rate falls to zero at its end."""
    steps: int | None = None
    """Length of the run in batches, in place of minutes: then the same seed gives the same decoder."""
    batch: int = 256
    """Pairs in a batch, over all processes."""
    groups: int = 4
    """Parts of a batch, each of about one length: little padding, yet every batch mixes lengths (without which training
    stalls: the gradient of one length is a poor guide to all)."""
    pairs_per_input: int = 4
    """Pairs of each input: they share its forward pass."""
    pool: int = 64
    """Batches in a pool."""
    muon_lr: float = 0.006
    adam_lr: float = 2e-3
    weight_decay: float = 0.0
    decay: float = 0.7
    """Share of the run over which the learning rate falls linearly to zero."""
    bos_share: float = 0.01
    """Share of pairs at BOS, from which the unconditional decoder is learned (Huang et al. 2024, appendix)."""
    rebalance: float = 2.0
    """Sites and, in each, named positions are weighted by softmax(rebalance · (mean − ratio)); 0 weights all alike."""
    evaluations: int = 10
    """How often in a run the good ratio is measured and the pairs are re-weighted."""
    queries: int = 200
    """Held-out queries per site for that, one sample each."""
    epsilon: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingError("Give the length of the training either in minutes or in steps.")
        if (self.minutes or self.steps or 0) <= 0:
            raise SettingError(f"The length of the training must be positive, but is {self.minutes or self.steps}.")
        if self.batch % self.groups or self.batch * self.pool % self.pairs_per_input:
            raise SettingError(f"A batch of {self.batch} pairs does not divide into {self.groups} groups: choose a multiple.")


class Group(NamedTuple):
    """Some pairs of a batch, of about one length, on the CPU."""

    tokens: Tensor  # Int[rows, pos]
    z: Tensor  # Float[rows, d_model]
    site: Tensor  # Int[rows]


class Batch(NamedTuple):
    """This process' slice of a batch."""

    groups: list[Group]
    predicted: int
    """Predicted tokens in the whole batch, over all processes."""


@torch.no_grad()
def fit_whitening(decoder: Decoder, model: ProbedModel, inputs: Inputs, sites: Sequence[Site], seed: int) -> None:
    """Set the whitening of each site in ``decoder``, from 16,384 activations; eight sites share a forward pass."""
    tokens = inputs.draw(4096, split="train", seed=(seed, 0, 1), fresh=True)
    alike = np.ones((1, inputs.place_count))
    positions, _ = pick_pairs(inputs, tokens, np.random.default_rng((seed, 0, 2)), 4, 0.0, alike)
    for first in range(0, len(sites), 8):
        z = model.harvest(tokens, sites[first : first + 8], positions).flatten(1, 2)  # (site, rows·4, d_model)
        for number, own in enumerate(z.float().cpu(), start=first):
            fit_site(decoder.pathway, number, own, seed)


def fit_site(pathway: Pathway, number: int, z: Float[Tensor, "rows d_model"], seed: int) -> None:
    """Set one site's mean and principal directions, its cells, and the whitening within each."""
    cells, rank = pathway.cells_mean.shape[1:]
    mean, variances, directions = principal(z)
    pathway.mean[number] = mean
    pathway.directions[number] = directions[:, -rank:].T
    pathway.rest[number] = variances[:-rank].mean().nan_to_num(0.0).sqrt() + _floor(z)
    pathway.cells_at[number], cell = clusters(polar(z), cells, seed)
    along = (z - mean) @ directions[:, -rank:]
    for c in cell.unique().tolist():
        mine = cell == c
        pathway.cells_mean[number, c], variances, axes = principal(along[mine])
        pathway.cells_whiten[number, c] = axes / (variances.sqrt() + _floor(z[mine])) @ axes.T


def _floor(z: Float[Tensor, "rows dim"]) -> Tensor:
    """Return 2 % of the mean norm, which is added to each standard deviation: what matters at ε = 0.1 is seen from the
    first step, what varies less is not blown up."""
    return 0.02 * z.norm(dim=-1).mean() + 1e-6


def clusters(
    points: Float[Tensor, "rows dim"], count: int, seed: int
) -> tuple[Float[Tensor, "count dim"], Int[Tensor, " rows"]]:
    """Return ``count`` centres by k-means (k-means++, 20 rounds), and the number of each point's nearest."""
    generator = torch.Generator().manual_seed(seed)
    centers = points[:1]
    while len(centers) < count:
        far = torch.cdist(points, centers).amin(1).square() + 1e-12
        centers = torch.cat([centers, points[torch.multinomial(far, 1, generator=generator)]])
    for _ in range(20):
        nearest = torch.cdist(points, centers).argmin(1)
        size = nearest.bincount(minlength=count)[:, None]
        total = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(size > 0, total / size, centers)
    return centers, torch.cdist(points, centers).argmin(1)


def pick_pairs(
    inputs: Inputs, tokens: Ids, rng: np.random.Generator, count: int, bos_share: float, weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each row ``count`` positions to train on and a site for each, ``[rows, count]`` both.

    A pair's probability is ∝ ``weights[site, place]``, without replacement while a row has pairs left; with probability
    ``bos_share`` its position becomes BOS.
    """
    allowed = inputs.trained_positions(tokens)
    odds = weights.T[inputs.places(tokens)] * allowed[:, :, None]  # (row, position, site)
    race = rng.standard_exponential(odds.shape, dtype=np.float32) / np.maximum(odds, 1e-30)  # the quickest are such a draw
    most = min(count, race[0].size)
    first = torch.from_numpy(race.reshape(len(tokens), -1)).topk(most, largest=False).indices.numpy()
    available = np.clip(allowed.sum(1) * len(weights), 1, most)[:, None]
    chosen = np.take_along_axis(first, np.arange(count)[None] % available, axis=1)
    positions, drawn = np.divmod(chosen, len(weights))
    positions[rng.random(positions.shape) < bos_share] = 0
    positions[allowed.sum(1) == 0] = 0
    return positions, drawn


def pool_of_batches(
    model: ProbedModel,
    inputs: Inputs,
    sites: list[Site],
    config: TrainConfig,
    number: int,
    weights: npt.NDArray[np.float64],
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Yield this process' slices of the batches of pool ``number``; the pool depends on nothing but the arguments."""
    rng = np.random.default_rng((config.seed, 1, number))
    per_input = config.pairs_per_input
    tokens = inputs.draw(config.pool * config.batch // per_input, split="train", seed=(config.seed, 2, number), fresh=True)
    positions, drawn = pick_pairs(inputs, tokens, rng, per_input, config.bos_share, weights)
    lengths = inputs.lengths(tokens)
    which = np.repeat(np.arange(len(tokens)), per_input)
    order = rng.permutation(len(which))
    order = order[np.argsort(lengths[which[order]], kind="stable")]  # by length, random within
    size = config.batch // config.groups
    parts = order[: config.pool * config.batch].reshape(-1, size)
    batches = parts[rng.permutation(len(parts))].reshape(config.pool, config.groups, size)
    mine = batches[:, :, rank::world]
    z = _harvest_pairs(model, tokens, sites, positions, drawn, mine)
    for whole, share, values in zip(batches, mine, z, strict=True):
        longest = lengths[which[whole]].max(1)
        groups = [
            Group(torch.from_numpy(tokens[which[rows], :length]), v, torch.from_numpy(drawn.ravel()[rows]))
            for rows, v, length in zip(share, values, longest, strict=True)
        ]
        yield Batch(groups, int((lengths[which[whole]] - 1).sum()))


def _harvest_pairs(
    model: ProbedModel,
    tokens: Ids,
    sites: list[Site],
    positions: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
) -> Tensor:
    """Return the activation of each pair, ``[*pairs.shape, d_model]``: one forward pass for each input."""
    per_input = positions.shape[1]
    rows, inverse = np.unique(pairs // per_input, return_inverse=True)
    z = model.harvest(tokens[rows], sites, positions[rows], pick=drawn[rows])  # (row, k, d_model)
    flat = inverse.reshape(pairs.shape) * per_input + pairs % per_input
    return z.flatten(0, 1)[torch.from_numpy(flat)]


def loss_of(decoder: torch.nn.Module, batch: Group, pad: int, vocabulary: int) -> Tensor:
    """Return the summed cross entropy of the next token over BOS … EOS, in nats."""
    tokens = batch.tokens
    logits = decoder(tokens[:, :-1].clamp(max=vocabulary - 1), batch.z, batch.site)
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=pad, reduction="sum")


class Clock:
    """How much of a run is done: by steps, or by minutes of training over all its sittings, on the first process' clock."""

    def __init__(self, config: TrainConfig, progress: Progress, accelerator: Accelerator) -> None:
        self.config, self.progress, self.accelerator = config, progress, accelerator
        self._last = time.perf_counter()

    def tick(self) -> float:
        """Count the time since the last tick, and return the share of the run that is done."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        if self.config.steps is None and self.accelerator.num_processes > 1:
            first = passed if self.accelerator.is_main_process else 0.0
            passed = gather(first, self.accelerator)
        self.progress.seconds += passed
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        return self.progress.seconds / (60 * (self.config.minutes or 1.0))


Report = Callable[[float, dict[str, Any]], None]
"""Called after every pool with the share of the run that is done and the last metrics."""


def train_decoder(
    decoder: Decoder,
    model: ProbedModel,
    inputs: Inputs,
    config: TrainConfig,
    out: Path | None,
    *,
    report: Report | None = None,
    accelerator: Accelerator | None = None,
) -> Decoder:
    """Train ``decoder`` in place, from the last checkpoint in ``out`` if there is one.

    Args:
        decoder: freshly made by ``new_decoder`` (or to be overwritten by the checkpoint).
        model: the probed model.
        inputs: where fresh inputs come from.
        config: length and recipe.
        out: folder for ``checkpoints/`` and ``metrics.jsonl``; ``None`` keeps nothing.
        report: called after every pool, for a progress bar.
        accelerator: of Hugging Face Accelerate, for GPUs and several processes; by default one for this machine.

    Raises:
        MismatchError: ``out`` holds a run of another model or with other settings.
        StorageError: the disk is full; the last checkpoint still stands.
    """
    torch.set_flush_denormal(True)  # moments of idle weights decay into denormals, which halve a CPU's speed
    accelerator = accelerator or make_accelerator(str(model.device))
    sites = [Site.parse(name) for name in decoder.config.sites]
    optimizers = optim.build(decoder, muon_lr=config.muon_lr, adam_lr=config.adam_lr, weight_decay=config.weight_decay)
    base = optim.rates(optimizers)
    wrapped = accelerator.prepare(decoder)
    settings = {**asdict(config), "decoder": {**asdict(decoder.config), "sites": list(decoder.config.sites)}}
    progress = Progress(model.fingerprint, settings, rebalanced(np.zeros((len(sites), inputs.place_count)), 0.0).tolist())
    if out is not None:
        found = load_checkpoint(out / "checkpoints" / "last", settings, model.fingerprint, decoder, optimizers)
        progress = found or progress
        if accelerator.is_main_process:
            cut_metrics(out / "metrics.jsonl", progress.step)
    clock = Clock(config, progress, accelerator)
    done, row = clock.tick(), dict[str, Any]()
    while done < 1:
        loss, predicted, since = 0.0, 0, replace(progress)
        pool = pool_of_batches(
            model, inputs, sites, config, progress.pool, np.array(progress.weights),
            accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip
        for batch in pool:
            optim.set_rates(optimizers, base, optim.schedule(done, decay=config.decay))
            loss += step(wrapped, batch, optimizers, accelerator, decoder)
            predicted += batch.predicted
            progress.step += 1
            done = clock.tick()
            if done >= 1:
                break
        progress.pool += 1
        progress.pairs = progress.step * config.batch
        speed = (progress.pairs - since.pairs) / max(progress.seconds - since.seconds, 1e-9)
        row |= {"step": progress.step, "pairs": progress.pairs, "seconds": round(progress.seconds, 2),
                "loss": gather(loss, accelerator) / predicted, "pairs_per_second": round(speed, 1)}  # fmt: skip
        if int(min(done, 1.0) * config.evaluations) > progress.evaluated:
            row |= _rebalance(decoder, model, inputs, sites, config, progress, done)
            done = clock.tick()
        if out is not None and accelerator.is_main_process:
            append_metrics(out / "metrics.jsonl", row)
            save_checkpoint(out / "checkpoints" / "last", progress, decoder, optimizers)
        accelerator.wait_for_everyone()
        if report is not None:
            report(done, row)
    return decoder


def _rebalance(
    decoder: Decoder,
    model: ProbedModel,
    inputs: Inputs,
    sites: Sequence[Site],
    config: TrainConfig,
    progress: Progress,
    done: float,
) -> dict[str, Any]:
    """Measure the good ratio, re-weight sites and places by it, and return it as metrics.

    The new weights are averaged with the old, as a place is seen by few queries.
    """
    progress.evaluated = int(min(done, 1.0) * config.evaluations)
    seed = config.seed + progress.evaluated
    shares, places = good_shares(
        decoder, model, inputs, sites, epsilon=config.epsilon, queries=config.queries, samples=1, seed=seed
    )
    weights = rebalanced(by_place(shares, places, inputs.place_count), config.rebalance)
    progress.weights = ((weights + np.array(progress.weights)) / 2).tolist()
    return {"good_ratio": shares.mean(), "good_ratios": dict(zip(decoder.config.sites, shares.mean(1).tolist(), strict=True))}


def step(
    wrapped: torch.nn.Module,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
    accelerator: Accelerator,
    decoder: Decoder,
) -> float:
    """Make one optimiser step on this process' slice of a batch; return the slice's summed loss in nats."""
    device, total = accelerator.device, 0.0
    for number, group in enumerate(batch.groups):
        last = number == len(batch.groups) - 1
        here = Group(*(t.to(device, non_blocking=True) for t in group))
        with nullcontext() if last else accelerator.no_sync(wrapped):
            with accelerator.autocast():
                loss = loss_of(wrapped, here, decoder.config.pad, decoder.config.vocabulary)
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


def new_decoder(model: ProbedModel, inputs: Inputs, sites: Sequence[Site], *, seed: int = 0, **sizes: Any) -> Decoder:
    """Return an untrained decoder for some sites of a model, its activations' mean and whitening measured.

    Args:
        model: the probed model.
        inputs: what it will be trained on.
        sites: the sites it will decode.
        seed: of its initial weights.
        sizes: fields of ``DecoderConfig``: ``layers``, ``heads``, ``width``, ``pathway``, ``blocks``, ``occurrences``.
    """
    vocabulary = model.vocabulary
    torch.manual_seed(seed)
    config = DecoderConfig(
        sites=tuple(site.short for site in sites), d_model=model.shape.d_model,
        vocabulary=max(model.shape.vocabulary, vocabulary.size), max_length=inputs.max_length, bos=vocabulary.bos,
        eos=vocabulary.eos, pad=vocabulary.pad, fingerprint=model.fingerprint, model=model.name, **sizes,
    )  # fmt: skip
    decoder = Decoder(config)
    fit_whitening(decoder, model, inputs, sites, seed)
    return decoder.to(model.device)


def begin_from(decoder: Decoder, start: str | Path) -> None:
    """Copy the weights of another decoder for the same model, sites and sizes.

    Raises:
        MismatchError: it has another shape or belongs to another model.
    """
    other = Decoder.from_pretrained(start)
    mine, theirs = asdict(decoder.config), asdict(other.config)
    changed = sorted(k for k in mine if k != "model" and mine[k] != theirs[k])
    if changed:
        raise MismatchError(f"The decoder {start} cannot be begun from: it has another {', '.join(changed)}.")
    decoder.load_state_dict(other.state_dict())


def train(
    model: ProbedModel,
    inputs: Inputs,
    sites: str | Sequence[str | Site] = "*",
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    *,
    start: str | Path | None = None,
    report: Report | None = None,
    accelerator: Accelerator | None = None,
    **sizes: Any,
) -> Decoder:
    """Train a decoder for ``sites`` (patterns such as ``"a9.*"``) of ``model`` on ``inputs``.

    Args:
        model: the probed model.
        inputs: fresh inputs come from their train split.
        sites: one decoder serves all of them.
        config: length and recipe.
        out: folder for checkpoints, metrics and the decoder; an interrupted run in it goes on.
        start: begin from the weights of this decoder, a folder or hub name, of the same sites and sizes.
        report: called after every pool.
        accelerator: of Hugging Face Accelerate, where there are several processes.
        sizes: fields of ``DecoderConfig``.

    Raises:
        UnknownSiteError: a pattern matches no site.
        MismatchError: ``out`` holds a run of another model or with other settings, or ``start`` has another shape.
    """
    folder = None if out is None else Path(out)
    config = config or TrainConfig()
    decoder = new_decoder(model, inputs, expand(sites, model.sites), seed=config.seed, **sizes)
    if start is not None:
        begin_from(decoder, start)
    train_decoder(decoder, model, inputs, config, folder, report=report, accelerator=accelerator)
    if folder is not None and (accelerator is None or accelerator.is_main_process):
        with replacing(folder / "decoder") as temporary:
            decoder.save_pretrained(temporary)
    return decoder.eval()
