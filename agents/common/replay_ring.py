"""The memory of a replay: a ring of single frames, and a table of the episodes in it.

Every frame is stored once. The frames of an episode lie next to each other, so its frame stacks and n-step returns are
ranges of places, cut off at its ends. The memory does not grow: new frames overwrite the oldest.

Shapes: N episodes, T steps, H x W pixels, A action dimension.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from worldgym.errors import ConfigError

REAL = np.iinfo(np.int64).max
"""``made_at`` of episodes that come from no model: they are never too old."""

FIELDS = ("begin", "first", "end", "made_at", "terminated")
EPISODE = np.dtype([(name, np.int64) for name in FIELDS])
"""A row of the table of episodes: positions of its oldest frame that is left, of the oldest step that may be sampled,
and of its newest frame; the version of the model that made it; 1 if it terminated. Positions count all frames ever
added; position p is at place p modulo the ring's size."""

Positions: TypeAlias = NDArray[np.int64]
Episodes: TypeAlias = NDArray[np.void]


@dataclass(frozen=True)
class ReplaySettings:
    """The arguments of a :class:`worldgym.agents.common.replay.ReplayBuffer`, checked.

    Raises:
        ConfigError: for values out of range.
    """

    frame_shape: tuple[int, ...]
    action_dim: int
    capacity: int
    capacity_bytes: int | None
    frame_stack: int
    n_step: int
    discount: float

    def __post_init__(self) -> None:
        if len(self.frame_shape) != 3 or self.frame_shape[2] != 3 or min(self.frame_shape) < 1:
            raise ConfigError(f"frame_shape: expected (height, width, 3), got {self.frame_shape}")
        for name in ("action_dim", "capacity", "frame_stack", "n_step"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount: expected a number in [0, 1], got {self.discount}")
        if self.places <= self.frame_stack:
            raise ConfigError(
                f"capacity_bytes: expected at least {(self.frame_stack + 1) * self.place_bytes}, for one step of "
                f"{self.frame_stack + 1} frames, got {self.capacity_bytes}"
            )

    @property
    def place_bytes(self) -> int:
        """Bytes of a frame, an action, a reward, and a row of the table of episodes."""
        return int(np.prod(self.frame_shape)) + 4 * self.action_dim + 4 + EPISODE.itemsize

    @property
    def places(self) -> int:
        """Number of frames that the ring can hold."""
        # A sixteenth more than steps, for the frames that begin no step: each episode has one at its end.
        places = self.capacity + self.capacity // 16 + self.frame_stack + 1
        return places if self.capacity_bytes is None else min(places, self.capacity_bytes // self.place_bytes)


class ReplayRing:
    """Stores frames, actions and rewards, and removes the oldest. It checks nothing: the replay buffer does.

    Args:
        settings: sizes.

    Attributes:
        frames: uint8 ``[places, H, W, 3]``.
        actions: float32 ``[places, A]``; the action taken at a frame.
        rewards: float32 ``[places]``; the reward of that action.
        episodes: the table, sorted by position; an open episode is the last row.
        open: whether steps can be added to the last episode.
        head: position of the next frame.
        steps: number of steps that can be sampled.

    Raises:
        ConfigError: if there is not enough memory.
    """

    def __init__(self, settings: ReplaySettings) -> None:
        self.settings, self.places = settings, settings.places
        try:
            self.frames = np.zeros((self.places, *settings.frame_shape), np.uint8)
            self.actions = np.zeros((self.places, settings.action_dim), np.float32)
            self.rewards = np.zeros(self.places, np.float32)
        except MemoryError as error:
            gigabytes = self.places * settings.place_bytes / 1e9
            raise ConfigError(
                f"a replay of {settings.capacity} steps takes {gigabytes:.1f} GB: set capacity_bytes"
            ) from error
        self.episodes: Episodes = np.zeros(0, EPISODE)
        self.open = False
        self.head = self.steps = 0

    @property
    def nbytes(self) -> int:
        """Bytes reserved; the operating system provides them as they are filled."""
        return sum(array.nbytes for array in (self.frames, self.actions, self.rewards, self.episodes))

    @property
    def filled(self) -> int:
        """Number of places that hold a frame."""
        return min(self.head, self.places)

    def begin_episode(self, frame: NDArray[np.uint8]) -> None:
        """Open an episode with its first frame, ``[H, W, 3]``; an open one ends."""
        self.end_episode()
        self.frames[self.head % self.places] = frame
        self.open = True
        self._add_rows(np.array([self.head]), context=1, length=1, made_at=REAL)

    def add_step(
        self, action: NDArray[np.float32], reward: NDArray[np.float32], frame: NDArray[np.uint8], terminated: bool
    ) -> None:
        """Add an action ``[A]``, its reward ``[]`` and the next frame ``[H, W, 3]`` to the open episode."""
        last = (self.head - 1) % self.places
        self.actions[last], self.rewards[last] = action, reward
        self.frames[self.head % self.places] = frame
        self.episodes["end"][-1] += 1
        self.episodes["terminated"][-1] = terminated
        self.head += 1
        self.steps += 1
        self._trim()

    def end_episode(self) -> None:
        """Close the open episode, if there is one; without a step it is removed."""
        if self.open:
            self.open = False
            self.keep(self.episodes["end"] > self.episodes["first"])

    def add_episodes(
        self,
        frames: NDArray[np.uint8],
        actions: NDArray[np.float32],
        rewards: NDArray[np.float32],
        context: int,
        made_at: int,
        terminated: NDArray[np.bool_],
    ) -> None:
        """Add whole episodes, ``[N, context + T, ...]`` and ``[N, T, ...]``; of more than fit the newest are stored."""
        self.end_episode()
        length = frames.shape[1]
        newest = slice(max(0, len(frames) - self.places // length), None)
        positions = self.head + np.arange(len(frames[newest]) * length).reshape(-1, length)
        places = positions % self.places
        self.frames[places] = frames[newest]
        leading = places[:, context - 1 : -1]
        self.actions[leading], self.rewards[leading] = actions[newest], rewards[newest]
        self._add_rows(positions[:, 0], context, length, made_at, terminated[newest])

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Remove all episodes but some, given as a mask over the table."""
        self.episodes = self.episodes[kept]
        self.steps = int((self.episodes["end"] - self.episodes["first"]).sum())

    def _add_rows(
        self, begins: Positions, context: int, length: int, made_at: int, terminated: NDArray[np.bool_] | bool = False
    ) -> None:
        """Describe episodes of ``length`` frames each, which are in the ring from the head on, and move the head."""
        added = np.zeros(len(begins), EPISODE)
        added["begin"], added["first"], added["end"] = begins, begins + context - 1, begins + length - 1
        added["made_at"], added["terminated"] = made_at, terminated
        self.episodes = np.concatenate([self.episodes, added])
        self.head += len(begins) * length
        self.steps += len(begins) * (length - context)
        self._trim()

    def _trim(self) -> None:
        """Remove what was overwritten, and the oldest steps beyond the capacity."""
        episodes, oldest = self.episodes, self.head - self.places
        excess = self.steps - self.settings.capacity
        if not len(episodes) or (episodes["begin"][0] >= oldest and excess <= 0):
            return
        first = episodes["first"]  # a view, changed in place
        cut = episodes["begin"] < oldest
        episodes["begin"][cut] = oldest
        first[cut] = np.maximum(first[cut], oldest + self.settings.frame_stack - 1)
        steps = np.maximum(episodes["end"] - first, 0)
        before = np.cumsum(steps) - steps
        first += np.clip(steps.sum() - self.settings.capacity - before, 0, steps)
        kept = episodes["end"] > first
        kept[-1] |= self.open
        self.keep(kept)
