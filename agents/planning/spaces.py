"""Whether an environment and a model that plans are made in fit each other."""

from typing import Any

import gymnasium as gym

from worldgym.agents.common.spaces import check_resolution, env_sizes
from worldgym.agents.planning.model import LearnedModel, PlanningModel
from worldgym.errors import ConfigError


def check_fits(env: gym.Env[Any, Any], model: PlanningModel) -> None:
    """Check that the environment's frames and actions are the model's.

    Raises:
        ConfigError: unless actions are float ``[A]`` in [-1, 1] and frames uint8 of the model's resolution.
    """
    frame_shape, action_dim = env_sizes(env)
    if action_dim != model.action_dim:
        raise ConfigError(
            f"the model that plans are made in takes {model.action_dim} actions, the environment {action_dim}: choose "
            "a checkpoint that was made for it"
        )
    if isinstance(model, LearnedModel):
        check_resolution(frame_shape, model.model.config.resolution)
