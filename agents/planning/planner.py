"""What all planners share: the protocol, the search for one plan, and sampling of action sequences.

A planner looks for the action sequence of least cost. It knows neither model nor cost, only a function from sequences
to costs. All of its arithmetic is on the CPU and uses one generator, so equal generators give equal plans.

Shapes: N candidates, T steps of the horizon, K knots (decisions; each is held for some steps), A action dimension,
E elites, M given candidates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from worldgym.config import check_numbers
from worldgym.errors import ConfigError

Evaluate = Callable[[Tensor], Tensor]
"""Maps actions float32 ``[N, T, A]`` to their costs, float32 ``[N]``, finite; both on the CPU."""


class Plan(NamedTuple):
    """The result of a search."""

    actions: Tensor
    """The sequence found, float32 ``[T, A]`` in [-1, 1]."""
    cost: float
    """Its cost as it was evaluated; for a mean, the cost of the best candidate of the last iteration."""
    elites: Tensor
    """The best candidates of the last iteration, float32 ``[E, T, A]``, the best first."""
    costs: tuple[float, ...]
    """The least cost of every iteration."""


class Planner(Protocol):
    """Finds an action sequence of low cost."""

    @property
    def horizon(self) -> int:
        """Number of steps of a plan, T."""

    @property
    def hold(self) -> int:
        """How many steps each decision is held."""

    def plan(self, evaluate: Evaluate, mean: Tensor, given: Tensor, generator: torch.Generator) -> Plan:
        """Search.

        Args:
            evaluate: costs of candidates.
            mean: where the search begins, float32 ``[T, A]``.
            given: candidates to try in the first iteration, float32 ``[M, T, A]``; M may be 0.
            generator: on the CPU; samples all other candidates.
        """


@dataclass(frozen=True)
class SamplingPlanner:
    """Settings and arithmetic that all planners share.

    Attributes:
        candidates: action sequences in the first iteration, N.
        horizon: steps of each, T.
        std: standard deviation of the first iteration's noise; actions are in [-1, 1].
        hold: steps for which a decision is held (action repeat); the plan then has ceil(T / hold) decisions.
        elites: candidates of an iteration that the next one builds on, E.
    """

    candidates: int = 256
    horizon: int = 12
    std: float = 0.5
    hold: int = 1
    elites: int = 16

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("candidates", "horizon", "std", "hold", "elites"))
        if self.candidates < 2 or self.elites > self.candidates:
            raise ConfigError(
                f"expected at least 2 candidates and no more elites than candidates, got {self.candidates} candidates "
                f"and {self.elites} elites"
            )

    def knots(self, actions: Tensor) -> Tensor:
        """The decisions ``[..., K, A]`` of sequences ``[..., T, A]``: the first action of each hold."""
        return actions[..., :: self.hold, :]

    def expanded(self, knots: Tensor) -> Tensor:
        """Inverse of :meth:`knots`: every decision is held."""
        return knots.repeat_interleave(self.hold, dim=-2)[..., : self.horizon, :]

    def checked(self, mean: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[K, A]`` and given candidates ``[M, K, A]``, M at most N, as decisions in [-1, 1].

        Raises:
            ConfigError: for other shapes.
        """
        if mean.ndim != 2 or len(mean) != self.horizon or given.shape[1:] != mean.shape:
            raise ConfigError(
                f"expected a mean [{self.horizon}, action_dim] and given candidates [count, {self.horizon}, "
                f"action_dim], got {list(mean.shape)} and {list(given.shape)}"
            )
        return self.knots(mean).clamp(-1, 1), self.knots(given[: self.candidates]).clamp(-1, 1)

    def around(self, mean: Tensor, std: Tensor | float, count: int, generator: torch.Generator) -> Tensor:
        """``count`` candidates with white Gaussian noise around a mean ``[K, A]``, clamped: ``[count, K, A]``."""
        return (mean + std * white_noise(count, mean, generator)).clamp(-1, 1)


def white_noise(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent standard normal numbers, float32 ``[count, K, A]`` for a tensor ``[K, A]``."""
    return torch.randn((count, *like.shape), generator=generator, dtype=torch.float32, device="cpu")


def coloured_noise(count: int, like: Tensor, exponent: float, generator: torch.Generator) -> Tensor:
    """Normal noise whose power falls with frequency as ``f ** -exponent``, float32 ``[count, K, A]``.

    0 is white noise; 2 wanders like a random walk. Every number has variance 1 over candidates.
    """
    length, dim = like.shape
    if length < 2 or not exponent or not count:  # FFTs of no rows fail
        return white_noise(count, like, generator)
    bins = length // 2 + 1
    # The constant part is as strong as the slowest wave.
    scale = torch.arange(bins, dtype=torch.float32).clamp(min=1) ** (-exponent / 2)
    parts = torch.randn((count, dim, bins, 2), generator=generator, dtype=torch.float32, device="cpu")
    # The constant part, and for an even length the fastest wave, have no imaginary part.
    is_real = torch.zeros(bins, dtype=torch.bool)
    is_real[[0, -1] if length % 2 == 0 else [0]] = True
    parts[..., 1].masked_fill_(is_real, 0)
    parts[..., 0] *= torch.where(is_real, math.sqrt(2), 1.0)
    variance = (torch.where(is_real, 2.0, 4.0) * scale.square()).sum()
    noise: Tensor = torch.fft.irfft(torch.view_as_complex(parts) * scale, n=length, norm="forward") / variance.sqrt()
    return noise.transpose(1, 2)


def best(costs: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` least costs, the least first; of equal ones, the earlier first."""
    return torch.sort(costs, stable=True).indices[:count]
