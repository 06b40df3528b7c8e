"""Any causal LM, run through TransformerLens' ``TransformerBridge``, with the weights of the checkpoint as they are.

Stands beside ``gpt2.py``, which is quicker but runs GPT-2 alone; both fulfil ``backend.Backend``. The bridge knows
where in each architecture the sites lie; this file reads and writes there, and says why a model will not load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from inversionview.architectures import opened, steady_length
from inversionview.backend import Extended, KeysValues, LogitLoss, Loss, Norm, Patch, Shape, layers_run, pulled
from inversionview.errors import WeightsError
from inversionview.loading import first_line, load_causal_lm, quiet
from inversionview.sites import Site, Tap

_Hook = tuple[Any, Callable[..., Tensor | None]]
"""A TransformerLens ``HookPoint`` and a hook for it, called as ``hook(tensor, hook=hook_point)``."""
_Hooks = list[_Hook]
_POINTS = {
    "resid_pre": attrgetter("hook_resid_pre"),
    "attn_z": attrgetter("attn.o.hook_in"),
    "attn_out": attrgetter("attn.o.hook_out"),
    "resid_mid": attrgetter("hook_resid_mid"),
    "mlp_out": attrgetter("hook_mlp_out"),
    "resid_post": attrgetter("hook_resid_post"),
}
"""Where a block of the bridge has its taps."""
_TRIED = 12
"""Tokens on which the bridge is held against the model itself."""


class BridgeBackend:
    """A causal LM with its sites laid open.

    Attributes:
        shape: its dimensions.
        bridge: the ``TransformerBridge``; no weight is folded or centred.
    """

    def __init__(self, hf_model: Any) -> None:
        """Wrap a Hugging Face causal LM, in place: its submodules become the bridge's, its weights are not touched.

        Raises:
            WeightsError: TransformerLens has no bridge for this architecture, or one that lacks some of the sites.
        """
        architecture = type(hf_model).__name__
        self._weights = sorted(hf_model.named_parameters(), key=lambda item: item[0])  # the bridge will rename them
        self._embedding = hf_model.get_input_embeddings()
        vocabulary = self._embedding.weight.size(0)
        try:
            with quiet():
                tried = torch.arange(_TRIED, device=self.device).remainder(vocabulary)[None]
                with torch.no_grad():
                    own = hf_model.eval()(tried, use_cache=False).logits
                steady = steady_length(hf_model)
                hf_model.set_attn_implementation("eager")  # the others keep no attention pattern
                self.bridge = opened(hf_model, architecture)
            self.bridge.eval()
            heads, length = int(self.bridge.cfg.n_heads), int(self.bridge.cfg.n_ctx)
            parallel = not hasattr(self.bridge.blocks[0], "hook_resid_mid")
            self.shape = Shape(
                (heads,) * len(self.bridge.blocks), self.w_o(0).size(-1), vocabulary, length, parallel, steady=steady
            )
            self._try_out()
            off = float((self.logits(tried, None) - own).norm() / own.norm())
            if bool(torch.isfinite(own).all()) and not off <= torch.finfo(own.dtype).eps ** 0.5:  # else that is told later
                raise LookupError(f"its logits differ from the model's own by {off:.0%}")
        except Exception as error:  # an unknown architecture, or a hook point that its bridge lacks or never reaches
            raise WeightsError(
                f"TransformerLens' bridge cannot lay open the activations of {architecture} ({first_line(error)}): "
                "choose a causal LM of another architecture, such as GPT-2, Llama, Qwen, Gemma or Pythia."
            ) from error

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        tokenizer_lies_elsewhere: bool = False,
    ) -> tuple[BridgeBackend, Any]:
        """Load a Hugging Face directory, a hub name, or a GGUF file, and its ``AutoTokenizer``.

        Args:
            name_or_path: what to load; a path that ends in ``.gguf`` is a GGUF file.
            device: where the model shall run.
            dtype: the weights' type.
            gguf_file: name of a GGUF file inside the directory.
            trust_remote_code: run Python code that comes with the model.
            tokenizer_lies_elsewhere: give ``None`` in place of the tokenizer where there is none.

        Raises:
            WeightsError: there is no such model, or its files are truncated, foreign, or would run code.
        """
        model, tokenizer = load_causal_lm(
            name_or_path, dtype=dtype, gguf_file=gguf_file, trust_remote_code=trust_remote_code,
            tokenizer_lies_elsewhere=tokenizer_lies_elsewhere, attention="eager",
        )  # fmt: skip
        return cls(model.to(device)), tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._weights[0][1].device

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its Hugging Face name, sorted; tied weights once."""
        return ((name, weight.detach()) for name, weight in self._weights)

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """See ``Backend.activations``."""
        out = self._weights[0][1].new_empty(len(sites), *positions.shape, self.shape.d_model)
        self.read_into(out, tokens, mask, sites, positions, {})
        return out

    def read_into(
        self,
        out: Sequence[Float[Tensor, "batch k width"]],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
        maps: Mapping[Site, Float[Tensor, "d_head width"]],
    ) -> None:
        """See ``Backend.read_into``."""
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        waiting: dict[Any, list[int]] = {}  # for each hook point, which of the sites are read there
        for i, site in enumerate(sites):
            waiting.setdefault(self._point(site.tap), []).append(i)

        def read(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            here = value[rows, positions]
            for i in waiting.pop(hook):
                out[i][:] = sites[i].read(here, maps[sites[i]] if sites[i] in maps else sites[i].matrix(self))
            if not waiting:
                raise StopAtLayerException(value)  # the bridge's forward catches it

        if sites:
            self._run(tokens, mask, [(point, read) for point in waiting])
        if waiting:
            raise LookupError(f"{sites[next(iter(waiting.values()))[0]]} is never reached")

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """See ``Backend.logits``. Patching a head adds new − old to the output of the attention layer."""
        return self._run(tokens, mask, self._patched(patches))

    def _patched(self, patches: Mapping[Site, Patch] | None) -> _Hooks:
        """Return the hooks of all patches, in the order of computation."""
        ordered = sorted((patches or {}).items(), key=lambda item: item[0])
        return [hook for site, patch in ordered for hook in self._patch_hooks(site, patch)]

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""
        norm = getattr(self.bridge, "ln_final", None)  # OpenAI's first GPT ends without one
        return x if norm is None else self._through(norm, x)

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``. OPT-350M embeds in fewer dimensions than its stream has, and goes back to them first."""
        narrowed = getattr(self.bridge, "project_out", None)
        return self._through(self.bridge.unembed, x if narrowed is None else self._through(narrowed, x))

    @torch.no_grad()
    def _through(self, part: Any, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Run the Hugging Face module behind a part of the bridge, without the bridge's hooks."""
        out: Tensor = part.original_component(x.to(self._weights[0][1]))
        return out

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """See ``Backend.attention``."""

        found = []

        def read(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
            found.append(pattern)
            raise StopAtLayerException(pattern)

        self._run(tokens, mask, [(self.bridge.blocks[layer].attn.hook_pattern, read)])
        return found[0]

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """See ``Backend.patterns``."""
        found: dict[Any, Float[Tensor, "batch head k key"]] = {}
        points = [block.attn.hook_pattern for block in self.bridge.blocks]
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]

        def read(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
            found[hook] = pattern[rows, :, positions].transpose(1, 2)
            if len(found) == len(points):
                raise StopAtLayerException(pattern)

        self._run(tokens, mask, [(point, read) for point in points])
        return torch.stack([found[point] for point in points])

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """See ``Backend.attended``: a sequence of one token attends to nothing else."""
        first = torch.zeros(len(x), 1, dtype=torch.long, device=self.device)
        found: list[Float[Tensor, "batch 1 *width"]] = []

        def read(value: Float[Tensor, "batch 1 *width"], hook: Any) -> None:
            found.append(value)
            raise StopAtLayerException(value)

        hooks = self._patch_hooks(Site(layer, "pre"), Patch(first, x[:, None]))
        self._run(first, None, [*hooks, (self._point(Tap(layer, "attn_z")), read)])
        w_o = self.w_o(layer)
        return torch.einsum("bhi,hid->hbd", found[0].reshape(len(x), *w_o.shape[:2]), w_o)

    def attention_gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, loss: LogitLoss
    ) -> Float[Tensor, "layer batch pos d_model"]:
        """See ``Backend.attention_gradients``."""
        found: list[Float[Tensor, "batch pos d_model"]] = []

        def read(value: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            found.append(value)

        with self._embedded(), torch.enable_grad():
            out = self._run(tokens, mask, [(block.attn.o.hook_out, read) for block in self.bridge.blocks], grad=True)
            return torch.stack(torch.autograd.grad(loss(out).sum(), found))

    def extend(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None,
        site: Site | None,
        *,
        logits: bool = True,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        """See ``Backend.extend``. A model that does not continue from keys and values runs all tokens again."""
        run = self._continue if self._continues else self._again
        return run(tokens, cache, site, logits, patches)

    def _continue(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None,
        site: Site | None,
        logits: bool,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        layers = layers_run(self.shape, site, logits)
        past = DynamicCache() if cache is None else _dynamic(cache.layers(layers))
        found: list[Float[Tensor, "batch new d_model"]] = []
        start = 0 if cache is None else cache.length
        hooks = self._patched({where: patch.after(start) for where, patch in (patches or {}).items()})
        hooks += [] if site is None else [self._reader(site, found)]
        if not logits:
            last = site.tap if site and site != Site(0, "pre") else Tap(layers - 1, "resid_post")
            hooks.append((self._point(last), _stop))
        out = self._run(tokens, None, hooks, past)
        run = past.layers[:layers]
        kept = KeysValues([layer.keys for layer in run], [layer.values for layer in run])
        return Extended(found[0] if found else None, out if logits else None, kept)

    def _again(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None,
        site: Site | None,
        logits: bool,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        """Do what ``_continue`` does from the tokens alone, which it keeps for that."""
        every = tokens if cache is None else torch.cat([cache.keys[0][:, 0, :, 0], tokens], dim=1)
        new = torch.arange(every.size(1) - tokens.size(1), every.size(1), device=every.device).expand(len(tokens), -1)
        z = None if site is None else self.activations(every, None, [site], new)[0]
        out = self.logits(every, None, patches)[:, -tokens.size(1) :] if logits else None
        return Extended(z, out, KeysValues([every[:, None, :, None]], []))

    @cached_property
    def _continues(self) -> bool:
        """Whether the model, run in two pieces with keys and values between, computes what it does in one."""
        tokens = torch.arange(12, device=self.device).remainder(self.shape.vocabulary).view(2, 6)
        whole = self.logits(tokens, None)[:, 4:]
        try:
            with quiet():
                first = self._continue(tokens[:, :4], None, None, True).cache
                parts = self._continue(tokens[:, 4:], first, None, True).logits
                assert parts is not None
        except Exception:  # whatever an architecture without a plain cache does with one
            return False
        return bool((parts - whole).norm() <= torch.finfo(whole.dtype).eps ** 0.5 * whole.norm())

    def pull(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """See ``Backend.pull``."""
        found: list[Float[Tensor, "batch pos d_model"]] = []
        with self._embedded() as leaves, torch.enable_grad():
            self._run(tokens, mask, [self._reader(site, found), (self._point(site.tap), _stop)], grad=True)
            return pulled(leaves[0], found[0], loss)

    @contextlib.contextmanager
    def _embedded(self) -> Iterator[list[Float[Tensor, "batch pos d_model"]]]:
        """Begin graphs at the token embeddings, which are put into the list that is given."""
        leaves: list[Float[Tensor, "batch pos d_model"]] = []

        def cut(module: Any, args: Any, embedded: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            leaves.append(embedded.detach().requires_grad_())
            return leaves[-1]

        handle = self._embedding.register_forward_hook(cut)
        try:
            yield leaves
        finally:
            handle.remove()

    @torch.no_grad()
    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """See ``Backend.embeddings``."""
        out: Tensor = self._embedding(torch.arange(self.shape.vocabulary, device=self.device))
        return out

    def _try_out(self) -> None:
        """Read everything once on one token, so that an architecture that hides a site is refused on loading."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self.activations(token, None, self.shape.sites, token)
        unread = {block.attn.hook_pattern for block in self.bridge.blocks}

        def read(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
            unread.discard(hook)

        self._run(token, None, [(point, read) for point in unread])
        if unread:
            raise LookupError(f"{len(unread)} attention patterns are never reached")

    def _run(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        hooks: _Hooks,
        past: DynamicCache | None = None,
        grad: bool = False,
    ) -> Tensor:
        """Return the logits, unless a hook stops the run. The bridge derives the position ids from the mask.

        ``past`` is what the tokens follow; their keys and values are added to it.
        """
        if mask is not None:
            tokens = tokens.masked_fill(~mask, 0)  # the padding id may lie outside the embedding
        try:
            for point, hook in hooks:
                point.add_hook(hook)
            with torch.set_grad_enabled(grad):  # not inference_mode: decoders are trained on these activations
                more: dict[str, Any] = {"use_cache": False} if past is None else {"past_key_values": past}
                if mask is not None and self.shape.steady is not None:  # else padding would count as length
                    more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
                out: Tensor = self.bridge(tokens, attention_mask=None if mask is None else mask.long(), **more)
            return out
        finally:
            for point, _ in hooks:
                point.remove_hooks()

    def _reader(self, site: Site, found: list[Float[Tensor, "batch pos d_model"]]) -> _Hook:
        """Return a hook that puts the activations of ``site`` at all positions into ``found``."""

        def read(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            z = site.read(value, site.matrix(self))
            found.append(value.clone() if z is value else z)

        return self._point(site.tap), read

    def _point(self, tap: Tap) -> Any:
        """Return the hook point of a tap."""
        return _POINTS[tap.name](self.bridge.blocks[tap.layer])

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""
        linear = self.bridge.blocks[layer].attn.o.original_component
        matrix = linear.weight if isinstance(linear, Conv1D) else linear.weight.T
        return matrix.detach().unflatten(0, (int(self.bridge.cfg.n_heads), -1))

    def b_o(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """See ``Backend.b_o``."""
        bias = self.bridge.blocks[layer].attn.o.original_component.bias
        return None if bias is None else bias.detach()

    @torch.no_grad()
    def attention_outputs(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        layers: Sequence[int],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "layer batch k d_model"]:
        """See ``Backend.attention_outputs``."""
        found: dict[Any, Float[Tensor, "batch k d_model"]] = {}
        points = [self.bridge.blocks[layer].attn.o.hook_out for layer in layers]
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]

        def read(value: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            found[hook] = value[rows, positions]
            if len(found) == len(set(points)):
                raise StopAtLayerException(value)

        self._run(tokens, mask, [(point, read) for point in set(points)])
        return torch.stack([found[point] for point in points])

    def entering(self, layer: int) -> Norm | None:
        """See ``Backend.entering``."""
        block = self.bridge.blocks[layer]
        norm, scale = getattr(block, "ln1_post", None), float(getattr(block, "residual_contribution_scale", 1.0))
        if norm is not None:
            return partial(self._through, norm)
        return None if scale == 1.0 else partial(torch.mul, torch.tensor(scale))

    def _patch_hooks(self, site: Site, patch: Patch) -> _Hooks:
        """Return hooks that write at ``site``.

        x.mid is written as what the attention adds to x.pre: the bridge's ``hook_resid_mid`` is the input of the MLP's
        norm, which the residual stream passes by.
        """
        at, matrix = patch.index, site.matrix(self)
        kept: list[Float[Tensor, "batch k d_model"]] = []

        def keep(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            kept.append(site.read(value[at], matrix))

        def keep_all(value: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            kept.append(value[at])

        def write(value: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            x, new = value[at], patch.values.to(value)
            return value.index_put(at, site.write(x, new, kept.pop() if kept else site.read(x, matrix)))

        def write_added(value: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            before, new = kept.pop(), patch.values.to(value)
            x = before + value[at]
            return value.index_put(at, site.write(x, new, site.read(x, matrix)) - before)

        if site.written.name == "resid_mid":
            block = self.bridge.blocks[site.layer]
            return [(block.hook_resid_pre, keep_all), (block.hook_attn_out, write_added)]
        if site.written != site.tap:
            return [(self._point(site.tap), keep), (self._point(site.written), write)]
        return [(self._point(site.tap), write)]


def _stop(value: Tensor, hook: Any) -> None:
    raise StopAtLayerException(value)  # the bridge's forward catches it


def _dynamic(cache: KeysValues) -> DynamicCache:
    """Return a Hugging Face cache that holds a copy of ``cache``; all layers whole, those of a sliding window too."""
    past = DynamicCache()
    for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
        past.update(keys, values, layer)
    return past
