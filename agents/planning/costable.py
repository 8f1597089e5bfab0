"""An adapter by which the solvers of stable-worldmodel plan in a worldgym model: its protocol ``Costable``.

    solver = stable_worldmodel.solver.CEMSolver(model=CostableWorld(model), num_samples=256, n_steps=4, topk=16)
    solver.configure(action_space=envs.action_space, n_envs=1, config=PlanConfig(horizon=12, receding_horizon=4))

The library itself is not needed here. Shapes: B environments, N candidates, T steps, A action dimension, k actions of a
block, S frames of history.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.planning.cost import Cost
from worldgym.agents.planning.goals import GoalCost
from worldgym.agents.planning.model import LearnedModel, evaluate
from worldgym.errors import ConfigError, InvalidFrames
from worldgym.world_model import WorldModel


class CostableWorld:
    """Costs of candidates for solvers that call ``get_cost``.

    Args:
        model: a world model, or one with a budget of memory.
        cost: of imagined futures; None takes the distance of pixels to ``info_dict["goal"]``.
        seed: of the model's sampling.
    """

    def __init__(self, model: WorldModel | LearnedModel, cost: Cost | None = None, seed: int = 0) -> None:
        self.model = LearnedModel(model) if isinstance(model, WorldModel) else model
        self.cost = cost
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def get_cost(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs, float32 ``[B, N]`` on the candidates' device.

        Args:
            info_dict: ``pixels``, uint8 ``[B, N, S, H, W, 3]`` or with channels before height, equal for all
                candidates; without a cost of one's own also ``goal`` likewise. Everything else is ignored.
            action_candidates: float ``[B, N, T, k * A]``, in [-1, 1]; beyond, they are clamped as environments do.

        Raises:
            ConfigError: for entries that are missing and candidates of another shape.
            InvalidFrames: for frames of another shape or dtype.
        """
        size, dim = action_candidates.shape[-1], self.model.action_dim
        if action_candidates.ndim != 4 or size % dim:
            raise ConfigError(
                f"expected action candidates [batch, candidates, horizon, multiple of {dim}], got "
                f"{list(action_candidates.shape)}"
            )
        batch, count = action_candidates.shape[:2]
        actions = action_candidates.detach().to("cpu", torch.float32).clamp(-1, 1).reshape(batch, count, -1, dim)
        rows = []
        for row in range(batch):
            self.model.observe(_frames(info_dict, "pixels", row))
            cost = self.cost or GoalCost(_frames(info_dict, "goal", row)[-1])
            rows.append(evaluate(self.model, cost, actions[row], self._generator))
        return torch.stack(rows).to(action_candidates.device)

    def criterion(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """The same as :meth:`get_cost`: here a cost cannot be told without imagining."""
        return self.get_cost(info_dict, action_candidates)


def _frames(info: Mapping[str, Any], key: str, row: int) -> NDArray[np.uint8]:
    """An entry of one environment, uint8 ``[S, H, W, 3]``."""
    if key not in info:
        raise ConfigError(f"expected info_dict[{key!r}], got {sorted(info)}")
    value = info[key][row][0]
    frames = value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
    if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
        frames = np.moveaxis(frames, 1, -1)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InvalidFrames(
            f"info_dict[{key!r}]: expected uint8 [batch, candidates, history, height, width, 3], got {frames.dtype} "
            f"{list(np.shape(info[key]))}: leave out transforms that make floats"
        )
    return np.ascontiguousarray(frames)
