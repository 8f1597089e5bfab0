"""Many imagined episodes as one vector environment: each step is one batched pass of the model.

Slot ``i`` equals a :class:`WorldModelEnv` of the same seed, because every slot has its own generator for everything
that it samples.
"""

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
    Frame,
    Info,
    Options,
    check_open,
    checked_options,
    checked_render_mode,
    close_window,
    show_frame,
)
from worldgym.envs.learned.arguments import (
    checked_autoreset_mode,
    checked_episode_steps,
    slot_seeds,
    slots_to_reset,
)
from worldgym.envs.learned.env import METADATA, WINDOW
from worldgym.envs.learned.session import (
    NONE,
    Checkpoint,
    Device,
    EnvState,
    Precision,
    Session,
    SessionEnv,
    Slot,
    StartMode,
    with_model,
    without_model,
)
from worldgym.errors import InvalidAction, InvalidOption, ResetNeeded
from worldgym.world_model import WorldModelState

Mask = NDArray[np.bool_]
START_INFO = ("task", "start", "simulator_seed")


class WorldModelVectorEnv(SessionEnv, gym.vector.VectorEnv[NDArray[np.uint8], NDArray[np.float32], NDArray[Any]]):
    """``num_envs`` imagined episodes.

    Seeds, infos, options and autoreset follow :class:`gymnasium.vector.SyncVectorEnv`.

    Args:
        num_envs: number of slots.
        max_episode_steps: steps after which a slot truncates; None takes the checkpoint's, -1 is never.
        autoreset_mode: ``NEXT_STEP``: the step after an episode's end resets the slot, whatever its action, with
            reward 0; ``SAME_STEP``: the ending step resets it and returns ``final_obs`` and ``final_info`` in the
            infos; ``DISABLED``: the caller resets by ``options={"reset_mask": bool [num_envs]}``.
        task, checkpoint, device, dtype, temperature, top_k, render_mode, starts, pessimism, truncate_when_unsure,
            simulator: as in :class:`WorldModelEnv`.
        output: ``numpy``, or ``torch``: frames (uint8), rewards and uncertainty (float32) and flags (bool) are tensors
            that stay on the model's device, and actions may be such.

    Raises:
        InvalidOption: for another render mode, autoreset mode or output, or a count below 1; else as
            :class:`WorldModelEnv`.
        OutOfMemory: at reset, if so many slots do not fit the memory; it names how many do.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        task: str | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        device: Device = None,
        dtype: Precision = None,
        temperature: float | None = None,
        top_k: int | None = None,
        render_mode: str | None = None,
        output: Literal["numpy", "torch"] = "numpy",
        starts: StartMode = "reset",
        pessimism: float = 0.0,
        truncate_when_unsure: float | None = None,
        simulator: str | None = None,
    ) -> None:
        if output not in ("numpy", "torch"):
            raise InvalidOption(f"output: expected 'numpy' or 'torch', got {output!r}")
        if num_envs < 1:
            raise InvalidOption(f"num_envs: expected at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.render_mode = checked_render_mode(render_mode)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        rest = pessimism, truncate_when_unsure, simulator
        self._session = Session(task, checkpoint, device, dtype, temperature, top_k, starts, *rest)
        own_limit = self.world_model.config.max_episode_steps
        self._episode_steps = checked_episode_steps(own_limit if max_episode_steps is None else max_episode_steps)
        self.single_observation_space = self._session.observation_space
        self.single_action_space = self._session.codec.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._as_torch = output == "torch"
        self._state: WorldModelState | None = None
        shape = (num_envs, *self.single_observation_space.shape)
        self._frames = torch.zeros(shape, dtype=torch.uint8, device=self.world_model.device)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._tasks = np.full(num_envs, "", object)
        self._starts, self._simulator_seeds = np.full((2, num_envs), NONE, np.int64)
        self._seeds: list[int | None] = [None] * num_envs
        self._generators: list[np.random.Generator | None] = [None] * num_envs

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
    ) -> tuple[Any, Info]:
        """Start all slots, or those of ``options["reset_mask"]``, from real frames.

        Args:
            seed: slot ``i`` takes ``seed + i``, or entry ``i`` of a list; None continues with its generator.
            options: as for :meth:`WorldModelEnv.reset`, for every slot alike; ``frames`` may also be
                ``[num_envs, C, H, W, 3]``, and ``actions`` with them. ``reset_mask``, bool ``[num_envs]``, leaves the
                other slots as they are.

        Returns:
            The newest frames, uint8 ``[num_envs, H, W, 3]``, and infos as arrays with their masks; see
            :meth:`WorldModelEnv.reset`.

        Raises:
            ResetNeeded: for a mask before all slots were reset once; else as :meth:`WorldModelEnv.reset`.
        """
        self._check_open("reset")
        given = checked_options(options, ("frames", "actions", "start", "reset_mask"))
        slots = slots_to_reset(given.pop("reset_mask", None), self.num_envs)
        if self._state is None and len(slots) < self.num_envs:
            raise ResetNeeded("reset_mask leaves slots that were never reset: call reset() without it first")
        for slot, chosen in enumerate(slot_seeds(seed, self.num_envs)):
            if slot in slots and chosen is not None:
                self._generators[slot], self._seeds[slot] = seeding.np_random(chosen)
        state = self._restart(slots, given)
        self._show()
        infos: Info = {}
        self._add_step_info(infos, state, np.isin(np.arange(self.num_envs), slots))
        return self._to_output(self._frames.clone()), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Info]:
        """Imagine one step in all slots; ``actions`` holds one action of the single action space for each.

        Returns:
            Frames, uint8 ``[num_envs, H, W, 3]``; rewards, float64 ``[num_envs]`` (tensors: float32); terminations
            and truncations, bool ``[num_envs]``; infos as arrays with their masks; see
            :meth:`WorldModelEnv.step`.

        Raises:
            ResetNeeded: before the first reset, and without autoreset after an episode's end.
            InvalidAction: for actions of another shape, or one that is not finite; it names the slot.
        """
        state = self._current_state("step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"the episodes of slots {np.flatnonzero(self._ended).tolist()} have ended and autoreset is disabled: "
                'call reset(options={"reset_mask": ...}) first'
            )
        acting = ~self._ended
        rewards, ended = self._imagine(state, self._checked_actions(actions, acting), acting)
        unsure = self._session.unsure(state).numpy(force=True)
        terminations = acting & ended.numpy(force=True)
        truncations = acting & ((self._elapsed >= self._episode_steps) | unsure)
        done = terminations | truncations
        infos: Info = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._add_final_info(infos, state, done)
            restarted = np.flatnonzero(done)
        else:
            restarted = np.flatnonzero(self._ended)
        if restarted.size:
            state = self._restart(restarted, {})
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = done
        self._add_step_info(infos, state, np.ones(self.num_envs, np.bool_))
        self._show()
        flags = (torch.from_numpy(mask).to(rewards.device) for mask in (terminations, truncations))
        frames, rewards, terminated, truncated = map(self._to_output, (self._frames.clone(), rewards, *flags))
        return frames, rewards, terminated, truncated, infos

    def get_state(self) -> EnvState:
        """The state of all episodes, their random states included; :meth:`set_state` restores it exactly.

        Raises:
            ResetNeeded: before the first reset.
        """
        state = self._current_state("get_state")
        slots = (
            Slot(
                self._generators[slot],
                self._seeds[slot],
                self._tasks[slot],
                int(self._starts[slot]),
                int(self._simulator_seeds[slot]),
                int(self._elapsed[slot]),
                bool(self._ended[slot]),
            )
            for slot in range(self.num_envs)
        )
        copies = tuple(slot.copied() for slot in slots)
        return EnvState(state.select(range(self.num_envs)), self._frames.clone(), copies)

    def set_state(self, state: EnvState) -> None:
        """Continue from a state that :meth:`get_state` gave, as often as wanted.

        Raises:
            InvalidOption: for anything else, the state of another model, or of another number of slots.
        """
        self._check_open("set_state")
        slots = [slot.copied() for slot in self._session.check_state(state, self.num_envs).slots]
        self._state, self._frames = state.restored(self.world_model), state.frames.clone()
        self._generators, self._seeds = [slot.generator for slot in slots], [slot.seed for slot in slots]
        self._tasks = np.array([slot.task for slot in slots], object)
        self._starts = np.array([slot.start for slot in slots], np.int64)
        self._simulator_seeds = np.array([slot.simulator_seed for slot in slots], np.int64)
        self._elapsed = np.array([slot.elapsed for slot in slots], np.int64)
        self._ended = np.array([slot.ended for slot in slots], np.bool_)

    def render(self) -> tuple[Frame, ...] | None:
        """The current frame of every slot in mode ``rgb_array``; in mode ``human`` every step shows them in a row."""
        self._current_state("render")
        return tuple(self._frames.numpy(force=True).copy()) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Free the episodes and their window."""
        self._state = None
        if self.render_mode == "human":
            close_window(WINDOW)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles in the middle of episodes; see :meth:`Session.__getstate__`."""
        return without_model(self.__dict__)

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        with_model(self._state, self.world_model)

    def _check_open(self, call: str) -> None:
        check_open(self.closed, call)

    def _current_state(self, call: str) -> WorldModelState:
        self._check_open(call)
        if self._state is None:
            raise ResetNeeded(f"{call}() was called before reset(): call envs.reset() first")
        return self._state

    def _imagine(
        self, state: WorldModelState, actions: Tensor | NDArray[np.float32], acting: Mask
    ) -> tuple[Tensor, Tensor]:
        """Step the acting slots: rewards, float32 ``[N]``, 0 in the others; terminations, bool ``[N]``."""
        if not acting.any():
            rewards = torch.zeros(self.num_envs, dtype=torch.float32, device=self._frames.device)
            return rewards, rewards.bool()
        # Slots that are about to be reset are computed with the others and then overwritten; they sample nothing.
        noise = self._session.idle_noise(self.num_envs)
        for slot in np.flatnonzero(acting):
            noise[slot] = self._session.noise(self._generator(slot))
        frames, rewards, ended = self._session.step(state, actions, noise)
        self._elapsed[acting] += 1
        if acting.all():
            self._frames = frames
            return rewards, ended
        moved = torch.from_numpy(acting).to(frames.device)
        self._frames = torch.where(moved[:, None, None, None], frames, self._frames)
        return torch.where(moved, rewards, torch.zeros_like(rewards)), ended

    def _checked_actions(self, actions: Any, acting: Mask) -> Tensor | NDArray[np.float32]:
        """Clipped actions. Tensors on a GPU stay there, and are not checked to be finite, because that would wait."""
        codec = self._session.codec
        if isinstance(actions, Tensor) and not codec.scaled:
            actions = actions.numpy(force=True)
        if not isinstance(actions, Tensor) or actions.device.type == "cpu":
            return codec.encode_batch(actions, acting)
        shape = (self.num_envs, codec.dim)
        if tuple(actions.shape) != shape or not actions.is_floating_point():
            raise InvalidAction(f"expected floats of shape {shape}, got {actions.dtype} {tuple(actions.shape)}")
        return actions.to(torch.float32).clamp(-1, 1)

    def _add_step_info(self, infos: Info, state: WorldModelState, mask: Mask) -> None:
        """Add what :meth:`WorldModelEnv.step` puts into ``info``, as arrays with their masks."""
        infos["task"] = np.array(
            [task if shown else None for task, shown in zip(self._tasks, mask, strict=True)], object
        )
        infos["start"] = np.where(mask, self._starts, 0)
        infos["simulator_seed"] = np.where(mask, self._simulator_seeds, 0)
        kept = torch.from_numpy(mask).to(state.uncertainty.device)
        predicted = self._session.step_info(state)
        for name, values in predicted.items():
            infos[name] = self._to_output(torch.where(kept, values, torch.zeros_like(values)))
        infos |= {f"_{name}": mask.copy() for name in (*START_INFO, *predicted)}

    def _add_final_info(self, infos: Info, state: WorldModelState, ended: Mask) -> None:
        """Add the last frames and infos of episodes that are reset in the same step."""
        if not ended.any():
            return
        final: Info = {}
        self._add_step_info(final, state, ended)
        frames = np.full(self.num_envs, None, object)
        for slot in np.flatnonzero(ended):
            frames[slot] = self._to_output(self._frames[int(slot)].clone())
        infos |= {"final_info": final, "_final_info": ended.copy(), "final_obs": frames, "_final_obs": ended.copy()}

    def _to_output(self, tensor: Tensor) -> Any:
        """A tensor as the caller wants it; floats are float64 in NumPy, as in Gymnasium."""
        if self._as_torch:
            return tensor
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy(force=True)

    def _restart(self, slots: NDArray[np.int64], options: Options) -> WorldModelState:
        """Start some slots from real frames; the state of all slots."""
        starts = [
            self._session.choose_start(self._generator(slot), self._slot_options(options, slot)) for slot in slots
        ]
        fresh = self._session.start(starts)
        if self._state is None or len(slots) == self.num_envs:
            self._state = fresh
        else:
            self._state.put(slots, fresh)
        newest = torch.from_numpy(np.stack([start.frames[-1] for start in starts])).to(self._frames.device)
        self._frames = self._frames.index_copy(0, torch.from_numpy(slots).to(newest.device), newest)
        self._tasks[slots] = [start.task for start in starts]
        self._starts[slots] = [start.index for start in starts]
        self._simulator_seeds[slots] = [start.simulator_seed for start in starts]
        self._elapsed[slots] = 0
        self._ended[slots] = False
        return self._state

    def _generator(self, slot: int) -> np.random.Generator:
        generator = self._generators[slot]
        if generator is None:
            generator, self._seeds[slot] = seeding.np_random()
            self._generators[slot] = generator
        return generator

    def _slot_options(self, options: Options, slot: int) -> Options:
        """The options of one slot: ``frames`` may hold frames for each, and ``actions`` with them."""
        frames: Any = options.get("frames")
        if getattr(frames, "ndim", 0) != 5 or len(frames) != self.num_envs:
            return options
        own = {"frames": frames[slot]}
        if "actions" in options:
            actions: Any = options["actions"]
            if not hasattr(actions, "__len__") or len(actions) != self.num_envs:
                raise InvalidOption(
                    f"reset option 'actions': expected those of each of {self.num_envs} slots, as 'frames', got "
                    f"{np.shape(actions)}"
                )
            own["actions"] = actions[slot]
        return {**options, **own}

    def _show(self) -> None:
        if self.render_mode == "human":
            show_frame(np.concatenate(list(self._frames.numpy(force=True)), axis=1), WINDOW)
