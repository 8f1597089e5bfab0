"""What the single and the vector environment share: the model, its start states, and how a step is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import Sampling
from worldgym.devices import checked_device
from worldgym.envs.contract import action_space, frame_space
from worldgym.envs.learned.start_states import StartStates
from worldgym.errors import CheckpointError, InvalidFrames, InvalidOption, UnknownTask, nearest
from worldgym.pretrained import START_STATES, locate
from worldgym.world_model import WorldModel, WorldModelState

Checkpoint: TypeAlias = str | Path | WorldModel
Device: TypeAlias = str | torch.device | None
Precision: TypeAlias = str | torch.dtype | None


class Imagination:
    """A world model made ready for environments. Arguments and errors: :class:`WorldModelEnv`."""

    def __init__(
        self,
        task: str | None,
        checkpoint: Checkpoint,
        device: Device,
        dtype: Precision,
        temperature: float | None,
        top_k: int | None,
    ) -> None:
        self._loaded = _load(checkpoint, device, dtype)
        self.model, self.starts = self._loaded.model, self._loaded.starts
        config = self.model.config
        self.tasks = config.tasks or (self.starts.tasks if self.starts else ())
        self.task = None if task is None else self._known_task(task)
        self.sampling = Sampling(
            config.sampling.temperature if temperature is None else temperature,
            config.sampling.top_k if top_k is None else top_k,
        )
        self.observation_space = frame_space(config.resolution)
        self.action_space = action_space(config.action_dim)

    def _known_task(self, task: str) -> str:
        if not isinstance(task, str):
            raise InvalidOption(f"task must be a name or None, got {task!r}; {nearest('', self.tasks)}")
        name = task if task in self.tasks else task.removesuffix("-v3")  # Meta-World's own ids end so
        if name not in self.tasks:
            raise UnknownTask(f"the checkpoint does not know the task {task!r}; {nearest(task, self.tasks)}")
        return name

    def draw_start(
        self, rng: np.random.Generator, options: Mapping[str, Any] | None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Context frames, uint8 ``[C, H, W, 3]``, and the info of a reset, as the options ask."""
        options = options or {}
        for name in options:
            if name not in ("frames", "start"):
                raise InvalidOption(f"unknown reset option {name!r}; {nearest(str(name), ('frames', 'start'))}")
        if len(options) > 1:
            raise InvalidOption("give one of the reset options 'frames' and 'start', not both")
        info: dict[str, Any] = {"task": self.task, "uncertainty": 0.0, "reanchored": False}
        if "frames" in options:
            return self._checked_frames(options["frames"]), info
        if self.starts is None:
            frames = f'options={{"frames": uint8 {list(self._context_shape)}}}'
            if self._loaded.in_memory:
                raise InvalidOption(
                    f"a WorldModel was given, which carries no start states: reset with {frames}, or make the "
                    "environment with the checkpoint's name or folder instead"
                )
            raise CheckpointError(
                f"this checkpoint has no start states, so it needs real frames to go on from: reset with {frames}"
            )
        task = self.task if self.task is not None else self.tasks[rng.integers(len(self.tasks))]
        index = options["start"] if "start" in options else int(rng.integers(self.starts.count(task)))
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise InvalidOption(f"the reset option 'start' must be an integer, got {index!r}")
        start = self.starts.get(task, int(index), self.model.config.context_length)
        return start.frames, {**info, "task": task, "start": start.index}

    @property
    def _context_shape(self) -> tuple[int, ...]:
        return (self.model.config.context_length, *self.observation_space.shape)

    def _checked_frames(self, frames: Any) -> NDArray[np.uint8]:
        try:
            array = frames.numpy(force=True) if isinstance(frames, torch.Tensor) else np.asarray(frames)
        except (TypeError, ValueError, RuntimeError) as error:  # such as ragged lists
            raise InvalidFrames(f"the reset option 'frames' must be uint8 {self._context_shape}: {error}") from error
        if array.dtype != np.uint8 or array.shape != self._context_shape:
            raise InvalidFrames(
                f"the reset option 'frames' must be uint8 {self._context_shape}, got {array.dtype} {array.shape}"
            )
        return array.copy()

    def noise(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """What one slot draws for one step: float32 ``[tokens_per_frame]`` in [0, 1)."""
        noise: NDArray[np.float32] = rng.random(self.model.layout.tokens_per_frame, np.float32)
        return noise

    def idle_noise(self, slots: int) -> NDArray[np.float32]:
        """What slots that draw nothing put in its place: zeros, float32 ``[slots, tokens_per_frame]``."""
        return np.zeros((slots, self.model.layout.tokens_per_frame), np.float32)

    def start(self, frames: Sequence[NDArray[np.uint8]]) -> WorldModelState:
        """Encode the contexts of some slots, each uint8 ``[C, H, W, 3]``."""
        return self.model.start(np.stack(frames))

    def step(
        self, state: WorldModelState, actions: Tensor | NDArray[np.float32], noise: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """Advance the state by one step of all rows, on its device: frames, uint8 ``[N, H, W, 3]``, and rewards,
        float32 ``[N]``, 0 where the model predicts none.
        """
        action = actions if self.model.config.action_dim else None
        _, frames, rewards = self.model.step(state, action, self.sampling.temperature, self.sampling.top_k, noise=noise)
        return frames, rewards if self.model.config.reward else torch.zeros_like(rewards)

    def check_state(self, state: Any, slots: int) -> "EnvState":
        """Raise InvalidOption unless ``state`` is one of as many slots, of this model or one of equal weights."""
        if not isinstance(state, EnvState):
            raise InvalidOption(f"set_state takes what get_state returned, got {type(state).__name__}")
        if len(state.slots) != slots:
            raise InvalidOption(f"this environment has {slots} slots, the state was taken of {len(state.slots)}")
        other = state.model.model
        if other is not self.model and other.fingerprint() != self.model.fingerprint():
            raise InvalidOption("the state was taken of an environment with another model")
        return state


@dataclass(frozen=True)
class Slot:
    """What one episode is beside the model's state."""

    generator: np.random.Generator | None
    seed: int | None
    task: str | None
    elapsed: int = 0
    ended: bool = False


@dataclass(frozen=True)
class EnvState:
    """Where the episodes of an environment stand: what ``get_state`` returns and ``set_state`` takes."""

    model: WorldModelState
    frames: Tensor
    slots: tuple[Slot, ...]

    def restored(self, model: WorldModel) -> WorldModelState:
        """The model's part, a copy that ``model`` can go on from."""
        state = self.model.select(range(len(self.slots)))
        state.model = model
        return state


@dataclass(frozen=True)
class _Loaded:
    """A model and its bank; ``starts`` is None for a checkpoint without one, and for a model given ``in_memory``."""

    model: WorldModel
    starts: StartStates | None
    in_memory: bool = False


# Environments of one checkpoint share its weights as long as one of them lives.
_SHARED: WeakValueDictionary[tuple[object, ...], _Loaded] = WeakValueDictionary()


def _load(checkpoint: Checkpoint, device: Device, dtype: Precision) -> _Loaded:
    if isinstance(checkpoint, WorldModel):
        if device is not None or dtype is not None:
            raise InvalidOption("a WorldModel was given, which has its device and dtype; leave them out")
        return _Loaded(checkpoint, None, in_memory=True)
    if not isinstance(checkpoint, (str, Path)):
        raise InvalidOption(f"checkpoint must be a name, a folder, a Hub id or a WorldModel, got {checkpoint!r}")
    device = checked_device("cpu" if device is None else device)
    folder, precision = locate(checkpoint).resolve(), _as_dtype(dtype)
    about = folder.stat()  # a checkpoint that was written anew in the meantime is another one
    key = (folder, about.st_ino, about.st_mtime_ns, str(device), precision)
    loaded = _SHARED.get(key)
    if loaded is None:
        bank = folder / START_STATES
        model = WorldModel.from_pretrained(folder, device, precision)
        loaded = _Loaded(model, StartStates(bank) if bank.is_dir() else None)
        _check_tasks(loaded)
        _SHARED[key] = loaded
    return loaded


def _check_tasks(loaded: _Loaded) -> None:
    if loaded.starts is not None and (missing := set(loaded.model.config.tasks) - set(loaded.starts.tasks)):
        raise CheckpointError(
            f"{loaded.starts.folder} has no start states of {sorted(missing)}, tasks that the checkpoint names; "
            "fetch it again"
        )


def _as_dtype(dtype: Precision) -> torch.dtype | None:
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise InvalidOption(f"dtype must be a floating-point type such as 'bfloat16' or torch.bfloat16, got {dtype!r}")
    return value
