"""SB3's ``VecEnv`` for learned environments and simulators.

Observations are single frames, uint8 ``[H, W, 3]``. SB3 itself moves the channels first for its networks, and its
``VecFrameStack`` stacks frames.
"""

import importlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common import env_util
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from worldgym.errors import InvalidOption

Info = dict[str, Any]


def make_vec_env(
    env_id: str, n_envs: int = 1, seed: int | None = None, subprocess: bool = False, **env_kwargs: Any
) -> VecEnv:
    """Make a ``VecEnv`` of a learned environment or a simulator, with episode statistics, for any SB3 algorithm.

    Args:
        env_id: a Gymnasium id. ``WorldModel-MetaWorld-v0`` runs all slots as one batch of the world model;
            ``Simulator-MetaWorld-v0`` runs one environment for each slot. SB3's ``CnnPolicy`` needs frames of at least
            36 pixels; use ``MlpPolicy`` for the toy simulator, whose frames have 32.
        n_envs: number of slots.
        seed: slot ``i`` uses ``seed + i`` at the first reset.
        subprocess: run each simulator in its own process. The call then belongs below
            ``if __name__ == "__main__":``. Learned environments ignore it.
        **env_kwargs: arguments of the environment, such as ``task``, ``checkpoint`` and ``max_episode_steps``.
            ``render_mode`` is ``rgb_array`` unless given, as in SB3.

    Returns:
        A :class:`BatchedVecEnv` for learned environments, SB3's ``DummyVecEnv`` or ``SubprocVecEnv`` for others.

    Raises:
        InvalidOption: if ``n_envs`` is below 1. The environment may raise other errors.
    """
    if n_envs < 1:
        raise InvalidOption(f"expected n_envs of at least 1, got {n_envs}")
    spec = _find_spec(env_id)
    env_kwargs = {"render_mode": "rgb_array", **env_kwargs}
    if not _is_batched(spec):
        # The specification, because another process may not have registered the id.
        make = partial(gym.make, spec)
        vec_env_class = SubprocVecEnv if subprocess else DummyVecEnv
        return env_util.make_vec_env(make, n_envs, seed, env_kwargs=env_kwargs, vec_env_cls=vec_env_class)
    envs = BatchedVecEnv(gym.make_vec(spec, n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **env_kwargs))
    envs.action_space.seed(seed)
    envs.seed(seed)
    return envs


