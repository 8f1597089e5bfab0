"""How fast plans are made: python tests/benchmarks/bench_planning.py [CANDIDATES [HORIZON [DTYPE]]]

Candidates that fork one encoded past, beside candidates that each encode it, as a model without forks would; whole
plans of every planner; the process's peak of memory, which must not grow with candidates beyond the budget.
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from worldgym.agents.planning import CEM, ICEM, MPPI, GoalCost, LearnedModel, PlanningAgent, RandomShooting, RewardCost
from worldgym.agents.planning.model import evaluate
from worldgym.world_model import WorldModel

CHECKPOINT, REPEATS, BUDGET = "metaworld-64", 2, 2**26


def seconds(work: Callable[[], object]) -> float:
    """The quickest of a few runs: other work on the machine counts least there."""
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


def report(name: str, spent: float, candidates: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{name:44} {spent:8.2f} s {candidates / spent:9.1f} candidates/s   peak {peak:6.0f} MB", flush=True)


def main() -> None:
    given = sys.argv[1:] + ["256", "12", "bfloat16"][len(sys.argv) - 1 :]
    candidates, horizon, dtype = int(given[0]), int(given[1]), given[2]
    world = WorldModel.from_pretrained(CHECKPOINT, dtype=dtype)
    side, context = world.config.resolution, world.config.context_length
    frames = np.random.default_rng(0).integers(256, size=(context, side, side, 3), dtype=np.uint8)
    model, generator = LearnedModel(world), torch.Generator().manual_seed(0)
    model.observe(frames)
    print(f"{CHECKPOINT}, {dtype}, {torch.get_num_threads()} threads: {candidates} candidates x {horizon} steps")
    actions = torch.rand((candidates, horizon, world.config.action_dim), generator=generator) * 2 - 1
    cost = RewardCost()
    model.budget = BUDGET
    for count in (candidates // 4, candidates):
        spent = seconds(lambda count=count: evaluate(model, cost, actions[:count], generator))  # type: ignore[misc]
        report(f"forked, {count} in chunks of {BUDGET >> 20} MB", spent, count)
    model.budget = None
    report("forked, in one piece", seconds(lambda: evaluate(model, cost, actions, generator)), candidates)
    own = np.repeat(frames[None], candidates, axis=0)
    report("every candidate encodes", seconds(lambda: world.rollout(own, actions, decode=False)), candidates)
    goal = GoalCost(frames[0], every_frame=False)
    report("forked, last frame decoded", seconds(lambda: evaluate(model, goal, actions, generator)), candidates)
    for planner in (RandomShooting, CEM, ICEM, MPPI):
        tried: list[int] = []
        agent = PlanningAgent(model, planner(candidates=candidates, horizon=horizon), Counting(cost, tried))
        spent = seconds(lambda agent=agent: agent.act(frames[0]))  # type: ignore[misc]
        report(f"a plan of {planner.__name__}", spent, sum(tried) // REPEATS)


class Counting:
    """A cost that counts candidates."""

    def __init__(self, cost: RewardCost, tried: list[int]) -> None:
        self._cost, self._tried, self.frames = cost, tried, cost.frames

    def __call__(self, futures: object) -> torch.Tensor:
        self._tried.append(len(futures))  # type: ignore[arg-type]
        return self._cost(futures)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
