"""A replay buffer for SB3's off-policy algorithms that mixes real and imagined transitions.

Shapes: B rollouts or samples, S frames of history, L frames of a segment, T steps, H x W pixels, A action dimension.
SB3's observations are stacks of frames along the channels, oldest first: uint8 ``[3 * stack, H, W]``, or
``[H, W, 3 * stack]`` where the channels are last.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError, DataError, InvalidAction

Observations = NDArray[np.uint8]


class MixedReplayBuffer(NStepReplayBuffer):
    """SB3's replay buffer of real transitions, with a second one of imagined transitions beside it.

    Pass it to an off-policy algorithm as ``replay_buffer_class`` and the last four arguments as
    ``replay_buffer_kwargs``. :class:`ImaginationCallback` fills the imagined part. The last step of an imagined rollout
    counts as truncated unless the world model ended the episode there.

    Args:
        buffer_size: number of real transitions to keep.
        observation_space: uint8 frames, or stacks of them as ``VecFrameStack`` makes them.
        action_space: as in SB3.
        device: of the sampled tensors.
        n_envs: number of slots of the real environment.
        optimize_memory_usage: must be False, because it drops the last frames of episodes.
        handle_timeout_termination: as in SB3.
        imagined_size: number of imagined transitions to keep; the oldest are removed first.
        real_ratio: share of real transitions in every batch, once there are imagined ones.
        n_steps: steps of n-step returns. SB3 ignores the ``n_steps`` of an algorithm with a replay buffer class of its
            own, so give it here.
        gamma: discount of n-step returns; give the algorithm's.

    Attributes:
        imagined: the imagined transitions, each rollout in successive rows.

    Raises:
        ConfigError: if the observations are not frames or another argument is out of range.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.spaces.Space[Any],
        action_space: gym.spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        imagined_size: int = 10_000,
        real_ratio: float = 0.5,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if not isinstance(observation_space, gym.spaces.Box) or not _holds_frames(observation_space):
            raise ConfigError(f"expected observations of uint8 frames, single or stacked, got {observation_space}")
        if min(imagined_size, n_steps) < 1 or not 0 <= real_ratio <= 1:
            raise ConfigError(
                "expected imagined_size and n_steps of at least 1 and a real_ratio in [0, 1], got "
                f"imagined_size={imagined_size}, n_steps={n_steps}, real_ratio={real_ratio}"
            )
        if optimize_memory_usage:
            raise ConfigError(
                "expected optimize_memory_usage=False, because the last frames of episodes are needed, got True: "
                "leave it out"
            )
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
            n_steps=n_steps,
            gamma=gamma,
        )
        self.imagined = NStepReplayBuffer(
            imagined_size, observation_space, action_space, self.device, n_steps=n_steps, gamma=gamma
        )
        self.real_ratio = real_ratio
        self._channel_axis = -3 if is_image_space_channels_first(observation_space) else -1

    @property
    def stack(self) -> int:
        """Frames in an observation."""
        return int(self.obs_shape[self._channel_axis]) // 3

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame, ``(H, W, 3)``."""
        return self.newest_frames(self.observations[:1, 0]).shape[1:]

    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest reward of the real transitions; there must be at least one."""
        rewards = self.rewards[: self.size()]
        return float(rewards.min()), float(rewards.max())

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one real step of every slot, as SB3 does.

        Raises:
            InvalidAction: if an action is not finite; nothing is stored.
            DataError: if a reward is not finite; nothing is stored.
        """
        _check_finite(action, reward)
        self.timeouts[self.pos] = 0
        super().add(obs, next_obs, action, reward, done, infos)

    def add_rollouts(
        self,
        frames: NDArray[np.uint8],
        actions: NDArray[Any],
        rewards: NDArray[np.float32],
        lengths: NDArray[np.int64],
        terminated: NDArray[np.bool_] | None = None,
    ) -> None:
        """Store the first ``lengths[b]`` transitions of each imagined rollout ``b``.

        Args:
            frames: uint8 ``[B, S + T, H, W, 3]``, the history and the imagined frames; S is at least ``stack``.
            actions: ``[B, T, A]`` as SB3 stores them: scaled to [-1, 1], or indices ``[B, T, 1]``.
            rewards: float32 ``[B, T]``.
            lengths: int64 ``[B]``, from 0 to T.
            terminated: bool ``[B]``, whether the last step ended the episode; None: it ended in none.

        Raises:
            InvalidAction: if an action is not finite; nothing is stored.
            DataError: if a reward is not finite; nothing is stored.
        """
        horizon = actions.shape[1]
        rows, steps = np.nonzero(np.arange(horizon) < lengths[:, None])  # rollout by rollout
        _check_finite(actions[rows, steps], rewards[rows, steps])
        recent = frames[:, frames.shape[1] - horizon - self.stack :]
        window = steps[:, None] + np.arange(self.stack)
        part = self.imagined
        places = (part.pos + np.arange(len(rows))) % part.buffer_size
        part.observations[places, 0] = self.stacked(recent[rows[:, None], window])
        part.next_observations[places, 0] = self.stacked(recent[rows[:, None], window + 1])
        part.actions[places, 0], part.rewards[places, 0] = actions[rows, steps], rewards[rows, steps]
        last = steps == lengths[rows] - 1
        ended = last & (False if terminated is None else terminated[rows])
        part.dones[places, 0], part.timeouts[places, 0] = ended, last & ~ended
        end = part.pos + len(rows)
        part.pos, part.full = end % part.buffer_size, part.full or end >= part.buffer_size

    def end_episodes(self) -> None:
        """End the episodes of all slots after the newest real step, because the environment is reset there."""
        newest = self.pos - 1
        self.timeouts[newest] = np.maximum(self.timeouts[newest], 1 - self.dones[newest])

    def reset(self) -> None:
        """Remove all transitions."""
        super().reset()
        self.imagined.reset()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Sample transitions uniformly from each part, the real ones first."""
        self.imagined.device = self.device  # SB3 changes the latter when it loads a buffer
        real = round(batch_size * self.real_ratio) if self.imagined.size() else batch_size
        samples = [super().sample(real, env)] if real else []
        if real < batch_size:
            samples.append(self.imagined.sample(batch_size - real, env))
        fields = 5 if self.n_steps == 1 else 6  # without discounts, SB3 uses the algorithm's gamma
        return ReplayBufferSamples(
            *(torch.cat(parts) for parts in zip(*(sample[:fields] for sample in samples), strict=True))
        )

    def segments(self, rng: np.random.Generator, count: int, length: int) -> Batch:
        """Sample segments of real episodes uniformly, to train a world model on.

        Args:
            rng: of the draw.
            count: number of segments, B.
            length: frames of a segment, L.

        Returns:
            Frames, uint8 ``[B, L, H, W, 3]``; actions as SB3 stores them, ``[B, L - 1, A]``; rewards, float32
            ``[B, L - 1]``; terminations, bool ``[B, L - 1]``, without the ends by time limits.

        Raises:
            DataError: if no episode has ``length`` frames.
        """
        steps, slots = self._draw_steps(rng, count, length - 1)
        last = self.next_observations[steps[:, -1:], slots]
        frames = self.newest_frames(np.concatenate([self.observations[steps, slots], last], axis=1))
        return Batch(
            torch.from_numpy(np.ascontiguousarray(frames)),
            torch.from_numpy(self.actions[steps, slots]),
            torch.from_numpy(self.rewards[steps, slots]),
            terminations=torch.from_numpy((self.dones > self.timeouts)[steps, slots]),
        )

    def starts(self, rng: np.random.Generator, count: int, context: int) -> NDArray[np.uint8]:
        """Sample real states uniformly, where imagined rollouts begin.

        Args:
            rng: of the draw.
            count: number of states, B.
            context: number of real frames of one episode that a state needs at least.

        Returns:
            History, uint8 ``[B, S, H, W, 3]``, oldest first, where S is the larger one of ``stack`` and ``context``.
            Frames before an episode's first are black, as in ``VecFrameStack``; the newest ``context`` frames are real.

        Raises:
            DataError: if no episode has ``context`` steps.
        """
        steps, slots = self._draw_steps(rng, count, context)
        if context > self.stack:
            return self.newest_frames(self.observations[steps, slots])
        return self._unstacked(self.observations[steps[:, -1], slots[:, 0]])

    def stacked(self, history: NDArray[np.uint8]) -> Observations:
        """Observations, uint8 ``[B, *obs_shape]``, of histories, uint8 ``[B, S, H, W, 3]``: their last frames."""
        frames = history[:, history.shape[1] - self.stack :]
        channels_last = np.moveaxis(frames, 1, 3).reshape(len(frames), *frames.shape[2:4], 3 * self.stack)
        return np.moveaxis(channels_last, -1, self._channel_axis)

    def newest_frames(self, observations: Observations) -> NDArray[np.uint8]:
        """The newest frames, uint8 ``[..., H, W, 3]``, of observations ``[..., *obs_shape]``."""
        return np.moveaxis(observations, self._channel_axis, -1)[..., -3:]

    def _unstacked(self, observations: Observations) -> NDArray[np.uint8]:
        """Inverse of :meth:`stacked`: histories, uint8 ``[B, stack, H, W, 3]``."""
        channels_last = np.moveaxis(observations, self._channel_axis, -1)
        frames = channels_last.reshape(*channels_last.shape[:3], self.stack, 3)
        return np.ascontiguousarray(np.moveaxis(frames, 3, 1))

    def _draw_steps(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows ``[count, length]`` of successive steps of one episode, and their slots ``[count, 1]``."""
        held = self.size()
        order = (np.arange(held) + self.pos * self.full) % self.buffer_size  # oldest first
        ended = np.maximum(self.dones, self.timeouts)[order] > 0
        ends_before = np.cumsum(np.pad(ended, ((1, 0), (0, 0))), axis=0)
        first, slots = np.nonzero(ends_before[length - 1 : held] == ends_before[: max(0, held - length + 1)])
        if not len(first):
            raise DataError(
                f"expected an episode with {length} successive steps in the replay buffer, got none in {held} steps: "
                "raise learning_starts or lower segment_length"
            )
        chosen = rng.integers(len(first), size=count)
        return order[first[chosen, None] + np.arange(length)], slots[chosen, None]


def _holds_frames(space: gym.spaces.Box[Any]) -> bool:
    """Whether the channels, the smallest of three dimensions for SB3, are those of whole frames."""
    return is_image_space(space) and min(space.shape) % 3 == 0


def _check_finite(actions: NDArray[Any], rewards: NDArray[Any]) -> None:
    if not np.isfinite(actions).all():
        raise InvalidAction(f"expected finite actions, got {actions}: nothing was stored")
    if not np.isfinite(rewards).all():
        raise DataError(f"expected finite rewards, got {rewards}: nothing was stored")