class BatchedVecEnv(VecEnv):
    """A Gymnasium vector environment as an SB3 ``VecEnv``, with the results of SB3's ``DummyVecEnv``.

    Episode statistics are recorded as by SB3's ``Monitor``, in ``infos[i]["episode"]``. Seeds and options apply to the
    next reset. All slots share their attributes.

    Args:
        envs: resets a slot in the step that ends its episode, and returns NumPy arrays.

    Raises:
        InvalidOption: if the autoreset mode is another one.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InvalidOption(
                f"expected a vector environment with autoreset_mode {AutoresetMode.SAME_STEP}, got {mode}: "
                "pass autoreset_mode to gymnasium.make_vec"
            )
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = envs.metadata
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._start_time = time.time()
        self._was_reset = False

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset.

        Args:
            options: for all slots, or a list with those of each slot.

        Raises:
            InvalidOption: for anything else.
        """
        per_slot = options if isinstance(options, list) else [options or {}]
        if not all(isinstance(value, dict) for value in per_slot) or (
            isinstance(options, list) and len(options) != self.num_envs
        ):
            raise InvalidOption(f"expected options as a dict, or a list of {self.num_envs} dicts, got {options!r}")
        super().set_options(options)

    def reset(self) -> NDArray[Any]:
        """Start a new episode in all slots, with the seeds and options that were set.

        Returns:
            Observations ``[num_envs, ...]``.

        Raises:
            InvalidOption: if the environment returns tensors. The environment may raise other errors.
        """
        observations: Any = None
        groups = self._slots_by_options()
        if len(groups) > 1 and not self._was_reset:
            self._reset({}, range(self.num_envs))  # Gymnasium resets some slots only after all of them
        for options, slots in groups:
            observations = self._reset(options, slots)
        if not isinstance(observations, np.ndarray):
            raise InvalidOption(
                f"expected an environment that returns NumPy arrays, got {type(observations).__name__}: "
                'make it with output="numpy"'
            )
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        self._was_reset = True
        return observations

    def _slots_by_options(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Different options, by identity because they may hold arrays, and the slots of each."""
        groups: list[tuple[dict[str, Any], list[int]]] = []
        for slot, options in enumerate(self._options):
            for other, slots in groups:
                if options is other or not (options or other):
                    slots.append(slot)
                    break
            else:
                groups.append((options, [slot]))
        return groups

    def _reset(self, options: dict[str, Any], slots: Sequence[int]) -> Any:
        """Reset some slots: observations of all slots."""
        seeds: Any = self._seeds  # a list, which Gymnasium's vector environments accept but its type does not name
        mask = np.isin(np.arange(self.num_envs), slots)
        if not mask.all():
            options = {**options, "reset_mask": mask}
        observations, infos = self.envs.reset(seed=seeds, options=options)
        for slot in slots:
            self.reset_infos[slot] = _select_slot(infos, slot)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions ``[num_envs, ...]`` that :meth:`step_wait` applies."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[Info]]:
        """Step all slots.

        Returns:
            Observations ``[num_envs, ...]``, rewards float32 ``[num_envs]``, whether an episode ended bool
            ``[num_envs]``, and infos. Where an episode ended, the observation is the first one of the next episode,
            and ``infos[i]`` has the last one as ``terminal_observation``. ``TimeLimit.truncated`` says whether the
            episode was truncated, and ``episode`` has its return ``r``, its length ``l`` in steps and the seconds ``t``
            since this environment was made.
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        slot_infos = [self._step_info(infos, slot, done) for slot, done in enumerate(dones)]
        for info, cut_off in zip(slot_infos, truncated & ~terminated, strict=True):
            info["TimeLimit.truncated"] = bool(cut_off)
        self._returns[dones], self._lengths[dones] = 0, 0
        return observations, rewards.astype(np.float32), dones, slot_infos

    def _step_info(self, infos: Mapping[str, Any], slot: int, done: bool) -> Info:
        """The info of a slot's step as in SB3; keeps the info of the reset after it."""
        info = _select_slot(infos, slot)
        if not done:
            return info
        observation, final = info.pop("final_obs"), info.pop("final_info")
        self.reset_infos[slot] = info
        seconds = round(time.time() - self._start_time, 6)
        episode = {"r": round(float(self._returns[slot]), 6), "l": int(self._lengths[slot]), "t": seconds}
        return {**final, "terminal_observation": observation, "episode": episode}

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """The frame of every slot, uint8 ``[H, W, 3]``. ``render`` shows them as tiles of one picture."""
        images: Any = self.envs.render()
        return images or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments, such as ``world_model``, for each of the requested slots."""
        single = attr_name in ("observation_space", "action_space")
        value = getattr(self.envs, f"single_{attr_name}" if single else attr_name)
        per_slot = attr_name in ("np_random", "np_random_seed")
        return [value[slot] if per_slot else value for slot in self._slots(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all slots.

        Raises:
            InvalidOption: if ``indices`` names only some of the slots, because they share the attribute.
        """
        self._check_all_slots(indices, f"the attribute {attr_name!r}")
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once. ``render`` returns each slot's own frame.

        Returns:
            The result, once for each of the requested slots.

        Raises:
            InvalidOption: for ``reset`` and ``step``, which would skip the episode statistics, and for other methods
                than ``render`` if ``indices`` names only some of the slots.
        """
        if method_name in ("reset", "step"):
            raise InvalidOption(
                f"expected another method than {method_name!r}: call {method_name}() of the VecEnv, which records the "
                "episode statistics"
            )
        if method_name == "render":
            images = self.get_images()
            return [images[slot] for slot in self._slots(indices)]
        self._check_all_slots(indices, f"the method {method_name!r}")
        return [getattr(self.envs, method_name)(*method_args, **kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """True for SB3's ``Monitor``, because episode statistics are recorded here, and for its base classes."""
        return [issubclass(Monitor, wrapper_class) for _ in self._slots(indices)]

    def _slots(self, indices: VecEnvIndices) -> list[int]:
        return [range(self.num_envs)[index] for index in self._get_indices(indices)]

    def _check_all_slots(self, indices: VecEnvIndices, what: str) -> None:
        if sorted(slots := self._slots(indices)) != list(range(self.num_envs)):
            raise InvalidOption(
                f"expected all {self.num_envs} slots, because they share {what}, got {slots}: leave indices out"
            )


def _find_spec(env_id: str) -> EnvSpec:
    """The specification of ``id``, or of ``module:id``, where importing the module registers the id."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gym.spec(name)


def _is_batched(spec: EnvSpec) -> bool:
    """Whether the vector environment is one of this package; others may not take an autoreset mode."""
    entry = spec.vector_entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return module.startswith("worldgym.")


def _select_slot(infos: Mapping[str, Any], slot: int) -> Info:
    """The infos of one slot of a vector environment, with numbers as Python's own types."""
    info: Info = {}
    for name, values in infos.items():
        if not name.startswith("_") and infos[f"_{name}"][slot]:
            value = _select_slot(values, slot) if isinstance(values, Mapping) else values[slot]
            info[name] = value.item() if isinstance(value, np.generic) else value
    return info
