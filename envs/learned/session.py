"""What the single and the vector environment share: the model, its start states, and how a step is sampled."""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig
from worldgym.data.first_frames import FirstFrames
from worldgym.data.start_states import StartStates
from worldgym.devices import checked_device
from worldgym.envs.actions import ActionCodec
from worldgym.envs.contract import checked_options, frame_space
from worldgym.envs.learned.arguments import json_spec
from worldgym.envs.registry import specs
from worldgym.errors import (
    CheckpointError,
    ConfigError,
    InvalidAction,
    InvalidFrames,
    InvalidOption,
    UnknownTask,
    nearest,
)
from worldgym.pretrained import FIRST_FRAMES, START_STATES, locate
from worldgym.world_model import WorldModel, WorldModelState

Checkpoint: TypeAlias = str | os.PathLike[str] | WorldModel
SUCCESS_THRESHOLD = 0.5
"""``info["success"]`` is True from this probability on."""
Device: TypeAlias = str | torch.device | None
Precision: TypeAlias = str | torch.dtype | None
StartMode: TypeAlias = Literal["reset", "anywhere"]
NONE = -1
"""``info["start"]`` of an episode that began elsewhere, and ``info["simulator_seed"]`` where it is unknown."""


@dataclass(frozen=True)
class Start:
    """Where an episode begins.

    Attributes:
        frames: the context and K real frames behind it, uint8 ``[C + K, H, W, 3]``.
        task: of the episode; empty if the caller's frames leave it open.
        index: of the start state within its task, or :data:`NONE`.
        simulator_seed: with which the simulator's reset shows the last frame, or :data:`NONE`.
        actions: that led to the last K frames, float32 ``[K, A]``; None if K is 0.
    """

    frames: NDArray[np.uint8]
    task: str
    index: int = NONE
    simulator_seed: int = NONE
    actions: NDArray[np.float32] | None = None


