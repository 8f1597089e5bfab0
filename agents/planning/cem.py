"""The cross-entropy method: sample, keep the best, fit a Gaussian to them, and again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldgym.agents.planning.planner import Evaluate, Plan, SamplingPlanner, best
from worldgym.config import check_numbers


@dataclass(frozen=True)
class CEM(SamplingPlanner):
    """Its plan is the mean of the last elites: no single candidate that a model may have been wrong about.

    Attributes:
        iterations: rounds of sampling.
        momentum: share of the old mean and deviation that stays in every round.
        least_std: below which the deviation does not shrink.
    """

    iterations: int = 4
    momentum: float = 0.1
    least_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, above_zero=("iterations",), from_zero=("momentum", "least_std"))

    def plan(self, evaluate: Evaluate, mean: Tensor, given: Tensor, generator: torch.Generator) -> Plan:
        centre, tried = self.checked(mean, given)
        std, history = torch.full_like(centre, self.std), []
        tried = torch.cat([centre[None], tried])[: self.candidates]
        elites = tried
        for _ in range(self.iterations):
            pool = torch.cat([tried, self.around(centre, std, self.candidates - len(tried), generator)])
            costs = evaluate(self.expanded(pool))
            chosen = best(costs, self.elites)
            elites = pool[chosen]
            history.append(float(costs[chosen[0]]))
            centre = self.momentum * centre + (1 - self.momentum) * elites.mean(0)
            std = self.momentum * std + (1 - self.momentum) * elites.std(0, correction=0)
            std = std.clamp(min=self.least_std)
            tried = pool[:0]
        return Plan(self.expanded(centre), history[-1], self.expanded(elites), tuple(history))
