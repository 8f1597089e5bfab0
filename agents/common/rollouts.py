"""Imagined rollouts: what a policy would see and earn in the world model, starting from real frames.

Shapes: B rollouts, S frames that the policy sees, T steps, H x W pixels, A action dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.rewards import HeadRewards, RewardSource
from worldgym.agents.common.transitions import Starts
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.world_model import WorldModel, WorldModelState

Policy = Callable[[Tensor], NDArray[np.float32]]
"""Maps the last frames, uint8 ``[B, S, H, W, 3]`` on the world model's device, to actions float32 ``[B, A]``.

Rollouts that have ended are left out; the others keep their order.
"""


@dataclass(frozen=True)
class Rollouts:
    """Imagined rollouts, on the CPU. Only the first ``lengths[b]`` steps of row ``b`` are valid.

    Attributes:
        frames: uint8 ``[B, S + T, H, W, 3]``: real frames, then the imagined ones.
        actions: float32 ``[B, T, A]``.
        rewards: float32 ``[B, T]``, in the environment's scale.
        uncertainty: float32 ``[B, T]``: the world model's about each frame.
        lengths: int64 ``[B]``, from 0 to T.
        terminated: bool ``[B]``, whether the last valid step ended the episode.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    def store(self, replay: ReplayBuffer, made_at: int) -> None:
        """Add the rollouts to a replay as episodes; see :meth:`ReplayBuffer.add_episodes`."""
        context = self.frames.shape[1] - self.actions.shape[1]
        for length in (int(length) for length in np.unique(self.lengths) if length):
            rows = np.flatnonzero(self.lengths == length)
            parts = self.frames[rows, : context + length], self.actions[rows, :length], self.rewards[rows, :length]
            replay.add_episodes(*parts, context=context, made_at=made_at, terminated=self.terminated[rows])


@torch_defaults(grad=False)
def imagine_rollouts(
    world_model: WorldModel,
    policy: Policy,
    history: Tensor,
    horizon: int,
    *,
    past: Starts | None = None,
    rewards: RewardSource | None = None,
    generator: torch.Generator | None = None,
    max_uncertainty: float | None = None,
    pessimism: float = 0.0,
) -> Rollouts:
    """Let a policy act in the world model for ``horizon`` steps, in one batch.

    A rollout ends at a step with the probability of a termination that the world model predicts, if it predicts one.

    Args:
        world_model: samples tokens as its configuration says.
        policy: called at every step with the last S frames.
        history: real frames that the policy sees at first, uint8 ``[B, S, H, W, 3]``, oldest first.
        horizon: number of steps, T.
        past: frames, as many as the model's context and all actions need, and actions that the world model is shown
            before it imagines; None: the newest ``context_length`` frames of ``history`` alone.
        rewards: computes the rewards; the world model's head unless given.
        generator: samples the tokens and the terminations.
        max_uncertainty: a rollout ends before the first frame whose uncertainty
            (``WorldModelState.uncertainty``) is larger. None never ends one early.
        pessimism: how many standard deviations of the predicted reward are subtracted from it.

    Raises:
        ConfigError: if the model needs more context than the history has, or predicts no rewards.
    """
    check_rollouts_possible(world_model, history.shape[1] if past is None else past.frames.shape[1], pessimism)
    config, sampling, source = world_model.config, world_model.config.sampling, rewards or HeadRewards()
    current = history.to(world_model.device)
    state = world_model.start(current[:, -config.context_length :]) if past is None else _start(world_model, past)
    rows = torch.arange(len(history), device=world_model.device)
    builder = _RolloutBuilder(current, horizon, config.action_dim)
    for step in range(horizon):
        action = torch.from_numpy(policy(current)).to(world_model.device)
        state, frame, predicted = world_model.step(state, action, sampling.temperature, sampling.top_k, generator)
        reward = source(frame, predicted - pessimism * state.reward_spread if pessimism else predicted)
        current = torch.cat([current[:, 1:], frame[:, None]], dim=1)
        if max_uncertainty is not None:
            kept = state.uncertainty <= max_uncertainty
            state, rows, current, action, frame, reward = _kept(kept, state, rows, current, action, frame, reward)
        builder.add(step, rows, action, frame, reward, state.uncertainty)
        if config.termination:
            drawn = _uniforms(len(rows), generator).to(rows.device)
            ended = drawn < state.termination_probability
            builder.terminate(rows[ended])
            state, rows, current = _kept(~ended, state, rows, current)
        if not len(rows):
            break
    return builder.build()


