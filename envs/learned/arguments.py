"""Checks of the arguments of learned environments, and their specification."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldgym.errors import InvalidOption, nearest


def checked_episode_steps(steps: int | None) -> float:
    """The number of steps of an episode; infinity for None and -1. Raises InvalidOption for any other below 1."""
    if steps in (None, -1):
        return math.inf
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise InvalidOption(f"steps of an episode: expected at least 1, or -1 for no limit, got {steps!r}")
    return steps


def json_spec(spec: EnvSpec | None, episode_steps: int | None) -> EnvSpec | None:
    """Complete a specification, in place: the steps of an episode, and arguments that can be written as JSON.

    Paths, dtypes and devices become text.
    """
    if spec is not None:
        spec.max_episode_steps = spec.max_episode_steps or episode_steps
        spec.kwargs = {name: _json_argument(value) for name, value in spec.kwargs.items()}
    return spec


def _json_argument(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value).removeprefix("torch.") if isinstance(value, (torch.dtype, torch.device)) else value


def checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode, also from its name. Raises InvalidOption for an unknown one."""
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = [choice.value for choice in AutoresetMode]
        raise InvalidOption(f"unknown autoreset_mode {mode!r}; {nearest(str(mode), known)}") from error


def slots_to_reset(mask: Any, num_envs: int) -> NDArray[np.int64]:
    """Indices of the slots in a ``reset_mask``, of all slots without one. Raises InvalidOption for a wrong mask."""
    if mask is None:
        return np.arange(num_envs)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,) or not mask.any():
        raise InvalidOption(f"reset_mask: expected a bool array of shape ({num_envs},) with a True in it, got {mask!r}")
    return np.flatnonzero(mask)


def slot_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """A seed for each slot, as :class:`gymnasium.vector.SyncVectorEnv` takes them; None: the slot keeps its generator.

    Raises:
        InvalidOption: for a list of another length.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        return [None if seed is None else int(seed) + slot for slot in range(num_envs)]
    if len(seed) != num_envs:
        raise InvalidOption(f"seed: expected {num_envs} seeds, one a slot, got {len(seed)}")
    return list(seed)
