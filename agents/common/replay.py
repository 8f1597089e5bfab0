"""What an agent remembers: a ring of single frames, from which stacks, n-step returns and segments are drawn.

Every frame is stored once. The frames of an episode stand one behind the other, so that its stacks and returns are
ranges of places, cut off at its ends. Memory does not grow: new frames take the places of the oldest.

Shapes: B batch rows, S stacked frames, L frames of a segment, N episodes, T steps, H x W pixels, A action dimension.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from worldgym.config import from_dict
from worldgym.data.episode import Episode
from worldgym.data.recordings import Batch
from worldgym.errors import CheckpointError, ConfigError, DataError, InvalidAction, InvalidFrames, ResetNeeded
from worldgym.storage.files import atomic_write, parse_json

FORMAT = "worldgym-replay-1"
REAL = np.iinfo(np.int64).max
"""``made_at`` of episodes that no model made: they are never too old."""

_Rows = NDArray[np.int64]
_Episodes = NDArray[np.void]
_FIELDS = ("begin", "first", "end", "made_at", "terminated")
_EPISODE = np.dtype([(name, np.int64) for name in _FIELDS])
"""An episode. Positions count all frames ever added, and position p stands at place p modulo the ring's size: of the
oldest frame still there, of the oldest step that may be drawn, of the newest frame."""
_FILE_BLOCK = 1024  # frames read from a file at a time, so that no second copy of them all is made


class Transitions(NamedTuple):
    """A batch of steps: tensors on the CPU, contiguous."""

    frames: Tensor
    """uint8 ``[B, S, H, W, 3]``, oldest first."""
    actions: Tensor
    """float32 ``[B, A]``."""
    rewards: Tensor
    """float32 ``[B]``: the discounted sum over n steps, or over as many as the episode has left."""
    discounts: Tensor
    """float32 ``[B]``: what the value of ``next_frames`` counts, gamma^k; 0 where the episode terminated there."""
    next_frames: Tensor
    """uint8 ``[B, S, H, W, 3]``: k steps later."""


@dataclass(frozen=True)
class Settings:
    """What a :class:`ReplayBuffer` is made with; its arguments, checked."""

    frame_shape: tuple[int, ...]
    action_dim: int
    capacity: int
    capacity_bytes: int | None
    frame_stack: int
    n_step: int
    discount: float

    def __post_init__(self) -> None:
        if len(self.frame_shape) != 3 or self.frame_shape[2] != 3 or min(self.frame_shape) < 1:
            raise ConfigError(f"a replay keeps frames [height, width, 3], got frame_shape {self.frame_shape}")
        if min(self.action_dim, self.capacity, self.frame_stack, self.n_step) < 1:
            raise ConfigError(f"action_dim, capacity, frame_stack and n_step must be positive, got {self}")
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount must lie in [0, 1], got {self.discount}")
        if self.places <= self.frame_stack:
            raise ConfigError(
                f"capacity_bytes={self.capacity_bytes} holds {self.places} frames of {self.place_bytes} bytes, and one "
                f"step takes {self.frame_stack + 1}: allow {(self.frame_stack + 1) * self.place_bytes} or more"
            )

    @property
    def place_bytes(self) -> int:
        """Of a frame, an action and a reward, and of an episode that may begin here."""
        return int(np.prod(self.frame_shape)) + 4 * self.action_dim + 4 + _EPISODE.itemsize

    @property
    def places(self) -> int:
        """How many frames the ring holds."""
        # A sixteenth more than steps, for the frames that begin no step: each episode has one at its end.
        places = self.capacity + self.capacity // 16 + self.frame_stack + 1
        return places if self.capacity_bytes is None else min(places, self.capacity_bytes // self.place_bytes)


class ReplayBuffer:
    """The newest steps, drawn uniformly, with the frame stacks that the agent saw.

    A step whose stack the ring has partly overwritten is never drawn. The steps of an open episode can be drawn as soon
    as they are added; they bootstrap from its newest frame.
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
        """Reserve the memory; the operating system hands it out as it fills.

        Args:
            frame_shape: of one frame, ``(H, W, 3)``.
            action_dim: A.
            capacity: steps held at most. Where episodes are so short (or their contexts so long) that fewer than 16
                steps come with each frame that begins none, the oldest steps go earlier.
            capacity_bytes: bytes held at most; the smaller of the two rules.
            frame_stack: S.
            n_step: steps whose rewards are summed.
            discount: gamma.

        Raises:
            ConfigError: for values that make no sense, or memory that there is not.
        """
        shape = tuple(int(size) for size in frame_shape)
        most = None if capacity_bytes is None else int(capacity_bytes)
        self.settings = Settings(
            shape, int(action_dim), int(capacity), most, int(frame_stack), int(n_step), float(discount)
        )
        self._places = self.settings.places
        try:
            self._frames = np.zeros((self._places, *shape), np.uint8)
            self._actions = np.zeros((self._places, action_dim), np.float32)
            self._rewards = np.zeros(self._places, np.float32)
        except MemoryError as error:
            gigabytes = self._places * self.settings.place_bytes / 1e9
            raise ConfigError(f"a replay of {capacity} steps takes {gigabytes:.1f} GB: set capacity_bytes") from error
        self._episodes: _Episodes = np.zeros(0, _EPISODE)  # sorted by position; an open one is the last
        self._open = False
        self._head = 0  # position of the next frame
        self._steps = 0
        self._powers = np.power(discount, np.arange(n_step + 1)).astype(np.float32)

    def __len__(self) -> int:
        """Steps held, all of which can be drawn."""
        return self._steps

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(array.nbytes for array in (self._frames, self._actions, self._rewards, self._episodes))

    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest reward of all steps held.

        Raises:
            DataError: for an empty replay.
        """
        if not len(self):
            raise DataError("the replay is empty: there is no reward in it yet")
        steps = np.concatenate([np.arange(first, end) for first, end in self._episodes[["first", "end"]].tolist()])
        rewards = self._rewards[steps % self._places]
        return float(rewards.min()), float(rewards.max())

    # Adding

    def start(self, frame: ArrayLike) -> None:
        """Open an episode with its first frame, uint8 ``[H, W, 3]``; one that was open ends there, truncated.

        Raises:
            InvalidFrames: for another shape or dtype; nothing is changed then.
        """
        checked = self._checked_frames(frame, ())
        self._close()
        self._frames[self._head % self._places] = checked
        self._open = True
        self._append(np.array([self._head]), context=1, frames=1, made_at=REAL)

    def add(self, action: ArrayLike, reward: float, frame: ArrayLike, terminated: bool, truncated: bool) -> None:
        """One step of the open episode: the action (float32 ``[A]``) that led to ``frame`` (uint8 ``[H, W, 3]``).

        Raises:
            ResetNeeded: where no episode is open.
            InvalidAction, InvalidFrames, DataError: for a wrong shape or dtype, or values that are not finite; nothing
                is stored then.
        """
        if not self._open:
            raise ResetNeeded("no episode is open in this replay: call start(frame) with the frame of the reset first")
        values = self._checked_actions(action, ()), _checked_rewards(reward, ()), self._checked_frames(frame, ())
        last = (self._head - 1) % self._places
        self._actions[last], self._rewards[last], self._frames[self._head % self._places] = values
        self._episodes["end"][-1] += 1
        self._episodes["terminated"][-1] = bool(terminated)
        self._head += 1
        self._steps += 1
        self._trim()
        if terminated or truncated:
            self._close()

    def add_episodes(
        self, frames: ArrayLike, actions: ArrayLike, rewards: ArrayLike, *, context: int = 1, made_at: int = 0
    ) -> None:
        """N whole episodes of T steps at once, all truncated; an episode that was open ends before them.

        Args:
            frames: uint8 ``[N, context + T, H, W, 3]``.
            actions: float32 ``[N, T, A]``; the first leads from frame ``context - 1`` to the next.
            rewards: float32 ``[N, T]``.
            context: frames before the first action, 1 or more; they fill the first stacks.
            made_at: which version of the world model made them, for :meth:`evict_before`.

        Raises:
            InvalidAction, InvalidFrames, DataError: for a wrong shape or dtype, values that are not finite, or an
                episode longer than the ring; nothing is stored then.
        """
        given = np.asarray(actions)
        if given.ndim != 3 or not given.shape[1] or context < 1:
            raise InvalidAction(
                f"expected actions [episodes, steps, {self.settings.action_dim}] of 1 step or more behind 1 frame of "
                f"context or more, got {list(given.shape)} behind {context}"
            )
        (count, steps), length = given.shape[:2], context + given.shape[1]
        values = self._checked_actions(given, (count, steps)), _checked_rewards(rewards, (count, steps))
        checked = self._checked_frames(frames, (count, length))
        if length > self._places:
            raise DataError(
                f"an episode of {length} frames does not fit a replay of {self._places}: raise its capacity"
            )
        self._close()
        newest = slice(max(0, count - self._places // length), None)
        positions = self._head + np.arange(len(checked[newest]) * length).reshape(-1, length)
        places, leading = positions % self._places, slice(context - 1, -1)
        self._frames[places] = checked[newest]
        self._actions[places[:, leading]], self._rewards[places[:, leading]] = (part[newest] for part in values)
        self._append(positions[:, 0], context, length, made_at)

    def add_demonstration(self, episode: Episode) -> None:
        """A recorded episode, its actions clipped to [-1, 1]; no model made it, so :meth:`evict_before` leaves it.

        Raises:
            As :meth:`add_episodes`.
        """
        actions = np.clip(episode.actions, -1, 1)
        self.add_episodes(episode.frames[None], actions[None], episode.rewards[None], made_at=REAL)

    def evict_before(self, made_at: int) -> None:
        """Forget the episodes that older versions of the world model made."""
        self._keep(self._episodes["made_at"] >= made_at)

    def _append(self, begins: _Rows, context: int, frames: int, made_at: int) -> None:
        """Describe episodes whose ``frames`` frames each stand in the ring from the head on, and move the head."""
        added = np.zeros(len(begins), _EPISODE)
        added["begin"], added["first"], added["end"] = begins, begins + context - 1, begins + frames - 1
        added["made_at"] = made_at
        self._episodes = np.concatenate([self._episodes, added])
        self._head += len(begins) * frames
        self._steps += len(begins) * (frames - context)
        self._trim()

    def _close(self) -> None:
        """End the open episode, if there is one; without a step it is forgotten."""
        if self._open:
            self._open = False
            self._keep(self._episodes["end"] > self._episodes["first"])

    def _trim(self) -> None:
        """Give up what was overwritten, and the oldest steps beyond the capacity."""
        episodes, oldest = self._episodes, self._head - self._places
        excess = self._steps - self.settings.capacity
        if not len(episodes) or (episodes["begin"][0] >= oldest and excess <= 0):
            return
        first = episodes["first"]  # a view, changed in place
        cut = episodes["begin"] < oldest
        episodes["begin"][cut] = oldest
        first[cut] = np.maximum(first[cut], oldest + self.settings.frame_stack - 1)
        steps = np.maximum(episodes["end"] - first, 0)
        before = np.cumsum(steps) - steps
        first += np.clip(steps.sum() - self.settings.capacity - before, 0, steps)
        keep = episodes["end"] > first
        keep[-1] |= self._open
        self._keep(keep)

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        self._episodes = self._episodes[keep]
        self._steps = int((self._episodes["end"] - self._episodes["first"]).sum())

    def _checked_frames(self, frames: ArrayLike, leading: tuple[int, ...]) -> NDArray[np.uint8]:
        given, shape = np.asarray(frames), (*leading, *self.settings.frame_shape)
        if given.dtype != np.uint8 or given.shape != shape:
            raise InvalidFrames(f"this replay keeps uint8 frames {list(shape)}, got {given.dtype} {list(given.shape)}")
        return given

    def _checked_actions(self, actions: ArrayLike, leading: tuple[int, ...]) -> NDArray[np.float32]:
        given, shape = _as_float32(actions), (*leading, self.settings.action_dim)
        if given.shape != shape:
            raise InvalidAction(f"this replay keeps actions {list(shape)}, got {list(given.shape)}")
        if not np.isfinite(given).all():
            raise InvalidAction(f"expected finite actions, got {_first_broken(given)}; nothing was stored")
        return given

    # Drawing

    def sample(self, rng: np.random.Generator, batch_size: int) -> Transitions:
        """A batch drawn uniformly over steps, with replacement.

        Raises:
            DataError: where no step is held.
        """
        batch = self.empty_batch(batch_size)
        self.sample_into(rng, batch)
        return batch

    def empty_batch(self, batch_size: int) -> Transitions:
        """Memory for a batch."""
        stacks = (batch_size, self.settings.frame_stack, *self.settings.frame_shape)
        return Transitions(
            _empty_frames(stacks),
            torch.empty(batch_size, self.settings.action_dim),
            torch.empty(batch_size),
            torch.empty(batch_size),
            _empty_frames(stacks),
        )

    def sample_into(self, rng: np.random.Generator, batch: Transitions) -> None:
        """Fill a batch; raises as :meth:`sample` does."""
        episodes, steps = self._draw(rng, len(batch.rewards))
        stops = np.minimum(steps + self.settings.n_step, episodes["end"])
        terminated = (stops == episodes["end"]) & (episodes["terminated"] == 1)
        self._gather_stacks(episodes, steps, batch.frames)
        self._gather_stacks(episodes, stops, batch.next_frames)
        batch.actions.numpy()[:] = self._actions[steps % self._places]
        batch.rewards.numpy()[:] = self._returns(steps, stops)
        batch.discounts.numpy()[:] = np.where(terminated, 0, self._powers[stops - steps])

    def segments(self, rng: np.random.Generator, batch_size: int, length: int) -> Batch:
        """Segments of ``length`` neighbouring frames, drawn uniformly over the places where one can begin.

        Raises:
            ConfigError: for a length below 1.
            DataError: where no episode is that long.
        """
        if length < 1:
            raise ConfigError(f"a segment has at least 1 frame, got a length of {length}")
        return self._segments(self._draw(rng, batch_size, length)[1], length)

    def newest(self, length: int) -> Batch:
        """The newest episode from its first frame on, in segments of ``length`` frames, each from the last one of the
        segment before it; none where the episode is shorter.
        """
        begin, end = (self._episodes[name][-1] for name in ("begin", "end")) if len(self._episodes) else (0, -1)
        return self._segments(np.arange(begin, end - length + 2, max(1, length - 1)), length)

    def _segments(self, begins: _Rows, length: int) -> Batch:
        places = (begins[:, None] + np.arange(length)) % self._places
        frames = _empty_frames((*places.shape, *self.settings.frame_shape))
        self._gather(places, frames)
        leading = places[:, :-1]
        return Batch(frames, torch.from_numpy(self._actions[leading]), torch.from_numpy(self._rewards[leading]))

    def starts(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.uint8]:
        """Frame stacks drawn uniformly over steps, where imagined rollouts begin: uint8 ``[B, S, H, W, 3]``.

        Raises:
            DataError: where no step is held.
        """
        stacks = self.empty_batch(batch_size).frames
        self._gather_stacks(*self._draw(rng, batch_size), stacks)
        drawn: NDArray[np.uint8] = stacks.numpy()
        return drawn

    def _draw(self, rng: np.random.Generator, count: int, length: int = 2) -> tuple[_Episodes, _Rows]:
        """Positions drawn uniformly where ``length`` frames of an episode are left, and the episode of each."""
        room = np.maximum(self._episodes["end"] - self._episodes["first"] + 2 - length, 0)
        behind = np.cumsum(room)
        if not len(room) or not behind[-1]:
            held = f"{self._steps} steps in {len(self._episodes)} episodes"
            raise DataError(f"this replay holds {held}, and none has {length} frames to draw: add more to it first")
        drawn = rng.integers(behind[-1], size=count)
        rows = np.searchsorted(behind, drawn, side="right")
        episodes = self._episodes[rows]
        return episodes, episodes["first"] + drawn - (behind - room)[rows]

    def _returns(self, steps: _Rows, stops: _Rows) -> NDArray[np.float32]:
        """Discounted sums of the rewards from each step to its stop, float32 ``[B]``."""
        window = steps[:, None] + np.arange(self.settings.n_step)
        rewards = np.where(window < stops[:, None], self._rewards[window % self._places], np.float32(0))
        summed: NDArray[np.float32] = (rewards * self._powers[:-1]).sum(axis=1)
        return summed

    def _gather_stacks(self, episodes: _Episodes, newest: _Rows, into: Tensor) -> None:
        """The frames up to each ``newest`` one; before an episode's beginning its first frame is repeated."""
        window = newest[:, None] + np.arange(1 - self.settings.frame_stack, 1)
        self._gather(np.maximum(window, episodes["begin"][:, None]) % self._places, into)

    def _gather(self, places: _Rows, into: Tensor) -> None:
        # mode="clip", because numpy takes the way around a copy of its own where it has to look for bad indices.
        np.take(self._frames, places, axis=0, out=into.numpy(), mode="clip")

    # Files

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically, an episode under way included.

        Raises:
            StorageError: where the disk refuses; what stood there before is kept.
        """
        about = {
            "format": FORMAT,
            "settings": json.dumps(dataclasses.asdict(self.settings)),
            "head": str(self._head),
            "open": str(int(self._open)),
        }
        with atomic_write(path) as aside:
            save_file(self._tensors(), aside, about)

    @classmethod
    def load(cls, path: Path) -> "ReplayBuffer":
        """The buffer that was saved; it goes on exactly as that one would have.

        Raises:
            CheckpointError: for a file that is missing, cut short, damaged or of another kind.
        """
        with _opened(path) as (_, about):
            settings = dict(vars(_settings(path, about)))
        replay = cls(settings.pop("frame_shape"), settings.pop("action_dim"), settings.pop("capacity"), **settings)
        replay.restore(path)
        return replay

    def restore(self, path: Path) -> None:
        """Become the buffer that was saved, which must have had the same settings.

        Raises:
            CheckpointError: as :meth:`load`, and for other settings, which it names; nothing is changed then.
        """
        with _opened(path) as (file, about):
            self._check_settings(path, _settings(path, about))
            head, is_open, episodes = int(about["head"]), about["open"] == "1", file.get_tensor("episodes")
            self._check_tensors(path, file, episodes, head, is_open)
            frames = file.get_slice("frames")
            filled = min(head, self._places)
            for begin in range(0, filled, _FILE_BLOCK):
                block = slice(begin, min(begin + _FILE_BLOCK, filled))
                self._frames[block] = frames[block]
            self._actions[:filled], self._rewards[:filled] = file.get_tensor("actions"), file.get_tensor("rewards")
        self._episodes, self._head, self._open = episodes.view(_EPISODE).reshape(-1), head, is_open
        self._keep(np.ones(len(self._episodes), np.bool_))

    def _tensors(self) -> dict[str, NDArray[Any]]:
        filled = min(self._head, self._places)
        return {
            "frames": self._frames[:filled],
            "actions": self._actions[:filled],
            "rewards": self._rewards[:filled],
            "episodes": np.ascontiguousarray(self._episodes).view(np.int64).reshape(-1, len(_FIELDS)),
        }

    def _check_settings(self, path: Path, saved: Settings) -> None:
        """Raise CheckpointError, which names what differs, unless a saved replay has the settings of this one."""
        own = vars(self.settings)
        different = [
            f"{name} {value} instead of {own[name]}" for name, value in vars(saved).items() if value != own[name]
        ]
        if different:
            raise CheckpointError(f"{path} holds another replay than this one: {', '.join(different)}")

    def _check_tensors(self, path: Path, file: Any, episodes: NDArray[Any], head: int, is_open: bool) -> None:
        """Raise CheckpointError unless the tensors have the shapes that the head tells, and episodes lie in them."""
        filled = min(head, self._places)
        expected = {
            "frames": ("U8", [filled, *self.settings.frame_shape]),
            "actions": ("F32", [filled, self.settings.action_dim]),
            "rewards": ("F32", [filled]),
            "episodes": ("I64", [len(episodes), len(_FIELDS)]),
        }
        for name, wanted in expected.items():
            part = file.get_slice(name)
            got = part.get_dtype(), list(part.get_shape())
            if got != wanted:
                raise CheckpointError(f"{path} is damaged: expected {name} of {wanted}, got {got}")
        begin, first, end = (episodes[:, column] for column in range(3))
        within = (begin >= max(0, head - self._places)) & (begin <= first) & (first <= end) & (end < head)
        ends_open = len(end) and end[-1] == head - 1
        if not within.all() or (begin[1:] <= end[:-1]).any() or (is_open and not ends_open):
            raise CheckpointError(f"{path} is damaged: its episodes do not lie within its {filled} frames")


class MixedReplay:
    """Batches of which a share is real and the rest imagined.

    Args:
        real: what happened in the environment.
        imagined: what a world model made up; None where there is none.

    Raises:
        ConfigError: where the two differ in more than their capacities.
    """

    def __init__(self, real: ReplayBuffer, imagined: ReplayBuffer | None = None) -> None:
        sizes = {"capacity": 0, "capacity_bytes": None}
        if imagined is not None and vars(real.settings) | sizes != vars(imagined.settings) | sizes:
            raise ConfigError(
                f"real and imagined replay differ in more than capacity: {real.settings}, {imagined.settings}"
            )
        self.real, self.imagined = real, imagined

    def sample(self, rng: np.random.Generator, batch_size: int, real_ratio: float) -> Transitions:
        """A batch: first the real steps, then the imagined ones, each uniform over its buffer.

        Args:
            rng: draws the steps, and whether a fraction of a real step becomes a whole one, so that small batches too
                hold ``real_ratio`` of real steps on average.
            batch_size: B.
            real_ratio: share of real steps in [0, 1]; everything is real while nothing is imagined.

        Raises:
            ConfigError: for a ratio outside [0, 1].
            DataError: where real steps are due and there are none.
        """
        if not 0 <= real_ratio <= 1:
            raise ConfigError(f"real_ratio must lie in [0, 1], got {real_ratio}")
        if not self.imagined or real_ratio == 1:  # an empty buffer counts as none
            return self.real.sample(rng, batch_size)
        count = int(real_ratio * batch_size + rng.random())
        batch = self.real.empty_batch(batch_size)
        if count:
            self.real.sample_into(rng, Transitions(*(part[:count] for part in batch)))
        if count < batch_size:
            self.imagined.sample_into(rng, Transitions(*(part[count:] for part in batch)))
        return batch


def _empty_frames(shape: tuple[int, ...]) -> Tensor:
    # numpy's memory comes in huge pages where torch's does not; touching fresh small ones takes longer than the copy.
    return torch.from_numpy(np.empty(shape, np.uint8))


def _checked_rewards(rewards: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    given = _as_float32(rewards)
    if given.shape != shape:
        raise DataError(f"expected rewards {list(shape)}, got {list(given.shape)}")
    if not np.isfinite(given).all():
        raise DataError(f"expected finite rewards, got {_first_broken(given)}; nothing was stored")
    return given


def _as_float32(values: ArrayLike) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is then refused by that name
        return np.asarray(values).astype(np.float32)


def _first_broken(values: NDArray[np.float32]) -> str:
    """The first value that is not finite, and where it stands."""
    index = tuple(int(place) for place in np.argwhere(~np.isfinite(values))[0])
    return f"{values[index]} at index {index}" if index else f"{values}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A saved replay and its metadata; whatever keeps it from being read becomes a CheckpointError."""
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise CheckpointError(f"{path}: expected a replay of format {FORMAT!r}, got {about.get('format')!r}")
            yield file, about
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is not a readable replay, it may have been cut short: {error}") from error


def _settings(path: Path, about: dict[str, str]) -> Settings:
    return from_dict(Settings, parse_json(about["settings"], f"{path}: settings"), f"{path}: settings")
