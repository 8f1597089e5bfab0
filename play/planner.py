"""The planner that can drive: iCEM in the world model that is played."""

from collections.abc import Callable
from typing import Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.planning import ICEM, LearnedModel, PlanningAgent, RewardCost, SuccessCost
from worldgym.agents.planning.agent import Episode
from worldgym.agents.planning.cost import Cost
from worldgym.agents.planning.futures import Futures
from worldgym.envs.actions import ActionCodec
from worldgym.envs.behaviours import Behaviour, Policy
from worldgym.world_model import WorldModel

# A plan takes seconds on a CPU core: few candidates, and several steps of a plan before the next one.
CANDIDATES, ELITES, ITERATIONS, HORIZON, REPLAN_EVERY = 64, 8, 3, 12, 4
CHUNK = 16  # candidates that are imagined at once: after each of them the search can be stopped


class Stopped(Exception):
    """The person took over while the planner was searching."""


class Seen(Protocol):
    """What the planner sees of a session."""

    @property
    def frame(self) -> NDArray[np.uint8]:
        """The current frame, uint8 ``[H, W, 3]``."""

    def past(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
        """The frames before the current one, and the actions as vectors, float32 ``[A]``, after each of them."""

    def stopped(self) -> bool:
        """Whether the person has taken over."""


def find_planner(model: WorldModel, codec: ActionCodec) -> Behaviour | None:
    """The planner of a model, as a behaviour that acts in a :class:`Seen` session.

    Returns:
        None where plans cannot be made: without continuous actions, without a reward or a success to plan for, and in
        a model that needs a goal.
    """
    config = model.config
    plannable = config.action_dim and isinstance(codec.space, gym.spaces.Box) and not config.goal_conditioned
    if not plannable or not (config.reward or config.success):
        return None
    horizon = max(1, min(HORIZON, model.layout.horizon(config.transformer.max_positions)))

    def behaviour(seen: Seen, rng: np.random.Generator) -> Policy:
        goal: Cost = RewardCost() if config.reward else SuccessCost()
        agent = PlanningAgent(
            LearnedModel(model, CHUNK * model.memory(1)),
            ICEM(CANDIDATES, horizon, elites=ELITES, iterations=ITERATIONS),
            _StoppableCost(goal, seen.stopped),
            replan_every=min(REPLAN_EVERY, horizon),
        )
        agent.reset(int(rng.integers(2**31)))
        agent.episode = Episode(agent.episode.seed, *seen.past())
        return lambda: codec.decode_box(agent.act(seen.frame))

    return behaviour


class _StoppableCost:
    """A cost, at which a search ends as soon as it is stopped."""

    def __init__(self, cost: Cost, stopped: Callable[[], bool]) -> None:
        self._cost, self._stopped = cost, stopped

    @property
    def frames(self) -> int:
        return self._cost.frames

    def __call__(self, futures: Futures) -> Tensor:
        if self._stopped():
            raise Stopped
        return self._cost(futures)
