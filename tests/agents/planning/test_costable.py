"""The adapter for stable-worldmodel's solvers, by the shapes with which they call it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldgym.agents.planning import LearnedModel, RewardCost
from worldgym.agents.planning.costable import CostableWorld
from worldgym.agents.planning.model import evaluate
from worldgym.errors import ConfigError, InvalidFrames
from worldgym.world_model import WorldModel

CANDIDATES = torch.rand((2, 5, 2, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1  # two actions a block


def info(frames: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    """Two environments, five candidates."""
    both = np.stack([frames[:2], frames[1:]])
    return {"pixels": torch.from_numpy(both)[:, None].expand(-1, 5, -1, -1, -1, -1), **more}


def test_costs_are_those_of_the_model(
    random_world_model: Callable[[], WorldModel], learned: LearnedModel, frames: NDArray[np.uint8]
) -> None:
    costs = CostableWorld(random_world_model(), RewardCost()).get_cost(info(frames), CANDIDATES)
    assert costs.shape == (2, 5)
    learned.observe(frames[1:])
    wanted = evaluate(learned, RewardCost(), CANDIDATES[1].reshape(5, 4, 2), torch.Generator())
    assert torch.allclose(costs[1], wanted, atol=1e-5)
    same = CostableWorld(random_world_model(), RewardCost()).criterion(info(frames), CANDIDATES)
    assert torch.equal(costs, same)


def test_goals_come_with_the_call(random_world_model: Callable[[], WorldModel], frames: NDArray[np.uint8]) -> None:
    goal = np.moveaxis(np.stack([frames[:1]] * 2), -1, -3)[:, None].repeat(5, axis=1)  # channels first
    costs = CostableWorld(random_world_model()).get_cost(info(frames, goal=goal, step_idx=None), CANDIDATES)
    assert (costs > 0).all()


def test_bad_calls_are_named(random_world_model: Callable[[], WorldModel], frames: NDArray[np.uint8]) -> None:
    world = CostableWorld(random_world_model())
    with pytest.raises(ConfigError, match=r"expected info_dict\['goal'\], got \['pixels'\]"):
        world.get_cost(info(frames), CANDIDATES)
    with pytest.raises(ConfigError, match="multiple of 2"):
        world.get_cost(info(frames), CANDIDATES[..., :3])
    with pytest.raises(InvalidFrames, match="got float32"):
        world.get_cost({"pixels": info(frames)["pixels"].numpy().astype(np.float32)}, CANDIDATES)
