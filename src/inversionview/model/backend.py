"""What a probed model must be able to do, whichever code runs it.

Two implementations: ``gpt2.py``, a plain GPT-2 in a screen of PyTorch, quick to import and to run, for local GPT-2
checkpoints such as the shipped studies'; and ``bridge.py``, TransformerLens' ``TransformerBridge``, for every other causal LM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, autograd, device

from inversionview.model.cache import Alternatives, Extended, KeysValues
from inversionview.model.sites.attention import GATHERED
from inversionview.model.sites.kind import Kind, Tap, Widths
from inversionview.model.sites.site import REGISTRY, Site, Sites, all_sites

Norm = Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]
"""What vectors become on their way."""
Loss = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, " batch"]]
"""A number for each input from the activations of one site at all positions; rows must not mix."""
LogitLoss = Callable[[Float[Tensor, "batch pos vocabulary"]], Float[Tensor, " batch"]]
"""A number for each input from its logits; rows must not mix."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a causal LM."""

    heads: tuple[int, ...]
    """Attention heads of each layer."""
    d_model: int
    vocabulary: int
    """Rows of the embedding."""
    max_length: int
    """Longest input in tokens."""
    parallel: bool = False
    """Attention and MLP read the same residual stream, so ``x.mid`` does not exist."""
    lacking: Mapping[Kind, str] = field(default_factory=dict, hash=False)
    """Kinds of sites that are not what they should be in this model and so are not offered, and why; see ``soundness``."""
    steady: int | None = None
    """In longer texts than so many tokens, activations depend on how long the whole text is; ``None``: in none."""
    head_size: int = 0
    """Numbers of a head's query, key or value; 0 where heads divide d_model between them."""
    shared: int = 0
    """Heads of keys and values in a layer, where these are fewer than of queries; 0 where they are as many."""
    d_mlp: int = 0
    """Neurons of an MLP, the input of its last matrix; 0 where layers have none that is one matrix, as with experts."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values in a layer."""
        return self.shared or self.heads[0]

    @property
    def widths(self) -> Widths:
        """How many numbers its vectors have."""
        d_head = self.head_size or self.d_model // self.heads[0]
        return Widths(self.d_model, d_head, self.d_mlp, 0 if self._uneven else self.heads[0] * d_head)

    @property
    def _uneven(self) -> bool:
        """Whether layers have unlike numbers of heads."""
        return len(set(self.heads)) > 1

    @property
    def sites(self) -> Sites:
        """Every site of the usual kinds, in the order of computation; it knows of the others, too."""
        usual = all_sites(self, parallel=self.parallel)
        return Sites(usual, self.withheld, self, self.widths, parallel=self.parallel)

    @property
    def withheld(self) -> dict[Kind, str]:
        """Kinds of sites that are not offered, and why."""
        parallel = {kind.name: kind.serial for kind in REGISTRY if kind.serial and self.parallel}
        uneven = {GATHERED.name: "layers of this model have unlike numbers of heads"} if self._uneven else {}
        return {**self.lacking, **parallel, **uneven}


@dataclass(frozen=True)
class Patch:
    """Values that replace the activations of one site during a run."""

    positions: Int[Tensor, "row k"]
    values: Float[Tensor, "row k d_model"]
    rows: Int[Tensor, " row"] | None = None
    """Which inputs of the batch; ``None``: all, in order. An input may occur more than once, at other positions."""

    @property
    def index(self) -> tuple[Int[Tensor, "row 1"], Int[Tensor, "row k"]]:
        """Where the values go in the activations of the batch."""
        rows = torch.arange(len(self.positions), device=self.positions.device) if self.rows is None else self.rows
        return rows[:, None], self.positions

    def after(self, start: int) -> Patch:
        """Return the patch with positions counted from ``start``."""
        return Patch(self.positions - start, self.values, self.rows)

    def beside(self) -> Patch:
        """Return the patch of a token in each of its rows, where these tokens stand side by side in one sequence."""
        rows, _ = self.index
        return Patch(rows.T, self.values.swapaxes(0, 1))

    def of(self, rows: Int[Tensor, " row"]) -> Patch:
        """Return the patch of some inputs of the batch, which then are all of it."""
        own = torch.arange(len(self.positions), device=rows.device) if self.rows is None else self.rows.to(rows)
        here, number = (own[:, None] == rows).nonzero(as_tuple=True)
        return Patch(self.positions[here.to(self.positions.device)], self.values[here.to(self.values.device)], number)


def layers_run(shape: Shape, site: Site | None, logits: bool) -> int:
    """Return how many layers ``Backend.extend`` runs: up to the site, but at least one, so that a cache has a length."""
    if logits or site is None:
        return len(shape.heads)
    return min(max(1, site.tap.blocks), len(shape.heads))


def widest(shape: Shape, sites: Sequence[Site]) -> int:
    """Return how many numbers the longest vector of some sites has."""
    return max((site.numbers(shape.widths) for site in sites), default=shape.d_model)