class Session:
    """A world model ready for environments. Arguments and errors are those of :class:`WorldModelEnv`."""

    def __init__(
        self,
        task: str | None,
        checkpoint: Checkpoint | None,
        device: Device,
        dtype: Precision,
        temperature: float | None,
        top_k: int | None,
        starts: StartMode = "reset",
        pessimism: float = 0.0,
        truncate_when_unsure: float | None = None,
        simulator: str | None = None,
    ) -> None:
        if starts not in ("reset", "anywhere"):
            raise InvalidOption(f"starts: expected 'reset' or 'anywhere', got {starts!r}")
        self._arguments = (
            task,
            checkpoint,
            device,
            dtype,
            temperature,
            top_k,
            starts,
            pessimism,
            truncate_when_unsure,
            simulator,
        )
        self._mode = starts
        self._loaded = _load(checkpoint, device, dtype)
        self.model, self.starts = self._loaded.model, self._loaded.starts
        config = self.model.config
        self._pessimism, self._largest_uncertainty = pessimism, truncate_when_unsure
        self._check_caution()
        if simulator is not None:
            _check_simulator(config, simulator)
        self.tasks = config.tasks or (self.starts.tasks if self.starts else self._loaded.first.tasks)
        self.task = None if task is None else self._known_task(task)
        self.sampling = Sampling(
            config.sampling.temperature if temperature is None else temperature,
            config.sampling.top_k if top_k is None else top_k,
        )
        self.observation_space = frame_space(config.resolution)
        self.codec = ActionCodec.from_description(config.action_space, config.action_dim)

    def __getstate__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the arguments; a model that was named by its checkpoint is shared or loaded again."""
        return self._arguments

    def __setstate__(self, arguments: tuple[Any, ...]) -> None:
        Session.__init__(self, *arguments)

    def choose_start(self, rng: np.random.Generator, options: Any) -> Start:
        """Where an episode begins, as the reset's options say; otherwise the generator chooses.

        Raises:
            InvalidOption, InvalidFrames, CheckpointError: as :meth:`WorldModelEnv.reset`.
        """
        given = checked_options(options, ("frames", "actions", "start"))
        if "start" in given and len(given) > 1:
            raise InvalidOption("reset options: expected one of 'frames' and 'start', got both")
        if "frames" in given:
            actions = self._checked_history(given["actions"]) if "actions" in given else None
            frames = self._checked_frames(given["frames"], 0 if actions is None else len(actions))
            return Start(frames, self.task or "", actions=actions)
        if "actions" in given:
            raise InvalidOption("reset option 'actions': expected 'frames' beside it, to which the actions led")
        self._check_has_starts()
        task = self.task if self.task is not None else self.tasks[rng.integers(len(self.tasks))]
        if "start" not in given and self._mode == "reset" and not self.model.config.goal_conditioned:
            return self._first_frame(rng, task)
        starts = self._checked_starts()
        index = given["start"] if "start" in given else int(rng.integers(starts.count(task)))
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise InvalidOption(f"reset option 'start': expected an integer, got {index!r}")
        start = starts.get(task, int(index), self.model.config.context_length)
        return Start(start.frames, task, start.index)

    def noise(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """What one row samples a step with, float32 ``[n]``: a number for each token, and one for the termination."""
        return rng.random(self._numbers, np.float32)

    def idle_noise(self, rows: int) -> NDArray[np.float32]:
        """The noise of rows whose result is not used: zeros, float32 ``[rows, n]``."""
        return np.zeros((rows, self._numbers), np.float32)

    @property
    def _numbers(self) -> int:
        return self.model.layout.tokens_per_frame + int(self.model.config.termination)

    def start(self, starts: Sequence[Start]) -> WorldModelState:
        """Encode the real frames with which some rows start."""
        counts = [len(start.frames) for start in starts]
        if len(set(counts)) == 1:
            return self._start_alike(starts)
        context = self.model.config.context_length
        state = self.model.start(np.stack([start.frames[:context] for start in starts]))
        for count in set(counts) - {context}:
            rows = [row for row, number in enumerate(counts) if number == count]
            state.put(rows, self._start_alike([starts[row] for row in rows]))
        return state

    def _start_alike(self, starts: Sequence[Start]) -> WorldModelState:
        """As :meth:`start`, for rows with equally many frames."""
        actions = [start.actions for start in starts if start.actions is not None]
        known = [np.stack(actions)] if actions and self.model.config.action_dim else []
        try:
            return self.model.start(np.stack([start.frames for start in starts]), *known)
        except ConfigError as error:  # more frames than a window holds that does not slide
            raise InvalidOption(f"reset option 'frames': {error}") from error

    def step(
        self, state: WorldModelState, actions: Tensor | NDArray[np.float32], noise: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advance all rows of the state by one step.

        Args:
            state: changed in place.
            actions: float32 ``[N, A]``.
            noise: float32 ``[N, n]`` as from :meth:`noise`.

        Returns:
            Frames, uint8 ``[N, H, W, 3]``; rewards, float32 ``[N]``, 0 if the model predicts none; terminations, bool
            ``[N]``, sampled with the predicted probability, False if the model predicts none. On its device.
        """
        config, tokens = self.model.config, self.model.layout.tokens_per_frame
        action = actions if config.action_dim else None
        sampling = self.sampling.temperature, self.sampling.top_k
        _, frames, rewards = self.model.step(state, action, *sampling, noise=noise[:, :tokens])
        if not config.reward:
            rewards = torch.zeros_like(rewards)
        if self._pessimism:
            rewards = rewards - self._pessimism * state.reward_spread
        if not config.termination:
            return frames, rewards, torch.zeros_like(rewards, dtype=torch.bool)
        drawn = torch.from_numpy(np.ascontiguousarray(noise[:, tokens])).to(rewards.device)
        return frames, rewards, drawn < state.termination_probability

    def unsure(self, state: WorldModelState) -> Tensor:
        """Bool ``[N]``: which episodes end because the last frame is a guess."""
        if self._largest_uncertainty is None:
            return torch.zeros_like(state.uncertainty, dtype=torch.bool)
        return state.uncertainty > self._largest_uncertainty

    def _check_caution(self) -> None:
        limit = self._largest_uncertainty
        if not 0 <= self._pessimism < math.inf or (limit is not None and not limit > 0):
            raise InvalidOption(
                f"expected pessimism of at least 0 and truncate_when_unsure above 0 or None, got {self._pessimism} and "
                f"{limit}"
            )
        if self._pessimism and not self.model.config.reward_bins:
            raise InvalidOption(
                "pessimism: expected a checkpoint that predicts a distribution of rewards (reward_bins), got one that "
                "predicts one number: train it with --job.reward-bins, or leave pessimism out"
            )

    def step_info(self, state: WorldModelState) -> dict[str, Tensor]:
        """The entries of ``info`` that come from the model, each ``[N]``."""
        entries = {"uncertainty": state.uncertainty, "reanchored": state.reanchored}
        if self.model.config.reward_bins:
            entries["reward_spread"] = state.reward_spread
        if self.model.config.success:
            entries["success"] = state.success_probability >= SUCCESS_THRESHOLD
            entries["success_probability"] = state.success_probability
        if self.model.config.termination:
            entries["termination_probability"] = state.termination_probability
        return entries

    def check_state(self, state: Any, slots: int) -> "EnvState":
        """The state, checked. Raises InvalidOption unless it has as many slots, and a model of equal weights."""
        if not isinstance(state, EnvState):
            raise InvalidOption(f"set_state: expected what get_state returned, got {type(state).__name__}")
        if len(state.slots) != slots:
            raise InvalidOption(f"set_state: expected a state of {slots} slots, got {len(state.slots)}")
        other = state.model.model
        if other is not self.model and other.fingerprint() != self.model.fingerprint():
            raise InvalidOption("set_state: expected a state of an environment with this model, got another model's")
        return state

    def _first_frame(self, rng: np.random.Generator, task: str) -> Start:
        """A first frame of the simulator's; the context before it repeats it, as in training."""
        count, first = self.model.config.context_length, self._loaded.first
        if task in first.tasks:
            known = first[task]
            row = int(rng.integers(len(known.frames)))
            return Start(np.repeat(known.frames[row][None], count, axis=0), task, NONE, int(known.seeds[row]))
        starts = self._checked_starts()
        begins = np.flatnonzero(starts.first_frames(task) == 0)
        if not len(begins):
            raise InvalidOption(
                f"the checkpoint has no first frames of task {task!r}: record them with `worldgym starts`, or make the "
                "environment with starts='anywhere'"
            )
        frame = starts.get(task, int(begins[rng.integers(len(begins))]), count).frames[0]
        return Start(np.repeat(frame[None], count, axis=0), task)

    def _check_has_starts(self) -> None:
        if not self._loaded.first.tasks:
            self._checked_starts()

    def _known_task(self, task: str) -> str:
        if not isinstance(task, str):
            raise InvalidOption(f"task: expected a name or None, got {task!r}; {nearest('', self.tasks)}")
        name = task if task in self.tasks else task.removesuffix("-v3")  # simulators' own ids may end so
        if name not in self.tasks:
            raise UnknownTask(f"the checkpoint has no task {task!r}; {nearest(task, self.tasks)}")
        return name

    def _checked_starts(self) -> StartStates:
        if self.starts is not None:
            return self.starts
        frames = f'options={{"frames": uint8 {list(self._context_shape)}}}'
        if self._loaded.in_memory:
            raise InvalidOption(
                f"a WorldModel in memory has no start states: reset with {frames}, or make the environment with a "
                "checkpoint's name or folder"
            )
        raise CheckpointError(f"this checkpoint has no start states: reset with {frames}")

    @property
    def _context_shape(self) -> tuple[int, ...]:
        return (self.model.config.context_length, *self.observation_space.shape)

    def _checked_history(self, actions: Any) -> NDArray[np.float32]:
        """Past actions of the action space ``[K, *shape]`` as vectors, float32 ``[K, A]``."""
        try:
            return self.codec.encode_batch(actions, np.ones(len(actions), bool))
        except (InvalidAction, TypeError) as error:
            raise InvalidOption(f"reset option 'actions': {error}") from error

    def _checked_frames(self, frames: Any, behind: int = 0) -> NDArray[np.uint8]:
        shape = (self._context_shape[0] + behind, *self._context_shape[1:])
        expected = f"reset option 'frames': expected uint8 {shape}"
        expected += f", the context and a frame for each of the {behind} actions" if behind else ""
        try:
            array = frames.numpy(force=True) if isinstance(frames, torch.Tensor) else np.asarray(frames)
        except (TypeError, ValueError, RuntimeError) as error:  # such as ragged lists
            raise InvalidFrames(f"{expected}, got {type(frames).__name__}: {error}") from error
        if array.dtype != np.uint8 or array.shape != shape:
            raise InvalidFrames(f"{expected}, got {array.dtype} {array.shape}")
        return np.array(array)


