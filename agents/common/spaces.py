"""Checks that environment, agent and world model fit each other."""

from typing import Any

import gymnasium as gym
import numpy as np

from worldgym.agents.common.rollouts import check_rollouts_possible
from worldgym.agents.drqv2 import DrQv2
from worldgym.errors import ConfigError
from worldgym.world_model import WorldModel


def check_spaces(env: gym.Env[Any, Any], agent: DrQv2, world_model: WorldModel | None = None) -> None:
    """Check that agent and world model take the environment's frames and actions.

    Raises:
        ConfigError: unless frames are uint8 ``[H, W, 3]``, actions are continuous ``[A]`` in [-1, 1], and agent and
            world model have these sizes.
    """
    frame_shape, action_dim = env_sizes(env)
    if (tuple(agent.spec.frame_shape), agent.spec.action_dim) != (frame_shape, action_dim):
        raise ConfigError(
            f"the agent takes frames {tuple(agent.spec.frame_shape)} and {agent.spec.action_dim} actions, the "
            f"environment has frames {frame_shape} and {action_dim} actions: build the agent for it"
        )
    if world_model is None:
        return
    config = world_model.config
    if not config.action_dim:
        raise ConfigError(
            f"expected a world model that takes {action_dim} actions, got an action-free one: add an action projection "
            "and a reward head with worldgym.training.initial.with_actions"
        )
    if config.action_dim != action_dim:
        raise ConfigError(
            f"the world model takes {config.action_dim} actions, the environment {action_dim}: "
            "choose a checkpoint that was made for it"
        )
    check_rollouts_possible(world_model, agent.spec.frame_stack)
    check_resolution(frame_shape, config.resolution)


def check_resolution(frame_shape: tuple[int, ...], resolution: int) -> None:
    """Raise ConfigError unless a world model of this resolution imagines such frames."""
    if (resolution, resolution, 3) != frame_shape:
        raise ConfigError(
            f"the world model imagines frames of {resolution} x {resolution} pixels, the environment has frames "
            f"{frame_shape}: choose a checkpoint that was made for it"
        )


def env_sizes(env: gym.Env[Any, Any]) -> tuple[tuple[int, ...], int]:
    """Shape of an environment's frames, ``(H, W, 3)``, and length of its actions.

    Raises:
        ConfigError: unless frames are uint8 ``[H, W, 3]`` and actions continuous ``[A]`` in [-1, 1].
    """
    frames, space = env.observation_space, env.action_space
    if not isinstance(frames, gym.spaces.Box) or frames.dtype != np.uint8 or len(frames.shape) != 3:
        raise ConfigError(f"expected an environment with frames uint8 [height, width, 3], got {frames}")
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"expected an environment with continuous actions [action_dim], got {space}")
    if not ((space.low == -1).all() and (space.high == 1).all()):
        raise ConfigError(
            f"expected an environment with actions in [-1, 1], got {space}: wrap it in "
            "gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
        )
    return frames.shape, int(space.shape[0])
