"""Whether a model's weights are still those that were laid open, told without reading them."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

State = tuple[Any, ...]


class Version:
    """The state of a model in memory as it was laid open.

    PyTorch counts how often a tensor was changed in place, as an optimiser's step and ``load_state_dict`` do; another tensor in
    its place, and adapters that are merged, switched or disabled, are seen too. A change through ``.data`` is not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._state = weakref.ref(model), _state(model)

    @property
    def changed(self) -> bool:
        """Whether the model has changed since; one that is gone has not."""
        model = self._model()
        return model is not None and _state(model) != self._state


def _state(model: nn.Module) -> State:
    tensors = [(id(weight), _changes(weight)) for weight in model.parameters()]
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "merged_adapters")]
    adapters = [(tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters) for layer in layers]
    return (*tensors, *adapters)


def _changes(weight: Tensor) -> int:
    try:
        return int(weight._version)
    except RuntimeError:  # tensors made in inference mode are not counted
        return 0
