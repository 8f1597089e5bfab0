"""Random shooting: the best of many random action sequences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldgym.agents.planning.planner import Evaluate, Plan, SamplingPlanner, best


@dataclass(frozen=True)
class RandomShooting(SamplingPlanner):
    """One iteration: the mean, the given candidates, and noise around the mean."""

    def plan(self, evaluate: Evaluate, mean: Tensor, given: Tensor, generator: torch.Generator) -> Plan:
        centre, tried = self.checked(mean, given)
        tried = torch.cat([centre[None], tried])[: self.candidates]
        sampled = self.around(centre, self.std, self.candidates - len(tried), generator)
        actions = self.expanded(torch.cat([tried, sampled]))
        costs = evaluate(actions)
        elites = best(costs, self.elites)
        least = float(costs[elites[0]])
        return Plan(actions[elites[0]], least, actions[elites], (least,))
