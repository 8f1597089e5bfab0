"""Updates of a module's weights: Adam, a learning-rate schedule, clipped gradients, exact resume."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from worldgym import parallel
from worldgym.errors import TrainingError
from worldgym.storage.optimizer import load_optimizer_state_dict, optimizer_state_dict
from worldgym.storage.tensors import Tensors

SLOW_FACTOR = 0.1
"""Learning rate of the slow part of a module, as a share of that of the other parts."""


class Updater:
    """Updates the weights of one module with AdamW.

    Args:
        module: its parameters that require gradients are updated.
        learning_rate: the largest one.
        schedule: from the number of updates before, the factor by which ``learning_rate`` is multiplied.
        clip_norm: gradients whose norm is larger are scaled down to it.
        weight_decay: of matrices; none of norms, biases, embeddings and the slow part (paper, appendix A.2).
        slow: a part of the module that learns at :data:`SLOW_FACTOR` times the rate, if any.

    Attributes:
        updates: number of updates done.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        schedule: Callable[[int], float],
        clip_norm: float,
        weight_decay: float = 0.0,
        slow: nn.Module | None = None,
    ) -> None:
        self.updates = 0
        self._name, self._parameters = type(module).__name__, dict(module.named_parameters())
        groups = _parameter_groups(module, learning_rate, weight_decay, slow)
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        self._rate, self._schedule, self._clip_norm = learning_rate, schedule, clip_norm
        self._scheduler = LambdaLR(self._optimizer, schedule)
        self._loss: Tensor | None = None  # of what was added since the last update

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self._scheduler.get_last_lr()[0])

    def add(self, loss: Tensor) -> None:
        """Add the gradient of a term of the loss, a scalar, for the next update."""
        if self._loss is None:
            self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def update(self, loss: Tensor | None = None) -> float:
        """Update the weights once, by the mean gradient of all processes.

        Args:
            loss: scalar; None if all of it was given to :meth:`add`.

        Returns:
            The norm of the gradient.

        Raises:
            TrainingError: if the loss or its gradient is not finite; no weight is changed then.
        """
        if loss is not None:
            self.add(loss)
        assert self._loss is not None, "expected a loss"
        loss, self._loss = self._loss.clone(), None
        gradients = [part.grad for part in self._parameters.values() if part.grad is not None]
        parallel.mean_([loss, *gradients])
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm).item()
        if not math.isfinite(loss.item()) or not math.isfinite(norm):
            raise TrainingError(
                f"Training diverged at update {self.updates} of {self._name}: expected a finite loss and gradient, got "
                f"loss {loss.item()} and gradient norm {norm}. Restart from an earlier checkpoint, or start a new run "
                f"with a learning rate below {self._rate}"
            )
        self._optimizer.step()
        self._scheduler.step()
        self.updates += 1
        return norm

    def state_dict(self) -> Tensors:
        """State of the optimizer; the weights and ``updates`` are left to the owner of the module."""
        return optimizer_state_dict(self._optimizer, self._parameters)

    def load_state_dict(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Inverse of :meth:`state_dict`.

        Args:
            state: the state.
            updates: number of updates done.

        Raises:
            CheckpointError: if the state does not fit the module.
        """
        load_optimizer_state_dict(self._optimizer, self._parameters, state)
        self._scheduler = LambdaLR(self._optimizer, self._schedule, last_epoch=updates - 1)
        self.updates = updates


def _parameter_groups(
    module: nn.Module, learning_rate: float, weight_decay: float, slow: nn.Module | None
) -> list[dict[str, Any]]:
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    slow_parameters = [] if slow is None else list(slow.parameters())
    slow_ids = {id(parameter) for parameter in slow_parameters}
    others = [part for part in module.parameters() if part.requires_grad and id(part) not in slow_ids]
    decayed = [part for part in others if part.ndim > 1 and id(part) not in embeddings]
    rest = [part for part in others if part.ndim < 2 or id(part) in embeddings]
    groups = [
        {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": rest, "lr": learning_rate, "weight_decay": 0.0},
        {"params": slow_parameters, "lr": learning_rate * SLOW_FACTOR, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
