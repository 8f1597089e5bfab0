"""Imagined rollouts: what a policy would see and earn if it went on, in the world model, from real frames.

Shapes: B rollouts, S stacked frames, T steps, H x W pixels, A action dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.errors import ConfigError
from worldgym.world_model import WorldModel

Policy = Callable[[Tensor], NDArray[np.float32]]
"""Actions float32 ``[B, A]`` for frame stacks uint8 ``[B, S, H, W, 3]``, on the world model's device."""


@dataclass(frozen=True)
class Rollouts:
    """What was imagined, on the CPU. Of row ``b`` only the first ``lengths[b]`` steps count."""

    frames: NDArray[np.uint8]
    """uint8 ``[B, S + T, H, W, 3]``: the real frames they begin with, then the imagined ones."""
    actions: NDArray[np.float32]
    """float32 ``[B, T, A]``."""
    rewards: NDArray[np.float32]
    """float32 ``[B, T]``, as the environment gives them."""
    uncertainty: NDArray[np.float32]
    """float32 ``[B, T]``, of the model about each frame, in nats."""
    lengths: NDArray[np.int64]
    """int64 ``[B]``, 0 to T."""

    def store(self, replay: ReplayBuffer, made_at: int) -> None:
        """Add them to a replay as episodes, each as long as it came; see :meth:`ReplayBuffer.add_episodes`."""
        context = self.frames.shape[1] - self.actions.shape[1]
        for length in (int(length) for length in np.unique(self.lengths) if length):
            rows = np.flatnonzero(self.lengths == length)
            parts = self.frames[rows, : context + length], self.actions[rows, :length], self.rewards[rows, :length]
            replay.add_episodes(*parts, context=context, made_at=made_at)


def imagine_rollouts(
    world_model: WorldModel,
    policy: Policy,
    stacks: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
    uncertainty: float | None = None,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
    read_rewards: Callable[[Tensor], Tensor] | None = None,
) -> Rollouts:
    """Let the policy act in the world model for ``horizon`` steps, in one batch.

    Args:
        world_model: reads the newest ``context_length`` frames of each stack; tokens are drawn by its own sampling.
        policy: asked at every step.
        stacks: real frames to start from, uint8 ``[B, S, H, W, 3]``, oldest first.
        horizon: steps, T.
        generator: draws the tokens.
        uncertainty: in nats; a rollout ends before the first frame that the model is less sure of
            (``WorldModelState.uncertainty``).
        reward_range: lowest and highest reward to believe; what the model promises beyond is cut off.
        read_rewards: rewards ``[B]`` of the steps that led to frames ``[B, H, W, 3]``, in place of the model's own.

    Raises:
        ConfigError: where the model needs more context than the stacks hold, or predicts no rewards.
    """
    check_imaginable(world_model, stacks.shape[1])
    config, sampling = world_model.config, world_model.config.sampling
    current = stacks.to(world_model.device)
    state = world_model.start(current[:, -config.context_length :])
    rows = torch.arange(len(stacks), device=world_model.device)
    made = _Made(current, horizon, config.action_dim)
    for step in range(horizon):
        action = torch.from_numpy(policy(current)).to(world_model.device)
        state, frame, reward = world_model.step(state, action, sampling.temperature, sampling.top_k, generator)
        reward = (reward if read_rewards is None else read_rewards(frame)).clamp(*reward_range)
        if uncertainty is not None:
            sure = torch.nonzero(state.uncertainty <= uncertainty).flatten()
            if len(sure) < len(rows):
                state, rows = state.select(sure), rows[sure]
                current, action, frame, reward = (values[sure] for values in (current, action, frame, reward))
            if not len(rows):
                break
        made.add(step, rows, action, frame, reward, state.uncertainty)
        current = torch.cat([current[:, 1:], frame[:, None]], dim=1)
    return made.finished()


def check_imaginable(world_model: WorldModel, frame_stack: int) -> None:
    """Raise :class:`ConfigError` unless the model can go on from stacks of so many frames, and predicts rewards."""
    config = world_model.config
    if config.context_length > frame_stack:
        raise ConfigError(
            f"the world model starts from {config.context_length} frames, the agent stacks {frame_stack}: "
            "choose an agent with a larger frame_stack, or a model with a shorter context"
        )
    if config.goal_conditioned or not config.reward:
        lacking = "starts from a goal" if config.goal_conditioned else "predicts no rewards"
        raise ConfigError(f"the world model {lacking}: agents learn in one that predicts rewards from frames alone")


class _Made:
    """Rollouts under way, on the world model's device."""

    def __init__(self, stacks: Tensor, horizon: int, action_dim: int) -> None:
        self._context, batch = stacks.shape[1], len(stacks)
        self._frames = torch.cat([stacks, stacks[:, -1:].repeat(1, horizon, 1, 1, 1)], dim=1)
        self._actions = torch.zeros(batch, horizon, action_dim, device=stacks.device)
        self._rewards, self._uncertainty = (torch.zeros(batch, horizon, device=stacks.device) for _ in range(2))
        self._lengths = torch.zeros(batch, dtype=torch.int64, device=stacks.device)

    def add(self, step: int, rows: Tensor, action: Tensor, frame: Tensor, *told: Tensor) -> None:
        self._frames[rows, self._context + step] = frame
        self._actions[rows, step] = action
        for values, value in zip((self._rewards, self._uncertainty), told, strict=True):
            values[rows, step] = value
        self._lengths[rows] = step + 1

    def finished(self) -> Rollouts:
        made = self._frames, self._actions, self._rewards, self._uncertainty, self._lengths
        return Rollouts(*(values.cpu().numpy() for values in made))
