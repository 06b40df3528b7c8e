"""Any causal LM, run through TransformerLens' ``TransformerBridge``, with the weights of the checkpoint as they are.

Stands beside ``gpt2.py``, which is quicker but runs GPT-2 alone; both fulfil ``backend.Backend``. The bridge knows
where in each architecture the sites lie; ``bridge_hooks.py`` reads and writes there; this file says why a model will not load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from inversionview.core.errors import WeightsError
from inversionview.model.architectures import opened
from inversionview.model.backend import LogitLoss, Loss, Norm, Patch, Shape, pulled
from inversionview.model.bridge_extension import continues, from_keys_and_values, from_tokens
from inversionview.model.bridge_hooks import HookedBridge, stop
from inversionview.model.bridge_parts import parts_of
from inversionview.model.bridge_variants import beside_up_to, side_by_side
from inversionview.model.cache import Alternatives, Extended, KeysValues
from inversionview.model.loading import first_line, load_causal_lm, quiet
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site
from inversionview.model.steady import steady_length

_TRIED = 12
"""Tokens on which the bridge is held against the model itself."""


class BridgeBackend(HookedBridge):
    """A causal LM with its sites laid open."""

    def __init__(self, hf_model: Any, bridge: Any = None) -> None:
        """Wrap a Hugging Face causal LM, in place: its submodules become the bridge's, its weights are not touched.

        Args:
            hf_model: the model.
            bridge: the ``TransformerBridge`` around it, where there is one already.

        Raises:
            WeightsError: TransformerLens has no bridge for this architecture, or one that lacks some of the sites.
        """
        architecture = type(hf_model).__name__
        super().__init__(hf_model)
        vocabulary = self._like.size(0)
        try:
            with quiet():
                tried = torch.arange(_TRIED, device=self.device).remainder(vocabulary)[None]
                with torch.no_grad():
                    own = hf_model.eval()(tried, use_cache=False).logits
                steady = steady_length(hf_model)
                hf_model.set_attn_implementation("eager")  # the others keep no attention pattern
                self.bridge = opened(hf_model, architecture) if bridge is None else bridge
            self.bridge.eval()
            heads, length = int(self.bridge.cfg.n_heads), int(self.bridge.cfg.n_ctx)
            parallel = not hasattr(self.bridge.blocks[0], "hook_resid_mid")
            size, d_model = self.w_o(0).shape[1:]
            layers = (heads,) * len(self.bridge.blocks)
            self.shape = Shape(layers, d_model, vocabulary, length, parallel, steady=steady, head_size=size)
            self._try_out()
            self.shape = replace(self.shape, **parts_of(self))
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
            name_or_path,
            dtype=dtype,
            gguf_file=gguf_file,
            trust_remote_code=trust_remote_code,
            tokenizer_lies_elsewhere=tokenizer_lies_elsewhere,
            attention="eager",
        )
        return cls(model.to(device)), tokenizer

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its Hugging Face name, sorted; tied weights once."""
        return ((name, weight.detach()) for name, weight in self._weights)

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""
        norm = getattr(self.bridge, "ln_final", None)  # OpenAI's first GPT ends without one
        return x if norm is None else self.through(norm, x)

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``. OPT-350M embeds in fewer dimensions than its stream has, and goes back to them first."""
        narrowed = getattr(self.bridge, "project_out", None)
        return self.through(self.bridge.unembed, x if narrowed is None else self.through(narrowed, x))

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """See ``Backend.attention``."""

        found = []

        def read(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
            found.append(pattern)
            raise StopAtLayerException(pattern)

        self.run(tokens, mask, [(self.bridge.blocks[layer].attn.hook_pattern, read)])
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

        self.run(tokens, mask, [(point, read) for point in points])
        return torch.stack([found[point] for point in points])

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """See ``Backend.attended``: a sequence of one token attends to nothing else."""
        first = torch.zeros(len(x), 1, dtype=torch.long, device=self.device)
        found: list[Float[Tensor, "batch 1 *width"]] = []

        def read(value: Float[Tensor, "batch 1 *width"], hook: Any) -> None:
            found.append(value)
            raise StopAtLayerException(value)

        hooks = self.writers(Site(layer, "pre"), Patch(first, x[:, None]))
        self.run(first, None, [*hooks, (self.point(Tap(layer, "attn_z")), read)])
        w_o = self.w_o(layer)
        return torch.einsum("bhi,hid->hbd", found[0].reshape(len(x), *w_o.shape[:2]), w_o)

    def gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, taps: Sequence[Tap], loss: LogitLoss
    ) -> Float[Tensor, "tap batch pos d_model"]:
        """See ``Backend.gradients``. That of x.mid is the one of what the attention adds, for the residual stream passes by."""
        found: dict[Any, Float[Tensor, "batch pos d_model"]] = {}
        points = [self.bridge.blocks[t.layer].hook_attn_out if t.name == "resid_mid" else self.point(t) for t in taps]

        def read(value: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            found[hook] = value

        with self.embedded(), torch.enable_grad():
            out = self.run(tokens, mask, [(point, read) for point in dict.fromkeys(points)], grad=True)
            return torch.stack(torch.autograd.grad(loss(out).sum(), [found[point] for point in points]))

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
        run = from_keys_and_values if self._continues else from_tokens
        return run(self, tokens, cache, site, logits, patches)

    def variants(
        self, token: Int[Tensor, ""], cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
    ) -> Float[Tensor, "row vocabulary"]:
        """See ``Backend.variants``."""
        if cache is not None and cache.length < self._beside:
            return side_by_side(self, token, cache, rows, patches)
        before = None if cache is None else cache.repeated(rows)
        out = self.extend(token.expand(rows, 1), before, None, patches=patches).logits
        assert out is not None
        return out[:, 0]

    def alternatives(self, tokens: Int[Tensor, " token"], cache: KeysValues | None, site: Site) -> Alternatives:
        """See ``Backend.alternatives``: of every token a copy of the cache is run."""
        out = self.extend(tokens[:, None], None if cache is None else cache.repeated(len(tokens)), site, logits=False)
        assert out.activations is not None
        return Alternatives(out.activations[:, 0], lambda which: out.cache.rows(torch.tensor([which])))

    @cached_property
    def _beside(self) -> int:
        return beside_up_to(self) if self._continues else 0

    @cached_property
    def _continues(self) -> bool:
        return continues(self)

    def pull(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """See ``Backend.pull``."""
        found: list[Float[Tensor, "batch pos d_model"]] = []
        with self.embedded() as leaves, torch.enable_grad():
            self.run(tokens, mask, [self.reader(site, found), (self.point(site.tap), stop)], grad=True)
            return pulled(leaves[0], found[0], loss)

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

        self.run(token, None, [(point, read) for point in unread])
        if unread:
            raise LookupError(f"{len(unread)} attention patterns are never reached")

    def b_o(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """See ``Backend.b_o``."""
        return self.linear(self.bridge.blocks[layer].attn.o.original_component)[1]

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

        self.run(tokens, mask, [(point, read) for point in set(points)])
        return torch.stack([found[point] for point in points])

    def entering(self, layer: int) -> Norm | None:
        """See ``Backend.entering``."""
        block = self.bridge.blocks[layer]
        norm, scale = getattr(block, "ln1_post", None), float(getattr(block, "residual_contribution_scale", 1.0))
        if norm is not None:
            return partial(self.through, norm)
        return None if scale == 1.0 else partial(torch.mul, torch.tensor(scale))

    def reading(self, layer: int, tap: Literal["resid_pre", "resid_mid"]) -> Norm | None:
        """See ``Backend.reading``."""
        norm = self.readers.get(Tap(layer, tap))
        return None if norm is None else partial(self.through, norm)
