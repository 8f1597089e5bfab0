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


class WorldModelEnv(gym.Env[Frame, NDArray[np.float32]]):
    """One imagined episode at a time.

    Args:
        task: one of the checkpoint's tasks; None draws one at each reset, named in ``info["task"]``.
        checkpoint: a shipped name, a folder, a Hugging Face Hub id, or a :class:`WorldModel`.
        device: where to compute, such as ``cuda``; None is the CPU.
        dtype: the precision to compute in, such as ``bfloat16``; None is float32.
        temperature: of the token sampling; None takes the checkpoint's own.
        top_k: how many tokens it may choose from, 1 is greedy; None takes the checkpoint's own.
        render_mode: ``rgb_array``, ``human`` or None.

    Raises:
        UnknownTask: for a task that the checkpoint does not name.
        CheckpointError: for a checkpoint that is missing or damaged.
        ConfigError: for a device that cannot be used here, or a temperature or top_k out of range.
        InvalidOption: for another render mode, or an argument of another kind.
    """

    metadata = METADATA
    action_space: ActionSpace

    def __init__(
        self,
        task: str | None = None,
        checkpoint: Checkpoint = "metaworld-64",
        device: Device = None,
        dtype: Precision = None,
        temperature: float | None = None,
        top_k: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = _checked_render_mode(render_mode)
        self._imagination = Imagination(task, checkpoint, device, dtype, temperature, top_k)
        self.observation_space = self._imagination.observation_space
        self.action_space = self._imagination.action_space
        self._state: WorldModelState | None = None
        self._frame: Frame | None = None
        self._task: str | None = None

    @property
    def world_model(self) -> WorldModel:
        """The model that imagines; environments of the same checkpoint share it."""
        return self._imagination.model

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start from real frames; equal seeds give equal episodes.

        Args:
            seed: of the start and of all tokens drawn from now on.
            options: ``{"frames": uint8 [C, H, W, 3]}`` starts from these, oldest first; ``{"start": index}`` from
                this start state of the task; otherwise the seed draws one.

        Returns:
            The newest context frame, uint8 ``[H, W, 3]``, and ``info`` with ``task`` (None where given frames leave
            it open), ``uncertainty`` 0.0, ``reanchored`` False, and ``start``, the start state's index, where one
            was used.

        Raises:
            InvalidOption: for another option, or an index outside the bank.
            InvalidFrames: for frames of another shape or dtype.
            CheckpointError: without ``frames`` where the checkpoint has no start states (a WorldModel: InvalidOption).
        """
        super().reset(seed=seed)
        frames, info = self._imagination.draw_start(self.np_random, options)
        self._state = self._imagination.start([frames])
        self._task = info["task"]
        return self._show(frames[-1]), info

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Imagine one step; ``action`` is float32 ``[action_dim]``, clipped to [-1, 1].

        Returns:
            The frame, uint8 ``[H, W, 3]``; the reward (0.0 where the checkpoint predicts none); ``terminated`` and
            ``truncated``, both False (``gym.make`` adds the time limit); ``info`` with ``task``, ``uncertainty``
            (mean entropy of the frame's tokens in nats) and ``reanchored`` (True where the model's window was full
            and it went on from its last frames).

        Raises:
            ResetNeeded: before the first reset.
            InvalidAction: for an action of another shape, or one that is not finite.
        """
        if self._state is None:
            raise ResetNeeded("step() came before reset(); call env.reset() first")
        actions = checked_action(action, self.action_space)[None]
        noise = self._imagination.noise(self.np_random)[None]
        frames, rewards = self._imagination.step(self._state, actions, noise)
        uncertainty, reanchored = self._state.uncertainty.item(), bool(self._state.reanchored.item())
        info = {"task": self._task, "uncertainty": uncertainty, "reanchored": reanchored}
        return self._show(frames[0].numpy(force=True)), rewards.item(), False, False, info

    def get_state(self) -> EnvState:
        """Where the episode stands, its randomness included; :meth:`set_state` brings it back exactly.

        Steps that wrappers count, such as those of ``gym.make``'s time limit, are not part of it.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None or self._frame is None:
            raise ResetNeeded("get_state() came before reset(); call env.reset() first")
        slot = Slot(copy.deepcopy(self.np_random), self.np_random_seed, self._task)
        return EnvState(self._state.select([0]), torch.from_numpy(self._frame.copy())[None], (slot,))

    def set_state(self, state: EnvState) -> None:
        """Go on from a state that :meth:`get_state` gave, as often as wanted.

        Raises:
            InvalidOption: for anything else, or the state of another model.
        """
        (slot,) = self._imagination.check_state(state, 1).slots
        self._state = state.restored(self.world_model)
        self._frame, self._task = state.frames[0].numpy(force=True).copy(), slot.task
        self._np_random, self._np_random_seed = copy.deepcopy(slot.generator), slot.seed

    def render(self) -> Frame | None:
        """The current frame in mode ``rgb_array``; in mode ``human`` every step shows its own."""
        if self._frame is None:
            raise ResetNeeded("render() came before reset(); call env.reset() first")
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Let go of the episode and its window."""
        self._state = self._frame = None
        if self.render_mode == "human":
            close_window(WINDOW)

    def _show(self, frame: Frame) -> Frame:
        self._frame = frame
        if self.render_mode == "human":
            show_frame(frame, WINDOW)
        return frame.copy()


def _checked_render_mode(mode: str | None) -> str | None:
    if mode not in (None, *METADATA["render_modes"]):
        raise InvalidOption(f"render_mode must be None, 'rgb_array' or 'human', got {mode!r}")
    return mode


