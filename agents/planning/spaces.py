"""Whether an environment and a model that plans are made in fit each other."""

from typing import Any

import gymnasium as gym
import numpy as np

from worldgym.agents.planning.model import LearnedModel, PlanningModel
from worldgym.errors import ConfigError


def check_fits(env: gym.Env[Any, Any], model: PlanningModel) -> None:
    """Check that the environment's frames and actions are the model's.

    Raises:
        ConfigError: unless actions are float ``[A]`` in [-1, 1] and frames uint8 of the model's resolution.
    """
    frames, actions = env.observation_space, env.action_space
    if not isinstance(actions, gym.spaces.Box) or actions.shape != (model.action_dim,):
        raise ConfigError(
            f"planning: the model takes {model.action_dim} actions, of which planners need continuous ones (Box); the "
            f"environment has {actions}"
        )
    if not ((actions.low == -1).all() and (actions.high == 1).all()):
        raise ConfigError(f"planning: expected actions in [-1, 1], got {actions}: wrap it in RescaleAction")
    if not isinstance(frames, gym.spaces.Box) or frames.dtype != np.uint8 or len(frames.shape) != 3:
        raise ConfigError(f"planning: expected frames uint8 [height, width, 3], got {frames}")
    if isinstance(model, LearnedModel):
        side = model.model.config.resolution
        if frames.shape != (side, side, 3):
            raise ConfigError(
                f"planning: the model imagines {side} x {side} pixels, the environment shows {frames.shape}"
            )
