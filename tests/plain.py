"""A Hugging Face model run one input at a time, read and written to by hooks: what patching must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Write = tuple[str, int, Tensor]
"""A site, a position, and the vector that is put there."""


class Plain:
    """GPT-2 or Llama; sites are ``embed``, ``pos_embed``, ``x0.pre``, ``x0.mid``, ``x0.post``, ``m0``, ``a0.1``."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.gpt2 = hasattr(model, "transformer")
        self.blocks = model.transformer.h if self.gpt2 else model.model.layers
        self.heads = model.config.num_attention_heads

    def output(self, layer: int) -> Any:
        """The linear map W_O of a layer."""
        return self.blocks[layer].attn.c_proj if self.gpt2 else self.blocks[layer].self_attn.o_proj

    def contribution(self, z: Tensor, layer: int, head: int) -> Tensor:
        """What a head adds: its slice of the input of W_O times its slice of W_O."""
        matrix = self.output(layer).weight if self.gpt2 else self.output(layer).weight.T
        width = len(matrix) // self.heads
        mine = slice(head * width, (head + 1) * width)
        return z[..., mine] @ matrix[mine]

    @torch.no_grad()
    def run(self, ids: Sequence[int], writes: Sequence[Write] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``[pos, vocabulary]`` and what was at every site ``[pos, d_model]``, writing some of it on the way."""
        seen: dict[str, Tensor] = {}

        def put(site: str, x: Tensor) -> Tensor:
            """Write at a site and note it; x is [1, pos, d_model] or [pos, d_model]."""
            new = x.clone()
            for where, position, vector in writes:
                if where == site:
                    new[..., position, :] = vector
            seen[site] = new.reshape(-1, new.shape[-1])
            return new

        def first(value: Any, new: Tensor) -> Any:
            return (new, *value[1:]) if isinstance(value, tuple) else new

        with ExitStack() as stack:

            def after(module: Any, hook: Any) -> None:
                stack.enter_context(_removed(module.register_forward_hook(hook)))

            embedding = self.model.transformer.wte if self.gpt2 else self.model.model.embed_tokens
            after(embedding, lambda m, a, out: put("embed", out))
            if self.gpt2:
                after(self.model.transformer.wpe, lambda m, a, out: put("pos_embed", out))
            for i, block in enumerate(self.blocks):

                def before(m: Any, args: Any, kwargs: Any, i: int = i) -> Any:
                    return (put(f"x{i}.pre", args[0]), *args[1:]), kwargs

                def mapped(m: Any, args: Any, out: Tensor, i: int = i) -> Tensor:
                    for h in range(self.heads):
                        own = self.contribution(args[0], i, h)
                        out = out + put(f"a{i}.{h}", own) - own
                    return out

                def attended(m: Any, args: Any, out: Any, i: int = i) -> Any:
                    stream = seen[f"x{i}.pre"]
                    added = out[0] if isinstance(out, tuple) else out
                    new = put(f"x{i}.mid", stream + added)
                    return first(out, new - stream)

                def fed(m: Any, args: Any, out: Tensor, i: int = i) -> Tensor:
                    return put(f"m{i}", out)

                def left(m: Any, args: Any, out: Any, i: int = i) -> Any:
                    return first(out, put(f"x{i}.post", out[0] if isinstance(out, tuple) else out))

                stack.enter_context(_removed(block.register_forward_pre_hook(before, with_kwargs=True)))
                after(self.output(i), mapped)
                after(block.attn if self.gpt2 else block.self_attn, attended)
                after(block.mlp, fed)
                after(block, left)
            logits = self.model(torch.tensor([list(ids)])).logits[0]
        return logits.double(), seen

    def differences(
        self, original: Sequence[int], contrast: Sequence[int], read: int, contrast_read: int, answers: Sequence[int],
        sets: Sequence[Sequence[tuple[str, Sequence[int], Sequence[int]]]],
    ) -> tuple[float, float, list[float]]:  # fmt: skip
        """Return LD of the original run, of the contrast run, and with each set of (site, positions, contrast's) replaced."""

        def ld(logits: Tensor, at: int) -> float:
            return float(logits[at, answers[0]] - logits[at, answers[1]])

        clean, _ = self.run(original)
        other, theirs = self.run(contrast)
        patched = []
        for members in sets:
            writes = [(site, o, theirs[site][c]) for site, own, their in members for o, c in zip(own, their, strict=True)]
            patched.append(ld(self.run(original, writes)[0], read))
        return ld(clean, read), ld(other, contrast_read), patched


@contextmanager
def _removed(handle: Any) -> Any:
    yield
    handle.remove()


def real(row: Any, pad: int) -> list[int]:
    """The tokens of a row without the padding."""
    return [int(i) for i in row if i != pad]