class SessionEnv:
    """What the learned environment and its vector form share: the model, the length of episodes, the specification."""

    _session: Session
    _episode_steps: float  # infinity: never truncated
    _spec: EnvSpec | None = None

    @property
    def world_model(self) -> WorldModel:
        """The model that imagines; environments of the same checkpoint share it."""
        return self._session.model

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is truncated; None: never."""
        return None if self._episode_steps == math.inf else int(self._episode_steps)

    @property
    def spec(self) -> EnvSpec | None:
        """The specification, with the number of steps and with arguments that can be written as JSON."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = json_spec(spec, self.max_episode_steps)


@dataclass(frozen=True)
class Slot:
    """One episode, apart from the model's state."""

    generator: np.random.Generator | None
    seed: int | None
    task: str
    start: int
    simulator_seed: int
    elapsed: int = 0
    ended: bool = False

    def copied(self) -> "Slot":
        """The slot with a generator of its own."""
        return copy.deepcopy(self)


@dataclass(frozen=True)
class EnvState:
    """The state of all episodes of an environment: what ``get_state`` returns and ``set_state`` takes."""

    model: WorldModelState
    frames: Tensor
    slots: tuple[Slot, ...]

    def restored(self, model: WorldModel) -> WorldModelState:
        """A copy of the model's part, with which ``model`` can continue."""
        state = self.model.select(range(len(self.slots)))
        state.model = model
        return state


