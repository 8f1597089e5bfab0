"""Settings of all tests of planning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldgym.agents.planning import ICEM, LearnedModel, PlanningAgent, RewardCost
from worldgym.world_model import WorldModel

SMALL: dict[str, Any] = {"candidates": 8, "horizon": 4, "elites": 3}


@pytest.fixture(scope="session")
def frames() -> NDArray[np.uint8]:
    """Real frames, uint8 ``[3, 32, 32, 3]``."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def learned(random_world_model: Callable[[], WorldModel], frames: NDArray[np.uint8]) -> LearnedModel:
    """A model that has observed the frames."""
    model = LearnedModel(random_world_model())
    model.observe(frames)
    return model


@pytest.fixture
def make_planning_agent(random_world_model: Callable[[], WorldModel]) -> Callable[..., PlanningAgent]:
    """Makes an agent that plans in a tiny model; takes the agent's options."""

    def make(**options: Any) -> PlanningAgent:
        arguments = {"model": random_world_model(), "planner": ICEM(**SMALL, iterations=2), "cost": RewardCost()}
        return PlanningAgent(**{**arguments, **options})

    return make
