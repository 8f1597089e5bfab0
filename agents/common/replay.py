"""An agent's replay of real or imagined steps, from which frame stacks, n-step returns and segments are sampled.

Shapes: B batch rows, S stacked frames, L frames of a segment, N episodes, T steps, H x W pixels, A action dimension.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldgym.agents.common.replay_file import read_replay, read_settings, write_replay
from worldgym.agents.common.replay_ring import REAL, Episodes, Positions, ReplayRing, ReplaySettings
from worldgym.agents.common.transitions import Starts, Transitions
from worldgym.data.episode import Episode
from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError, DataError, InvalidAction, InvalidFrames, ResetNeeded


class ReplayBuffer:
    """The newest steps, sampled uniformly, with the frame stacks that the agent saw.

    A step whose frame stack was partly overwritten is never sampled. The steps of an open episode can be sampled as
    soon as they are added; they bootstrap from its newest frame.

    Args:
        frame_shape: of one frame, ``(H, W, 3)``.
        action_dim: A.
        capacity: the most steps to hold. If episodes are so short (or their contexts so long) that fewer than 16 steps
            come with each frame that begins no step, the oldest steps are removed earlier.
        capacity_bytes: the most bytes to hold; the smaller of the two limits counts.
        frame_stack: S.
        n_step: steps whose rewards are summed.
        discount: gamma.

    Attributes:
        settings: the arguments.

    Raises:
        ConfigError: for values out of range, or if there is not enough memory.
    """

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        action_dim: int,
        capacity: int,
        *,
        capacity_bytes: int | None = None,
        frame_stack: int = 3,
        n_step: int = 3,
        discount: float = 0.99,
    ) -> None:
        self.settings = ReplaySettings(
            tuple(int(size) for size in frame_shape),
            int(action_dim),
            int(capacity),
            None if capacity_bytes is None else int(capacity_bytes),
            int(frame_stack),
            int(n_step),
            float(discount),
        )
        self._ring = ReplayRing(self.settings)
        self._powers = np.power(self.settings.discount, np.arange(self.settings.n_step + 1)).astype(np.float32)

    def __len__(self) -> int:
        """Number of steps that can be sampled."""
        return self._ring.steps

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._ring.nbytes

    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest reward of all steps.

        Raises:
            DataError: if the replay is empty.
        """
        if not len(self):
            raise DataError("expected a replay with steps, got an empty one: add steps before asking for their rewards")
        ranges = self._ring.episodes[["first", "end"]].tolist()
        steps = np.concatenate([np.arange(first, end) for first, end in ranges])
        rewards = self._ring.rewards[steps % self._ring.places]
        return float(rewards.min()), float(rewards.max())

    def start(self, frame: ArrayLike) -> None:
        """Begin an episode with its first frame, uint8 ``[H, W, 3]``; an open episode ends there, truncated.

        Raises:
            InvalidFrames: for another shape or dtype; nothing is changed then.
        """
        self._ring.begin_episode(self._checked_frames(frame, ()))

    def add(self, action: ArrayLike, reward: float, frame: ArrayLike, terminated: bool, truncated: bool) -> None:
        """Add one step to the open episode.

        Args:
            action: float32 ``[A]``; led to ``frame``.
            reward: of the step, a single number.
            frame: uint8 ``[H, W, 3]``.
            terminated: whether the episode terminated at ``frame``.
            truncated: whether it was truncated there.

        Raises:
            ResetNeeded: if no episode is open.
            InvalidAction, InvalidFrames, DataError: for a wrong shape or dtype, or values that are not finite; nothing
                is stored then.
        """
        if not self._ring.open:
            raise ResetNeeded("expected an open episode, got none: call start(frame) with the frame of the reset first")
        values = self._checked_actions(action, ()), _to_float32(reward, (), "rewards", DataError)
        self._ring.add_step(*values, self._checked_frames(frame, ()), bool(terminated))
        if terminated or truncated:
            self._ring.end_episode()

    def add_episodes(
        self,
        frames: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        *,
        context: int = 1,
        made_at: int = 0,
        terminated: ArrayLike | None = None,
    ) -> None:
        """Add N whole episodes of T steps; an open episode ends before them.

        Args:
            frames: uint8 ``[N, context + T, H, W, 3]``.
            actions: float32 ``[N, T, A]``; the first leads from frame ``context - 1`` to the next.
            rewards: float32 ``[N, T]``.
            context: frames before the first action, 1 or more; they fill the first stacks.
            made_at: version of the world model that made them, for :meth:`evict_before`.
            terminated: bool ``[N]``, whether the last step of each ended it; None: all were truncated.

        Raises:
            InvalidAction, InvalidFrames, DataError: for a wrong shape or dtype, values that are not finite, or an
                episode longer than the ring; nothing is stored then.
        """
        shape = np.shape(actions)
        if len(shape) != 3 or not shape[1] or context < 1:
            raise InvalidAction(
                f"expected actions [episodes, steps, {self.settings.action_dim}] of at least 1 step, after at least 1 "
                f"frame of context, got {list(shape)} after {context}"
            )
        (count, steps), length = shape[:2], context + shape[1]
        checked_actions = self._checked_actions(actions, (count, steps))
        checked_rewards = _to_float32(rewards, (count, steps), "rewards", DataError)
        checked_frames = self._checked_frames(frames, (count, length))
        if length > self._ring.places:
            raise DataError(
                f"expected episodes of at most {self._ring.places} frames, which this replay holds, got {length}: "
                "raise its capacity"
            )
        ended = np.zeros(count, np.bool_) if terminated is None else np.asarray(terminated, np.bool_)
        if ended.shape != (count,):
            raise DataError(f"expected terminated bool [{count}], got shape {list(ended.shape)}; nothing was stored")
        self._ring.add_episodes(checked_frames, checked_actions, checked_rewards, context, made_at, ended)

    def add_demonstration(self, episode: Episode) -> None:
        """Add a recorded episode, its actions clipped to [-1, 1]; :meth:`evict_before` never removes it.

        Raises:
            InvalidAction, InvalidFrames, DataError: as in :meth:`add_episodes`.
        """
        actions = np.clip(episode.actions, -1, 1)
        terminated = [episode.info.terminated]
        self.add_episodes(
            episode.frames[None], actions[None], episode.rewards[None], made_at=REAL, terminated=terminated
        )

    def evict_before(self, made_at: int) -> None:
        """Remove the episodes that older versions of the world model made."""
        self._ring.keep(self._ring.episodes["made_at"] >= made_at)

    def sample(self, rng: np.random.Generator, batch_size: int) -> Transitions:
        """A batch, sampled uniformly over steps with replacement.

        Raises:
            DataError: if the replay is empty.
        """
        batch = self.empty_batch(batch_size)
        self.sample_into(rng, batch)
        return batch

    def empty_batch(self, batch_size: int) -> Transitions:
        """Uninitialised memory for a batch."""
        stacks = (batch_size, self.settings.frame_stack, *self.settings.frame_shape)
        return Transitions(
            _empty(stacks, np.uint8),
            _empty((batch_size, self.settings.action_dim), np.float32),
            _empty((batch_size,), np.float32),
            _empty((batch_size,), np.float32),
            _empty(stacks, np.uint8),
        )

    def sample_into(self, rng: np.random.Generator, batch: Transitions) -> None:
        """Fill a batch; raises as :meth:`sample`."""
        ring = self._ring
        episodes, steps = self._draw(rng, len(batch.rewards))
        stops = np.minimum(steps + self.settings.n_step, episodes["end"])
        terminated = (stops == episodes["end"]) & (episodes["terminated"] == 1)
        self._gather_stacks(episodes, steps, batch.frames)
        self._gather_stacks(episodes, stops, batch.next_frames)
        batch.actions.numpy()[:] = ring.actions[steps % ring.places]
        batch.rewards.numpy()[:] = self._returns(steps, stops)
        batch.discounts.numpy()[:] = np.where(terminated, 0, self._powers[stops - steps])

    def segments(self, rng: np.random.Generator, count: int, length: int) -> Batch:
        """Segments of ``length`` frames in a row, sampled uniformly over the places where one can begin.

        Args:
            rng: samples the places.
            count: number of segments, B.
            length: L.

        Raises:
            ConfigError: for a length below 1.
            DataError: if no episode is that long.
        """
        if length < 1:
            raise ConfigError(f"length: expected segments of at least 1 frame, got {length}")
        return self._segments(self._draw(rng, count, length)[1], length)

    def newest(self, length: int) -> Batch:
        """The newest episode from its first frame on, as segments of ``length`` frames; none if it is shorter.

        Each segment begins with the last frame of the one before.
        """
        table = self._ring.episodes
        begin, end = (table[name][-1] for name in ("begin", "end")) if len(table) else (0, -1)
        return self._segments(np.arange(begin, end - length + 2, max(1, length - 1)), length)

    def real_episodes(self) -> list[Batch]:
        """Every complete real episode, oldest first, each a batch of one segment; neither cut off nor open."""
        table = self._ring.episodes
        whole = (table["made_at"] == REAL) & (table["first"] == table["begin"])
        if self._ring.open:
            whole[-1] = False
        bounds = table[whole][["begin", "end"]].tolist()
        return [self._segments(np.array([begin]), end - begin + 1) for begin, end in bounds]

    def starts(self, rng: np.random.Generator, batch_size: int, length: int | None = None, steps: int = 0) -> Starts:
        """What went before some steps, sampled uniformly: from there rollouts start.

        Args:
            rng: samples the steps.
            batch_size: number of starts, B.
            length: number of frames, L; None: as many as in a stack.
            steps: number of actions before the newest frame, K.

        Raises:
            DataError: if the replay is empty.
        """
        frames = _empty((batch_size, length or self.settings.frame_stack, *self.settings.frame_shape), np.uint8)
        episodes, newest = self._draw(rng, batch_size)
        self._gather_stacks(episodes, newest, frames)
        known = np.minimum(newest - episodes["first"], steps)
        actions = self._ring.actions[(newest[:, None] + np.arange(-steps, 0)) % self._ring.places]
        actions[np.arange(steps) < steps - known[:, None]] = 0
        return Starts(frames.numpy(), actions, known)

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically, an open episode included.

        Raises:
            StorageError: if the file cannot be written; an earlier file of this name is kept.
        """
        write_replay(path, self._ring)

    @classmethod
    def load(cls, path: Path) -> "ReplayBuffer":
        """The replay in a file; it continues exactly as the saved one would have.

        Raises:
            CheckpointError: if the file is missing, damaged or of another format.
        """
        settings = dict(vars(read_settings(path)))
        replay = cls(settings.pop("frame_shape"), settings.pop("action_dim"), settings.pop("capacity"), **settings)
        replay.restore(path)
        return replay

    def restore(self, path: Path) -> None:
        """Become the replay in a file, which must have the same settings.

        Raises:
            CheckpointError: as in :meth:`load`, and for other settings. Nothing is changed then.
        """
        read_replay(path, self._ring)

    def _draw(self, rng: np.random.Generator, count: int, length: int = 2) -> tuple[Episodes, Positions]:
        """Positions, sampled uniformly, from which ``length`` frames of an episode are left, and their episodes."""
        table = self._ring.episodes
        places = np.maximum(table["end"] - table["first"] + 2 - length, 0)
        cumulative = np.cumsum(places)
        if not len(places) or not cumulative[-1]:
            raise DataError(
                f"expected an episode of at least {length} frames in the replay, got {len(self)} steps in {len(table)} "
                "episodes: add more steps before sampling"
            )
        drawn = rng.integers(cumulative[-1], size=count)
        rows = np.searchsorted(cumulative, drawn, side="right")
        episodes = table[rows]
        return episodes, episodes["first"] + drawn - (cumulative - places)[rows]

    def _segments(self, begins: Positions, length: int) -> Batch:
        ring = self._ring
        places = (begins[:, None] + np.arange(length)) % ring.places
        frames = _empty((*places.shape, *self.settings.frame_shape), np.uint8)
        self._gather(places, frames)
        leading = places[:, :-1]
        ends = ring.episodes["end"][ring.episodes["terminated"] == 1]
        terminations = np.isin(begins[:, None] + np.arange(1, length), ends)
        actions, rewards = torch.from_numpy(ring.actions[leading]), torch.from_numpy(ring.rewards[leading])
        return Batch(frames, actions, rewards, terminations=torch.from_numpy(terminations))

    def _returns(self, steps: Positions, stops: Positions) -> NDArray[np.float32]:
        """Discounted sums of the rewards from each step to its stop, float32 ``[B]``."""
        window = steps[:, None] + np.arange(self.settings.n_step)
        rewards = np.where(window < stops[:, None], self._ring.rewards[window % self._ring.places], np.float32(0))
        summed: NDArray[np.float32] = (rewards * self._powers[:-1]).sum(axis=1)
        return summed

    def _gather_stacks(self, episodes: Episodes, newest: Positions, into: Tensor) -> None:
        """The frames up to each ``newest`` one; before an episode's beginning its first frame is repeated."""
        window = newest[:, None] + np.arange(1 - into.shape[1], 1)
        self._gather(np.maximum(window, episodes["begin"][:, None]) % self._ring.places, into)

    def _gather(self, places: Positions, into: Tensor) -> None:
        # mode="clip", because with index checks NumPy gathers into a buffer of its own and copies that.
        np.take(self._ring.frames, places, axis=0, out=into.numpy(), mode="clip")

    def _checked_frames(self, frames: ArrayLike, leading: tuple[int, ...]) -> NDArray[np.uint8]:
        given, shape = np.asarray(frames), (*leading, *self.settings.frame_shape)
        if given.dtype != np.uint8 or given.shape != shape:
            raise InvalidFrames(
                f"expected frames uint8 {list(shape)}, got {given.dtype} {list(given.shape)}; nothing was stored"
            )
        return given

    def _checked_actions(self, actions: ArrayLike, leading: tuple[int, ...]) -> NDArray[np.float32]:
        return _to_float32(actions, (*leading, self.settings.action_dim), "actions", InvalidAction)


def _to_float32(
    values: ArrayLike, shape: tuple[int, ...], name: str, error: type[InvalidAction] | type[DataError]
) -> NDArray[np.float32]:
    """Numbers as float32 of a shape. Raises ``error`` for another shape or dtype, and values that are not finite."""
    given = np.asarray(values)
    if given.dtype.kind not in "buif" or given.shape != shape:
        raise error(f"expected {name} float32 {list(shape)}, got {given.dtype} {list(given.shape)}; nothing was stored")
    with np.errstate(over="ignore"):
        converted = given.astype(np.float32)
    if not np.isfinite(converted).all():
        index = tuple(int(place) for place in np.argwhere(~np.isfinite(converted))[0])
        at = f" at index {index}" if index else ""
        raise error(f"expected {name} that are finite in float32, got {given[index]}{at}; nothing was stored")
    return converted


def _empty(shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    # NumPy's memory comes in huge pages and torch's does not; touching new small pages takes longer than the copy.
    return torch.from_numpy(np.empty(shape, dtype))