def without_model(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's attributes for copies and pickles: the state refers to no model; see :func:`with_model`."""
    state = attributes["_state"]
    if state is not None:
        state = copy.copy(state)
        state.model = None
    return {**attributes, "_state": state}


def with_model(state: WorldModelState | None, model: WorldModel) -> None:
    """Inverse of :func:`without_model`, in place."""
    if state is not None:
        state.model = model


@dataclass(frozen=True)
class _Loaded:
    """A model, first frames of its tasks, and start states (None for a checkpoint without them)."""

    model: WorldModel
    first: FirstFrames
    starts: StartStates | None
    in_memory: bool = False


# Environments of one checkpoint share its weights as long as one of them lives.
_SHARED: WeakValueDictionary[tuple[object, ...], _Loaded] = WeakValueDictionary()


def _load(checkpoint: Checkpoint | None, device: Device, dtype: Precision) -> _Loaded:
    if isinstance(checkpoint, WorldModel):
        if device is not None or dtype is not None:
            raise InvalidOption("a WorldModel in memory has its device and dtype: leave both arguments out")
        return _Loaded(checkpoint, FirstFrames(Path("no folder")), None, in_memory=True)
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise InvalidOption(f"checkpoint: expected a name, a folder, a Hub id or a WorldModel, got {checkpoint!r}")
    device = checked_device("cpu" if device is None else device)
    source = checkpoint if isinstance(checkpoint, str) else Path(checkpoint)
    folder, precision = locate(source).resolve(), _as_dtype(dtype)
    about = folder.stat()  # a checkpoint that was written again in the meantime is another one
    key = (folder, about.st_ino, about.st_mtime_ns, str(device), precision)
    loaded = _SHARED.get(key)
    if loaded is None:
        bank = folder / START_STATES
        model = WorldModel.from_pretrained(folder, device, precision)
        loaded = _Loaded(model, FirstFrames(folder / FIRST_FRAMES), StartStates(bank) if bank.is_dir() else None)
        _check_tasks(loaded)
        _SHARED[key] = loaded
    return loaded


def _check_simulator(config: WorldModelConfig, simulator: str) -> None:
    """Raise InvalidOption for a world that is known to imagine another simulator."""
    data = config.training_data.get("trained_on")
    origin = data.get("environment") if isinstance(data, Mapping) else None
    if origin != simulator and origin in {spec.simulator_id for spec in specs().values()}:
        raise InvalidOption(
            f"checkpoint: expected a world of {simulator}, got one of {origin}, whose actions and tasks are others: "
            'use gym.make("WorldModel-v0", checkpoint=...)'
        )


def _check_tasks(loaded: _Loaded) -> None:
    if loaded.starts is not None and (missing := set(loaded.model.config.tasks) - set(loaded.starts.tasks)):
        raise CheckpointError(
            f"{loaded.starts.folder} has no start states of {sorted(missing)}, tasks that the checkpoint names; "
            "download it again"
        )


def _as_dtype(dtype: Precision) -> torch.dtype | None:
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise InvalidOption(f"dtype: expected a floating-point type such as 'bfloat16', got {dtype!r}")
    return value