def _start(world_model: WorldModel, past: Starts) -> WorldModelState:
    """A state for each row, after as many frames behind the context as are known of it."""
    context, steps = world_model.config.context_length, past.actions.shape[1]

    def start(rows: NDArray[np.int64], known: int) -> WorldModelState:
        actions = past.actions[rows, steps - known :] if known else None
        return world_model.start(past.frames[rows, -context - known :], actions)

    state = start(np.arange(len(past.frames)), steps)
    for known in np.unique(past.known[past.known < steps]).tolist():  # near an episode's beginning
        rows = np.flatnonzero(past.known == known)
        state.put(rows.tolist(), start(rows, known))
    return state


def _kept(kept: Tensor, state: WorldModelState, *values: Tensor) -> Any:
    """The rows of a state and of tensors where the mask ``kept`` is True."""
    if kept.all():
        return state, *values
    return state.select(torch.nonzero(kept).flatten()), *(tensor[kept] for tensor in values)


def _uniforms(count: int, generator: torch.Generator | None) -> Tensor:
    device = torch.device("cpu") if generator is None else generator.device
    return torch.rand(count, generator=generator, device=device, dtype=torch.float32)


def check_rollouts_possible(world_model: WorldModel, history_length: int, pessimism: float = 0.0) -> None:
    """Check that a world model can start from so many frames, and predicts rewards as they are needed.

    Raises:
        ConfigError: otherwise.
    """
    config = world_model.config
    if config.context_length > history_length:
        raise ConfigError(
            f"the world model needs {config.context_length} frames of context, the agent's history has "
            f"{history_length}: choose an agent with a larger frame_stack, or a model with a shorter context"
        )
    if pessimism < 0 or (pessimism and not config.reward_bins):
        raise ConfigError(
            f"pessimism: expected 0, or a number above 0 and a world model with reward_bins, got {pessimism} and "
            f"{len(config.reward_bins)} bins"
        )
    if config.goal_conditioned or not config.reward:
        problem = "is goal-conditioned" if config.goal_conditioned else "predicts no rewards"
        raise ConfigError(f"the world model {problem}: rollouts need one that predicts rewards from past frames alone")


class _RolloutBuilder:
    """Collects the steps of rollouts on the world model's device."""

    def __init__(self, history: Tensor, horizon: int, action_dim: int) -> None:
        self._context, batch = history.shape[1], len(history)
        self._frames = torch.cat([history, history[:, -1:].repeat(1, horizon, 1, 1, 1)], dim=1)
        self._actions = _zeros(history.device, batch, horizon, action_dim)
        self._rewards, self._uncertainty = (_zeros(history.device, batch, horizon) for _ in range(2))
        self._lengths = torch.zeros(batch, dtype=torch.int64, device=history.device)
        self._terminated = torch.zeros(batch, dtype=torch.bool, device=history.device)

    def add(self, step: int, rows: Tensor, action: Tensor, frame: Tensor, reward: Tensor, uncertainty: Tensor) -> None:
        """Store one step of some rows, int64 ``[N]``; the other arguments are ``[N, ...]``."""
        self._frames[rows, self._context + step] = frame
        self._actions[rows, step] = action
        self._rewards[rows, step] = reward
        self._uncertainty[rows, step] = uncertainty
        self._lengths[rows] = step + 1

    def terminate(self, rows: Tensor) -> None:
        """Mark rollouts, int64 ``[N]``, whose last step ended the episode."""
        self._terminated[rows] = True

    def build(self) -> Rollouts:
        """The rollouts collected so far."""
        tensors = (
            self._frames,
            self._actions,
            self._rewards,
            self._uncertainty,
            self._lengths,
            self._terminated,
        )
        return Rollouts(*(tensor.cpu().numpy() for tensor in tensors))


def _zeros(device: torch.device, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device=device)
