"""iCEM (Pinneri et al. 2020): the cross-entropy method with noise that is smooth in time and with kept elites."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldgym.agents.planning.planner import Evaluate, Plan, SamplingPlanner, best, coloured_noise
from worldgym.config import check_numbers


@dataclass(frozen=True)
class ICEM(SamplingPlanner):
    """Its plan is the best candidate of the last iteration, among which is the mean.

    Kept elites are evaluated again, as costs of a model that samples are not exact.

    Attributes:
        iterations: rounds of sampling.
        momentum: share of the old mean and deviation that stays in every round.
        least_std: below which the deviation does not shrink.
        colour: exponent of the noise's spectrum: 0 is white, 2 a random walk.
        kept: share of the elites that the next iteration tries again.
        shrink: factor by which the number of candidates falls from one iteration to the next; at least 2 x elites.
    """

    iterations: int = 3
    momentum: float = 0.1
    least_std: float = 0.02
    colour: float = 2.0
    kept: float = 0.3
    shrink: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, above_zero=("iterations", "shrink"), from_zero=("momentum", "least_std", "colour", "kept"))

    def population(self, iteration: int) -> int:
        """Number of candidates of an iteration, from 0."""
        return min(self.candidates, max(int(self.candidates * self.shrink**-iteration), 2 * self.elites))

    def plan(self, evaluate: Evaluate, mean: Tensor, given: Tensor, generator: torch.Generator) -> Plan:
        centre, tried = self.checked(mean, given)
        std, history = torch.full_like(centre, self.std), []
        pool = elites = tried
        for iteration in range(self.iterations):
            count = self.population(iteration)
            tried = torch.cat([centre[None], tried])[:count]  # the mean of the last iteration is a candidate too
            noise = coloured_noise(count - len(tried), centre, self.colour, generator)
            pool = torch.cat([tried, (centre + std * noise).clamp(-1, 1)])
            costs = evaluate(self.expanded(pool))
            chosen = best(costs, self.elites)
            elites = pool[chosen]
            history.append(float(costs[chosen[0]]))
            centre = self.momentum * centre + (1 - self.momentum) * elites.mean(0)
            std = self.momentum * std + (1 - self.momentum) * elites.std(0, correction=0)
            std = std.clamp(min=self.least_std)
            tried = elites[: round(self.kept * len(elites))]
        found = self.expanded(elites)
        return Plan(found[0], history[-1], found, tuple(history))
