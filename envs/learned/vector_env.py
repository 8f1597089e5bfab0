"""A world model as an environment: ``step`` imagines the next frame and its reward.

:class:`WorldModelVectorEnv` runs all its slots as one batch; slot ``i`` equals a :class:`WorldModelEnv` of the same
seed, because every slot owns its generator and all that it draws.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from worldgym.envs.contract import (
    METADATA,
    ActionSpace,
    Frame,
    checked_action,
    checked_actions,
    close_window,
    show_frame,
)
from worldgym.envs.learned.session import Checkpoint, Device, EnvState, Imagination, Precision, Slot
from worldgym.errors import InvalidAction, InvalidOption, ResetNeeded, nearest
from worldgym.world_model import WorldModel, WorldModelState

Info = dict[str, Any]
Options = dict[str, Any]
WINDOW = "worldgym"


class WorldModelVectorEnv(gym.vector.VectorEnv[NDArray[np.uint8], NDArray[np.float32], NDArray[Any]]):
    """``num_envs`` imagined episodes, each step one batched pass of the model.

    Seeds, infos, options and autoreset follow :class:`gymnasium.vector.SyncVectorEnv`.

    Args:
        num_envs: how many slots.
        max_episode_steps: after so many steps a slot truncates; None or -1 is never.
        autoreset_mode: ``NEXT_STEP``: the step after an episode's end resets the slot, whatever its action, with
            reward 0; ``SAME_STEP``: the ending step resets it and hands ``final_obs`` and ``final_info`` over in
            the infos; ``DISABLED``: the caller resets by ``options={"reset_mask": bool [num_envs]}``.
        task, checkpoint, device, dtype, temperature, top_k, render_mode: as in :class:`WorldModelEnv`.
        output: ``numpy``, or ``torch``: frames (uint8), rewards (float32) and flags (bool) are tensors that stay on
            the model's device, and actions may be such.

    Raises:
        InvalidOption: for another render mode, autoreset mode or output, or a count below 1; else as
            :class:`WorldModelEnv`.
        OutOfMemory: at the first reset, where so many slots do not fit the memory; it names how many do.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        task: str | None = None,
        checkpoint: Checkpoint = "metaworld-64",
        device: Device = None,
        dtype: Precision = None,
        temperature: float | None = None,
        top_k: int | None = None,
        render_mode: str | None = None,
        output: Literal["numpy", "torch"] = "numpy",
    ) -> None:
        if output not in ("numpy", "torch"):
            raise InvalidOption(f"output must be 'numpy' or 'torch', got {output!r}")
        if num_envs < 1:
            raise InvalidOption(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.render_mode = _checked_render_mode(render_mode)
        self.autoreset_mode = _checked_autoreset_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self._episode_steps = _checked_episode_steps(max_episode_steps)
        self._imagination = Imagination(task, checkpoint, device, dtype, temperature, top_k)
        self.single_observation_space = self._imagination.observation_space
        self.single_action_space = self._imagination.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: WorldModelState | None = None
        self._as_torch = output == "torch"
        shape = (num_envs, *self.single_observation_space.shape)
        self._frames = torch.zeros(shape, dtype=torch.uint8, device=self.world_model.device)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._tasks: list[str | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._generators: list[np.random.Generator | None] = [None] * num_envs

    @property
    def world_model(self) -> WorldModel:
        """The model that imagines; environments of the same checkpoint share it."""
        return self._imagination.model

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each slot's own generator."""
        return tuple(self._generator(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """What each slot's generator was seeded with."""
        return tuple(self._seeds[slot] for slot, _ in enumerate(self.np_random))  # np_random seeds what is unseeded

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Options | None = None
    ) -> tuple[NDArray[np.uint8], Info]:
        """Start all slots, or those of ``options["reset_mask"]``, from real frames.

        Args:
            seed: slot ``i`` takes ``seed + i``, or entry ``i`` of a list; None goes on with its generator.
            options: as for :meth:`WorldModelEnv.reset`, for every slot alike; ``frames`` may also be
                ``[num_envs, C, H, W, 3]``. ``reset_mask``, bool ``[num_envs]``, leaves the other slots as they are.

        Returns:
            The newest frames, uint8 ``[num_envs, H, W, 3]``, and infos (see :meth:`WorldModelEnv.reset`) as arrays
            with their masks.

        Raises:
            ResetNeeded: for a mask before all slots were reset once; else as :meth:`WorldModelEnv.reset`.
        """
        options = dict(options or {})
        slots = _slots_to_reset(options.pop("reset_mask", None), self.num_envs)
        if self._state is None and len(slots) < self.num_envs:
            raise ResetNeeded("reset_mask left slots that were never reset; call reset() without it first")
        for slot, chosen in enumerate(_slot_seeds(seed, self.num_envs)):
            if slot in slots and chosen is not None:
                self._generators[slot], self._seeds[slot] = seeding.np_random(chosen)
        infos: Info = {}
        self._restart(slots, options, infos)
        self._show()
        return self._given(self._frames.clone()), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Info]:
        """Imagine one step in all slots; ``actions`` is float32 ``[num_envs, action_dim]``.

        Returns:
            Frames, uint8 ``[num_envs, H, W, 3]``; rewards, float64 ``[num_envs]`` (tensors: float32); terminations
            (all False) and truncations, bool ``[num_envs]``; infos (see :meth:`WorldModelEnv.step`) as arrays with
            their masks.

        Raises:
            ResetNeeded: before the first reset, or where autoreset is disabled, after an episode's end.
            InvalidAction: for actions of another shape, or one that is not finite; it names the slot.
        """
        if self._state is None:
            raise ResetNeeded("step() came before reset(); call envs.reset() first")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"the episodes of slots {np.flatnonzero(self._ended).tolist()} ended and autoreset is disabled; "
                'reset them with options={"reset_mask": ...} first'
            )
        acting = ~self._ended
        rewards = self._imagine(self._state, self._checked_actions(actions, acting), acting)
        truncations = acting & (self._elapsed >= self._episode_steps)
        infos: Info = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._tell(infos, self._state, acting & ~truncations)
            for slot in np.flatnonzero(truncations):
                self._tell_end(infos, self._state, int(slot))
            self._restart(np.flatnonzero(truncations), {}, infos)
        else:
            self._tell(infos, self._state, acting)
            self._restart(np.flatnonzero(self._ended), {}, infos)
            self._ended = truncations.copy()
        self._show()
        flags = torch.from_numpy(truncations).to(rewards.device)
        given = (self._frames.clone(), rewards, torch.zeros_like(flags), flags)
        frames, rewards, terminated, truncated = (self._given(tensor) for tensor in given)
        return frames, rewards, terminated, truncated, infos

    def get_state(self) -> EnvState:
        """Where all episodes stand, their randomness included; :meth:`set_state` brings them back exactly.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("get_state() came before reset(); call envs.reset() first")
        slots = tuple(
            Slot(
                copy.deepcopy(self._generators[slot]),
                self._seeds[slot],
                self._tasks[slot],
                int(self._elapsed[slot]),
                bool(self._ended[slot]),
            )
            for slot in range(self.num_envs)
        )
        return EnvState(self._state.select(range(self.num_envs)), self._frames.clone(), slots)

    def set_state(self, state: EnvState) -> None:
        """Go on from a state that :meth:`get_state` gave, as often as wanted.

        Raises:
            InvalidOption: for anything else, the state of another model, or of another number of slots.
        """
        slots = self._imagination.check_state(state, self.num_envs).slots
        self._state, self._frames = state.restored(self.world_model), state.frames.clone()
        self._generators = [copy.deepcopy(slot.generator) for slot in slots]
        self._seeds, self._tasks = [slot.seed for slot in slots], [slot.task for slot in slots]
        self._elapsed = np.array([slot.elapsed for slot in slots], np.int64)
        self._ended = np.array([slot.ended for slot in slots], np.bool_)

    def render(self) -> tuple[Frame, ...] | None:
        """The current frame of every slot in mode ``rgb_array``; in mode ``human`` every step shows them in a row."""
        if self._state is None:
            raise ResetNeeded("render() came before reset(); call envs.reset() first")
        return tuple(self._frames.numpy(force=True).copy()) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the episodes and their window."""
        self._state = None
        if self.render_mode == "human":
            close_window(WINDOW)

    def _imagine(
        self, state: WorldModelState, actions: Tensor | NDArray[np.float32], acting: NDArray[np.bool_]
    ) -> Tensor:
        """Step the acting slots: rewards, float32 ``[N]``, 0 in the others."""
        if not acting.any():
            return torch.zeros(self.num_envs, device=self._frames.device)
        # Slots about to be reset are computed with the others and then overwritten; they draw nothing.
        noise = self._imagination.idle_noise(self.num_envs)
        for slot in np.flatnonzero(acting):
            noise[slot] = self._imagination.noise(self._generator(slot))
        frames, rewards = self._imagination.step(state, actions, noise)
        self._elapsed[acting] += 1
        if acting.all():
            self._frames = frames
            return rewards
        moved = torch.from_numpy(acting).to(frames.device)
        self._frames = torch.where(moved[:, None, None, None], frames, self._frames)
        return torch.where(moved, rewards, 0.0)

    def _checked_actions(self, actions: Any, acting: NDArray[np.bool_]) -> Tensor | NDArray[np.float32]:
        """Clipped. Tensors on a GPU stay there; whether they are finite is not asked, because that would wait."""
        space = self._imagination.action_space
        if not isinstance(actions, Tensor) or actions.device.type == "cpu":
            return checked_actions(actions, space, acting)
        shape = (self.num_envs, *space.shape)
        if tuple(actions.shape) != shape or not actions.is_floating_point():
            raise InvalidAction(f"expected floats of shape {shape}, got {actions.dtype} {tuple(actions.shape)}")
        return actions.float().clamp(-1, 1)

    def _tell(self, infos: Info, state: WorldModelState, told: NDArray[np.bool_]) -> None:
        """What a step says of slots, as arrays with their masks."""
        if not told.any():
            return
        values = {"uncertainty": state.uncertainty.clone(), "reanchored": state.reanchored.clone()}
        infos["task"] = np.array([task if tell else None for task, tell in zip(self._tasks, told, strict=True)], object)
        for name, tensor in values.items():
            shown = torch.where(torch.from_numpy(told).to(tensor.device), tensor, torch.zeros_like(tensor))
            infos[name] = self._given(shown)
        infos |= {f"_{name}": told.copy() for name in ("task", *values)}

    def _tell_end(self, infos: Info, state: WorldModelState, slot: int) -> None:
        """The last frame and info of an episode that is reset in the same step."""
        said = {
            "task": self._tasks[slot],
            "uncertainty": state.uncertainty[slot].item(),
            "reanchored": bool(state.reanchored[slot].item()),
        }
        self._add_info(infos, {"final_obs": self._given(self._frames[slot].clone()), "final_info": said}, slot)

    def _given(self, tensor: Tensor) -> Any:
        """What a caller gets of a tensor of ours; floats are float64 in numpy, as Gymnasium has them."""
        if self._as_torch:
            return tensor
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy(force=True)

    def _restart(self, slots: NDArray[np.int64], options: Options, infos: Info) -> None:
        """Start some slots from real frames, and add what a reset tells to the infos."""
        if not slots.size:
            return
        draw = self._imagination.draw_start
        drawn = [draw(self._generator(slot), self._slot_options(options, slot)) for slot in slots]
        fresh = self._imagination.start([frames for frames, _ in drawn])
        if self._state is None or len(slots) == self.num_envs:
            self._state = fresh
        else:
            self._state.put(slots, fresh)
        newest = torch.from_numpy(np.stack([frames[-1] for frames, _ in drawn])).to(self._frames.device)
        self._frames = self._frames.index_copy(0, torch.from_numpy(slots).to(newest.device), newest)
        for slot, (_, info) in zip(slots, drawn, strict=True):
            self._tasks[slot] = info["task"]
            self._add_info(infos, info, int(slot))
        self._elapsed[slots] = 0
        self._ended[slots] = False

    def _generator(self, slot: int) -> np.random.Generator:
        generator = self._generators[slot]
        if generator is None:
            generator, self._seeds[slot] = seeding.np_random()
            self._generators[slot] = generator
        return generator

    def _slot_options(self, options: Options, slot: int) -> Options:
        """``frames`` of all slots hold one context for each."""
        frames: Any = options.get("frames")
        if getattr(frames, "ndim", 0) == 5 and len(frames) == self.num_envs:
            return {**options, "frames": frames[slot]}
        return options

    def _show(self) -> None:
        if self.render_mode == "human":
            show_frame(np.concatenate(list(self._frames.numpy(force=True)), axis=1), WINDOW)


def _checked_render_mode(mode: str | None) -> str | None:
    if mode not in (None, *METADATA["render_modes"]):
        raise InvalidOption(f"render_mode must be None, 'rgb_array' or 'human', got {mode!r}")
    return mode


def _checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = [choice.value for choice in AutoresetMode]
        raise InvalidOption(f"unknown autoreset_mode {mode!r}; {nearest(str(mode), known)}") from error


def _checked_episode_steps(steps: int | None) -> float:
    if steps in (None, -1):
        return math.inf
    if steps < 1:
        raise InvalidOption(f"max_episode_steps must be at least 1, or -1 for no limit, got {steps}")
    return steps


def _slots_to_reset(mask: Any, num_envs: int) -> NDArray[np.int64]:
    if mask is None:
        return np.arange(num_envs)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,) or not mask.any():
        raise InvalidOption(f"reset_mask must be a bool array of shape ({num_envs},) with a True in it, got {mask!r}")
    return np.flatnonzero(mask)


def _slot_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    if seed is None or isinstance(seed, (int, np.integer)):
        return [None if seed is None else int(seed) + slot for slot in range(num_envs)]
    if len(seed) != num_envs:
        raise InvalidOption(f"expected {num_envs} seeds, one a slot, got {len(seed)}")
    return list(seed)
