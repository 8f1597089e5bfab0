"""Costs of imagined futures. Planners look for the least one.

Shapes: N candidates, T steps, S stacked frames, H x W pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from worldgym.agents.planning.futures import Futures
from worldgym.config import check_numbers
from worldgym.errors import ConfigError


class Cost(Protocol):
    """Rates futures, each row by itself: candidates are evaluated in chunks."""

    @property
    def frames(self) -> int:
        """How many of the last imagined frames it reads: 0 for none, which saves decoding them."""

    def __call__(self, futures: Futures) -> Tensor:
        """Costs, float ``[N]``, finite, on the futures' device."""


class TerminalValue(NamedTuple):
    """What is to be expected after the last imagined frame, such as from an agent's critic."""

    value: Callable[[Tensor], Tensor]
    """Maps stacks uint8 ``[N, S, H, W, 3]`` to values, float32 ``[N]``, in units of the rewards."""
    frame_stack: int
    """S."""


@dataclass(frozen=True)
class RewardCost:
    """The negative sum of the predicted rewards.

    Attributes:
        discount: factor of the rewards from one step to the next.
        pessimism: standard deviations of the predicted reward that are subtracted from it.
        max_uncertainty: from the first frame whose ``WorldModelState.uncertainty`` exceeds it on, every step earns
            ``unsure_reward``, and there is no terminal value. None trusts every frame.
        unsure_reward: reward of these steps; a low one of the task.
        terminal: value of what comes after the horizon, where there is a critic.
    """

    discount: float = 0.99
    pessimism: float = 0.0
    max_uncertainty: float | None = None
    unsure_reward: float = 0.0
    terminal: TerminalValue | None = None

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("discount",), from_zero=("pessimism",))

    @property
    def frames(self) -> int:
        return 0 if self.terminal is None else self.terminal.frame_stack

    def __call__(self, futures: Futures) -> Tensor:
        rewards = _predicted(futures.rewards, "rewards", "train it with a reward head")
        if self.pessimism:
            spread = _predicted(futures.reward_spread, "a spread of rewards", "train it with reward_bins")
            rewards = rewards - self.pessimism * spread
        steps = torch.arange(rewards.shape[1], device=rewards.device)
        trusted = self._trusted(futures.uncertainty)
        rewards = torch.where(trusted, rewards, self.unsure_reward)
        total = (rewards * self.discount**steps).sum(1)
        if self.terminal is not None:
            value = self.terminal.value(futures.stacks(self.terminal.frame_stack)).to(total.device)
            total = total + self.discount ** len(steps) * value * trusted[:, -1]
        return -total

    def _trusted(self, uncertainty: Tensor) -> Tensor:
        """Bool ``[N, T]``, whether this frame and all before it are certain enough."""
        limit = math.inf if self.max_uncertainty is None else self.max_uncertainty
        return (uncertainty <= limit).cummin(dim=1).values


@dataclass(frozen=True)
class SuccessCost:
    """The negative sum of the predicted probabilities of success: the sooner and the longer, the better.

    Attributes:
        discount: factor from one step to the next.
    """

    discount: float = 0.99
    frames: int = 0

    def __call__(self, futures: Futures) -> Tensor:
        chances = _predicted(futures.success_probability, "success", "train it with a success head, or use RewardCost")
        return -(chances * self.discount ** torch.arange(chances.shape[1], device=chances.device)).sum(1)


@dataclass(frozen=True)
class FunctionCost:
    """A user's function of the futures: of their frames, tokens, actions or anything else in them.

    Attributes:
        function: maps :class:`Futures` to costs, float ``[N]``.
        frames: how many of the last imagined frames it reads; ALL_FRAMES for all.
    """

    function: Callable[[Futures], Any]
    frames: int = 0

    def __call__(self, futures: Futures) -> Tensor:
        found: Tensor = self.function(futures)
        return found


def checked_costs(costs: Any, futures: Futures) -> Tensor:
    """Costs as float32 ``[N]`` on the CPU.

    Raises:
        ConfigError: if the cost returned anything but N finite numbers.
    """
    expected = f"the cost: expected one finite number for each of {len(futures)} candidates"
    if not isinstance(costs, Tensor) or costs.shape != (len(futures),):
        got = list(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
        raise ConfigError(f"{expected}, a tensor [{len(futures)}], got {got}")
    values = costs.detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise ConfigError(f"{expected}, got {values[row].item()} for candidate {row}")
    return values


def _predicted(values: Tensor, name: str, advice: str) -> Tensor:
    if torch.isnan(values).any():
        raise ConfigError(f"this cost needs a world model that predicts {name}: {advice}")
    return values