def pulled(
    embedded: Float[Tensor, "batch pos d_model"], z: Float[Tensor, "batch pos d_model"], loss: Loss
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
    """Return ``loss(z)`` and the gradient of each input's loss with respect to its part of ``embedded``."""
    losses = loss(z)
    (gradient,) = autograd.grad(losses.sum(), embedded)
    return losses.detach(), gradient


class Backend(Protocol):
    """Runs one causal LM. Tokens come padded on either side; ``mask`` is true at real tokens.

    Position ids count real tokens only, so the side of the padding does not change an activation.
    """

    shape: Shape

    @property
    def device(self) -> device:
        """Where the weights lie."""
        ...

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """Return the activations of all ``sites`` at ``positions``, from one forward pass.

        Vectors of fewer numbers than the longest are followed by zeros. The pass stops after the last needed layer, and
        positions are selected before anything large is kept: a head's output is its slice of the input of W_O at those
        positions times its slice of W_O. ``mask=None``: no padding.
        """
        ...

    def read_into(
        self,
        out: Sequence[Float[Tensor, "batch k width"]],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
        maps: Mapping[Site, Float[Tensor, "d_head width"]],
    ) -> None:
        """Do what ``activations`` does, into ``out``, a tensor for each site; ``maps`` stand for some heads' slices of W_O."""
        ...

    @property
    def widths(self) -> Widths:
        """How many numbers its vectors have."""
        ...

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Return a view of a layer's W_O, a slice for each head."""
        ...

    def b_o(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Return the bias that a layer's attention adds to its heads' outputs; ``None`` where it adds none."""
        ...

    def attention_outputs(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        layers: Sequence[int],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "layer batch k d_model"]:
        """Return what the attention of some layers gives at ``positions``: the sum of its heads and its bias."""
        ...

    def entering(self, layer: int) -> Norm | None:
        """Return what becomes of the attention's output on its way into the residual stream; ``None``: it enters as it is.

        Gemma 2 and 3 and OLMo 2 and 3 norm it, Granite scales it. Heads are read before that, MLPs after it.
        """
        ...

    def reading(self, layer: int, tap: Literal["resid_pre", "resid_mid"]) -> Norm | None:
        """Return the norm under which a layer reads the residual stream at one of its taps; ``None``: as it is.

        OLMo 2 and 3 norm what they write alone, OPT-350M norms the stream itself.
        """
        ...

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """Return the next-token logits, with the activations of some sites replaced on the way."""
        ...

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return vectors of the residual stream under the model's last norm; as they are where it has none."""
        ...

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """Return the logits of normed vectors, with the head's bias if it has one.

        ``unembed(final_norm(x))`` of the last residual stream is ``logits``, up to a scale (Cohere, Granite, Falcon-H1)
        or a soft cap (Gemma 2) that a model puts on its logits at the very end.
        """
        ...

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """Return the attention pattern of a layer."""
        ...

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """Return the attention patterns of all layers at some query positions, from one forward pass."""
        ...

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """Return what each head of a layer writes if it attends to one token alone, whose residual stream is x (its OV)."""
        ...

    def gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, taps: Sequence[Tap], loss: LogitLoss
    ) -> Float[Tensor, "tap batch pos d_model"]:
        """Return the gradient of each input's loss with respect to the values of some taps of d_model numbers.

        A head's output is a term of ``attn_out``, so the gradient with respect to that is the one of each head, too.
        """
        ...

    def extend(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None,
        site: Site | None,
        *,
        logits: bool = True,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        """Run ``tokens`` after those that ``cache`` holds, from which positions count on, as one run of all would.

        ``patches`` replace activations of the new tokens, at positions counted from the first of all.

        There is no padding on the left; on the right any ids may stand, which causality hides. Without ``logits`` the run
        stops after the layer of ``site`` (at the last layer without one), and the cache has the layers up to there.

        Raises:
            SettingError: ``cache`` holds fewer layers than are run.
        """
        ...

    def variants(
        self, token: Int[Tensor, ""], cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
    ) -> Float[Tensor, "row vocabulary"]:
        """Return the logits after one more token, in so many runs that differ in ``patches`` alone, which name their rows.

        That is what ``extend`` gives for copies of ``cache``, which is of one sequence; here none is copied where that can be
        helped: the tokens are run side by side as one sequence, in which none sees another.
        """
        ...

    def alternatives(self, tokens: Int[Tensor, " token"], cache: KeysValues | None, site: Site) -> Alternatives:
        """Run each of some tokens by itself after the sequence that ``cache`` holds, no further than ``site``.

        That is what ``extend`` gives for copies of ``cache``; it takes less where these need not be made.
        """
        ...

    def pull(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """Return each input's ``loss`` of the site's activations, and its gradient with respect to the token embeddings.

        That is the output of the token embedding layer; nothing behind the site is computed, weights get no gradient.
        """
        ...

    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """Return what the token embedding layer gives for every id, as ``pull`` differentiates it.

        ``(embeddings[v] - embeddings[x_t]) @ gradient[t]`` is the first-order change of the loss when token t becomes v.
        """
        ...

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its name, for the fingerprint."""
        ...
