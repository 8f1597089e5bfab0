"""A moving average of the weights that a loop trains."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average, in float32, of the parameters that take gradients.

    Codebooks and running statistics take none: they are moving averages already. At the beginning the average is over
    fewer updates, so that it does not hold on to the initial weights.

    Args:
        model: whose weights are averaged.
        decay: weight of the earlier average, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: part for name, part in model.named_parameters() if part.requires_grad}
        self._values = {name: part.detach().float().clone() for name, part in self._parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after so many updates."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        for name, value in self._values.items():
            value.lerp_(self._parameters[name].detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the weights of the model by the average."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._values[name])

    @torch.no_grad()
    def copy_from_model(self) -> None:
        """Replace the average by the weights of the model."""
        for name, parameter in self._parameters.items():
            self._values[name].copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        raw = {name: part.detach().clone() for name, part in self._parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(raw[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The average, by the names of the parameters."""
        return dict(self._values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            LookupError: if a parameter is missing.
            RuntimeError: if one has another shape.
        """
        for name, value in self._values.items():
            value.copy_(state[name])
