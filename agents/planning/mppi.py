"""MPPI (Williams et al. 2017): the mean of all candidates, weighted by the exponential of their costs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldgym.agents.planning.planner import Evaluate, Plan, SamplingPlanner, best
from worldgym.config import check_numbers


@dataclass(frozen=True)
class MPPI(SamplingPlanner):
    """Its plan is the weighted mean.

    Attributes:
        iterations: rounds of sampling around the mean.
        temperature: of the weights, in standard deviations of the iteration's costs; small values follow the best.
        decay: factor of the noise from one iteration to the next.
    """

    iterations: int = 4
    temperature: float = 0.2
    decay: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, above_zero=("iterations", "temperature", "decay"))

    def plan(self, evaluate: Evaluate, mean: Tensor, given: Tensor, generator: torch.Generator) -> Plan:
        centre, tried = self.checked(mean, given)
        history, elites, std = [], tried, self.std
        for _ in range(self.iterations):
            tried = torch.cat([centre[None], tried])[: self.candidates]
            pool = torch.cat([tried, self.around(centre, std, self.candidates - len(tried), generator)])
            costs = evaluate(self.expanded(pool))
            chosen = best(costs, self.elites)
            elites = pool[chosen]
            history.append(float(costs[chosen[0]]))
            scale = self.temperature * costs.std(correction=0).clamp(min=1e-8)
            weights = torch.softmax(-costs / scale, dim=0)
            centre = torch.einsum("n,nka->ka", weights, pool)
            tried, std = pool[:0], std * self.decay
        return Plan(self.expanded(centre), history[-1], self.expanded(elites), tuple(history))
