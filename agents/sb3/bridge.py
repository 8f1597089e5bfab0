"""The bridge to stable-baselines3: its algorithms train in imagination and in simulators, by the same call.

:func:`make_vec_env` gives SB3 a ``VecEnv``. Observations are one frame, uint8 ``[H, W, 3]``; SB3 itself puts the
colours first for its networks, and its ``VecFrameStack`` stacks.

:class:`MixedReplayBuffer` and :class:`ImaginationCallback` make MBPO of an off-policy algorithm such as SAC, TD3 or
DQN: it acts in a real environment and learns from imagined rollouts beside what it saw.
"""

import importlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldgym.agents.common.rollouts import check_rollouts_possible
from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError, DataError, DependencyNotInstalled, InvalidAction, InvalidOption
from worldgym.world_model import WorldModel

try:
    from stable_baselines3.common import env_util
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.noise import VectorizedActionNoise
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
except ImportError as error:
    raise DependencyNotInstalled(
        f"worldgym.agents.sb3 needs stable-baselines3 ({error}); run `pip install worldgym[sb3]`"
    ) from error

if TYPE_CHECKING:
    from worldgym.training.online import OnlineTrainer

Info = dict[str, Any]
Observations = NDArray[np.uint8]
"""Pictures as SB3 stores them: stacks along the colours, oldest first, ``[N, 3 * stack, H, W]`` or colours last."""

TRANSFORMER_UPDATES_A_TOKENIZER_UPDATE = 4
"""Paper, Table 5: the transformer learns every 10 real steps, the tokenizer every 40."""


def make_vec_env(
    env_id: str, n_envs: int = 1, seed: int | None = None, subprocess: bool = False, **env_kwargs: Any
) -> VecEnv:
    """A ``VecEnv`` of a learned environment or a simulator, with episode statistics, for any SB3 algorithm.

    Args:
        env_id: such as ``WorldModel-MetaWorld-v0``, whose slots are one batched pass of the model, or
            ``Simulator-MetaWorld-v0``, one environment a slot. SB3's ``CnnPolicy`` takes pictures of 36 pixels and
            more, so not the toy worlds' 32: ``MlpPolicy`` does.
        n_envs: how many slots.
        seed: slot ``i`` takes ``seed + i`` at the first reset.
        subprocess: run each simulator in a process of its own (then call this below ``if __name__ == "__main__"``);
            learned environments need none.
        env_kwargs: the environment's own, such as ``task``, ``checkpoint`` and ``max_episode_steps``; ``render_mode``
            is ``rgb_array`` unless given, as in SB3.

    Raises:
        InvalidOption: for a count below 1; else what the environment raises.
    """
    if n_envs < 1:
        raise InvalidOption(f"n_envs must be at least 1, got {n_envs}")
    spec = _find_spec(env_id)
    env_kwargs = {"render_mode": "rgb_array", **env_kwargs}
    if not _is_batched(spec):
        # The specification instead of its id: another process may not have registered the id.
        make = partial(gym.make, spec)
        processes = SubprocVecEnv if subprocess else DummyVecEnv
        return env_util.make_vec_env(make, n_envs, seed, env_kwargs=env_kwargs, vec_env_cls=processes)
    envs = BatchedVecEnv(gym.make_vec(spec, n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **env_kwargs))
    envs.action_space.seed(seed)
    envs.seed(seed)
    return envs


class BatchedVecEnv(VecEnv):
    """A vector environment of Gymnasium as SB3 expects it, indistinguishable from its ``DummyVecEnv``.

    Episodes are recorded as by SB3's ``Monitor``, in ``infos[i]["episode"]``. Seeds and options count at the next
    reset. The slots share their attributes.

    Raises:
        InvalidOption: unless the environment resets a slot in the step that ends its episode.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InvalidOption(f"SB3 needs autoreset_mode {AutoresetMode.SAME_STEP}, got {mode}")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = envs.metadata
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._born = time.time()

    def reset(self) -> NDArray[Any]:
        """Start all slots with the seeds and options that were set: their observations ``[num_envs, ...]``."""
        seeds: Any = self._seeds  # a list, which Gymnasium's vector environments take but its type does not name
        first = self._options[0]
        observations, infos = self.envs.reset(seed=seeds, options=first)
        self.reset_infos = [_of_slot(infos, slot) for slot in range(self.num_envs)]
        for slot, options in enumerate(self._options):
            if options is not first and (options or first):  # one of a list of options
                mask = np.arange(self.num_envs) == slot
                observations, infos = self.envs.reset(seed=seeds, options={**options, "reset_mask": mask})
                self.reset_infos[slot] = _of_slot(infos, slot)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return np.asarray(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions, ``[num_envs, ...]``, that :meth:`step_wait` applies."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[Info]]:
        """Step all slots: observations, rewards, ends of episodes, infos.

        Where an episode ended, the observation is the next one's first; ``infos[i]`` holds its last as
        ``terminal_observation``, whether it was only cut off as ``TimeLimit.truncated``, and ``episode``: its return
        ``r``, its length ``l`` and the seconds ``t`` since this environment was made.
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        told = [self._info(infos, slot, ended) for slot, ended in enumerate(dones)]
        for info, cut in zip(told, truncated & ~terminated, strict=True):
            info["TimeLimit.truncated"] = bool(cut)
        self._returns[dones], self._lengths[dones] = 0, 0
        return observations, rewards.astype(np.float32), dones, told

    def _info(self, infos: Mapping[str, Any], slot: int, ended: bool) -> Info:
        """What SB3 wants to hear of a slot's step; keeps what is told of the reset behind it."""
        said = _of_slot(infos, slot)
        if not ended:
            return said
        observation, final = said.pop("final_obs"), said.pop("final_info")
        self.reset_infos[slot] = said
        seconds = round(time.time() - self._born, 6)
        episode = {"r": round(float(self._returns[slot]), 6), "l": int(self._lengths[slot]), "t": seconds}
        return {**final, "terminal_observation": observation, "episode": episode}

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """The picture of every slot; ``render`` tiles them, for SB3's ``VecVideoRecorder`` too."""
        images: Any = self.envs.render()
        return images or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments, such as ``world_model``, for each of the slots asked for."""
        single = attr_name in ("observation_space", "action_space")
        value = getattr(self.envs, f"single_{attr_name}" if single else attr_name)
        own = attr_name in ("np_random", "np_random_seed")
        return [value[slot] if own else value for slot in self._slots(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all slots. Raises InvalidOption for some of them: they share it."""
        self._check_all(indices, f"the attribute {attr_name!r}")
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once and give its result to each slot; of ``render``, its own.

        Raises:
            InvalidOption: for any other method and only some of the slots, which it would not be confined to; for
                ``reset`` and ``step``, behind whose back the statistics would go on.
        """
        if method_name in ("reset", "step"):
            raise InvalidOption(f"call {method_name}() of the VecEnv itself, which keeps its episodes' statistics")
        if method_name == "render":
            images = self.get_images()
            return [images[slot] for slot in self._slots(indices)]
        self._check_all(indices, f"the method {method_name!r}")
        return [getattr(self.envs, method_name)(*method_args, **kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """True for SB3's ``Monitor``, whose work is done here."""
        return [issubclass(Monitor, wrapper_class) for _ in self._slots(indices)]

    def _slots(self, indices: VecEnvIndices) -> list[int]:
        return [range(self.num_envs)[index] for index in self._get_indices(indices)]

    def _check_all(self, indices: VecEnvIndices, what: str) -> None:
        if sorted(slots := self._slots(indices)) != list(range(self.num_envs)):
            raise InvalidOption(f"the {self.num_envs} slots share {what}: leave indices out, got {slots}")


def _find_spec(env_id: str) -> EnvSpec:
    """The specification of an id, behind the module that registers it where one is named: ``module:id``."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gym.spec(name)


def _is_batched(spec: EnvSpec) -> bool:
    """Whether the environment has a vector form of ours; those of others know no choice of autoreset."""
    entry = spec.vector_entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return module.startswith("worldgym.")


def _of_slot(infos: Mapping[str, Any], slot: int) -> Info:
    """What the infos of a vector environment tell of one slot, numbers as Python's own."""
    told: Info = {}
    for name, values in infos.items():
        if not name.startswith("_") and infos[f"_{name}"][slot]:
            value = _of_slot(values, slot) if isinstance(values, Mapping) else values[slot]
            told[name] = value.item() if isinstance(value, np.generic) else value
    return told


class MixedReplayBuffer(ReplayBuffer):
    """SB3's replay buffer of real transitions with a part of imagined ones beside it.

    Give it to an off-policy algorithm as ``replay_buffer_class``, and the last two arguments as
    ``replay_buffer_kwargs``; :class:`ImaginationCallback` fills the imagined part. An imagined episode never
    terminates.

    Args:
        buffer_size, observation_space, action_space, others: as in SB3's; the observations are frames, uint8, or
            stacks of them by ``VecFrameStack``.
        imagined_size: how many imagined transitions are held; the oldest give way, so it bounds their age too.
        real_ratio: the share of every batch that is real, once there is anything imagined.

    Raises:
        ConfigError: for observations that are no frames, for a size or ratio out of range, for
            ``optimize_memory_usage``, which drops the last frames of episodes.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.spaces.Space[Any],
        action_space: gym.spaces.Space[Any],
        *others: Any,
        imagined_size: int = 10_000,
        real_ratio: float = 0.5,
        **named: Any,
    ) -> None:
        if imagined_size < 1 or not 0 <= real_ratio <= 1:
            asked = f"imagined_size={imagined_size}, real_ratio={real_ratio}"
            raise ConfigError(f"expected an imagined_size of at least 1 and a real_ratio in [0, 1], got {asked}")
        if not isinstance(observation_space, gym.spaces.Box) or not _holds_frames(observation_space):
            raise ConfigError(f"expected observations of uint8 frames, alone or stacked, got {observation_space}")
        if named.get("optimize_memory_usage"):
            raise ConfigError("the last frames of episodes are needed; leave optimize_memory_usage out")
        super().__init__(buffer_size, observation_space, action_space, *others, **named)
        self.imagined = ReplayBuffer(imagined_size, observation_space, action_space, self.device)
        self.real_ratio = real_ratio
        self._axis = -3 if is_image_space_channels_first(observation_space) else -1  # of the colours
        self._ends = np.zeros((self.buffer_size, self.n_envs), np.bool_)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame: ``(H, W, 3)``."""
        return self.newest(self.observations[:1, 0]).shape[1:]

    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest reward of the real steps held; there has to be one."""
        rewards = self.rewards[: self.size()]
        return float(rewards.min()), float(rewards.max())

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[Info],
    ) -> None:
        """Store one real step of every environment, as SB3 does.

        Raises:
            InvalidAction, DataError: for an action or a reward that is not finite; nothing is stored.
        """
        _check_finite(action, reward)
        self._ends[self.pos] = done
        super().add(obs, next_obs, action, reward, done, infos)

    def add_imagined(
        self, obs: Observations, next_obs: Observations, action: NDArray[Any], reward: NDArray[np.float32]
    ) -> None:
        """Store ``N`` imagined transitions: actions ``[N, A]`` as the real part holds them, rewards ``[N]``.

        Raises:
            InvalidAction, DataError: for an action or a reward that is not finite; nothing is stored.
        """
        _check_finite(action, reward)
        part, end = self.imagined, self.imagined.pos + len(reward)
        rows = np.arange(part.pos, end) % part.buffer_size
        part.observations[rows, 0], part.next_observations[rows, 0] = obs, next_obs
        part.actions[rows, 0], part.rewards[rows, 0] = action, reward
        part.pos, part.full = end % part.buffer_size, part.full or end >= part.buffer_size

    def cut(self) -> None:
        """The newest real step ends its episode: the environment was reset in the middle of it."""
        self._ends[self.pos - 1] = True

    def reset(self) -> None:
        super().reset()
        self.imagined.reset()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Transitions drawn uniformly from each part, the real ones first."""
        self.imagined.device = self.device  # SB3 changes the latter where it loads a buffer
        real = round(batch_size * self.real_ratio) if self.imagined.size() else batch_size
        drawn = [super().sample(real, env)] if real else []
        if real < batch_size:
            drawn.append(self.imagined.sample(batch_size - real, env))
        return ReplayBufferSamples(*(torch.cat(parts) for parts in zip(*(sample[:5] for sample in drawn), strict=True)))

    def segments(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.float32]]:
        """Stretches of real episodes, drawn uniformly, for a world model to learn from.

        Returns:
            Frames, uint8 ``[count, length, H, W, 3]``; actions as they are stored, ``[count, length - 1, A]``;
            rewards, float32 ``[count, length - 1]``.

        Raises:
            DataError: where no episode holds so many frames.
        """
        steps, slots = self._stretches(rng, count, length - 1)
        last = self.next_observations[steps[:, -1:], slots]
        frames = self.newest(np.concatenate([self.observations[steps, slots], last], axis=1))
        return frames, self.actions[steps, slots], self.rewards[steps, slots]

    def starts(self, rng: np.random.Generator, count: int, context: int) -> tuple[Observations, NDArray[np.uint8]]:
        """Real observations to imagine from, ``[count, ...]``, and the frames that lead up to them.

        The latter are uint8 ``[count, context, H, W, 3]``, of one episode, the observation's newest frame the last.

        Raises:
            DataError: where no episode holds so many frames.
        """
        steps, slots = self._stretches(rng, count, context)
        observations = self.observations[steps, slots]
        return observations[:, -1], self.newest(observations)

    def newest(self, observations: Observations) -> NDArray[np.uint8]:
        """The newest frame of stacks ``[..., 3 * stack, H, W]``, or with colours last: ``[..., H, W, 3]``."""
        return np.moveaxis(observations, self._axis, -1)[..., -3:]

    def pushed(self, observations: Observations, frames: NDArray[np.uint8]) -> Observations:
        """The stacks ``[N, ...]`` one step on: without their oldest frame, with ``frames`` ``[N, H, W, 3]``."""
        stacks = np.moveaxis(observations, self._axis, -1)
        return np.moveaxis(np.concatenate([stacks[..., 3:], frames], axis=-1), -1, self._axis)

    def _stretches(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of ``length`` successive steps of one episode: ``[count, length]``, and slots ``[count, 1]``."""
        held = self.size()
        order = (np.arange(held) + self.pos * self.full) % self.buffer_size  # oldest first
        ends = np.cumsum(np.pad(self._ends[order], ((1, 0), (0, 0))), axis=0)
        first, slots = np.nonzero(ends[length - 1 : held] == ends[: max(0, held - length + 1)])
        if not len(first):
            raise DataError(
                f"no episode of the replay holds {length} successive steps (it holds {held}): "
                "collect more before, or ask for shorter segments"
            )
        chosen = rng.integers(len(first), size=count)
        return order[first[chosen, None] + np.arange(length)], slots[chosen, None]


def _holds_frames(space: gym.spaces.Box[Any]) -> bool:
    """Whether the colours, which SB3 takes for the smallest of three dimensions, are those of whole frames."""
    return is_image_space(space) and min(space.shape) % 3 == 0


def _check_finite(action: NDArray[Any], reward: NDArray[Any]) -> None:
    if not np.isfinite(action).all():
        raise InvalidAction(f"expected finite actions, got {action}; nothing was stored")
    if not np.isfinite(reward).all():
        raise DataError(f"expected finite rewards, got {reward}; nothing was stored")


class ImaginationCallback(BaseCallback):
    """Imagines rollouts for an algorithm with a :class:`MixedReplayBuffer`, and lets the world model learn on.

    Rollouts begin in real states drawn uniformly, run in one batch under the policy as it explores now, and are cut
    off at the horizon; their rewards stay within the range of the real ones. What falls due during the algorithm's
    ``learning_starts``, or before an environment has taken as many steps as a segment has, is made up for when these
    are over.

    Args:
        world_model: imagines; its action dimension and resolution must be the environment's.
        trainer: keeps that model learning from the real part; None leaves the model as it is.
        every: real steps from one batch of rollouts to the next.
        rollout_batch, horizon: how many rollouts, of how many steps each.
        refresh_every: real steps from one round of world-model updates to the next.
        updates: of the transformer in such a round; the tokenizer makes a quarter as many.
        batch_size, segment_length: of a world-model update, in segments and frames.
        actions: what each action of a discrete space means to the world model, float ``[n, action_dim]`` in [-1, 1].
        seed: of starts and imagined tokens; those of the policy are SB3's own.

    Raises:
        ConfigError: for numbers out of range and a trainer of another model; when training starts, for an
            algorithm, environment or table of actions that does not fit the world model.
    """

    def __init__(
        self,
        world_model: WorldModel,
        trainer: "OnlineTrainer | None" = None,
        every: int = 200,
        rollout_batch: int = 32,
        horizon: int = 10,
        refresh_every: int = 200,
        updates: int = 20,
        batch_size: int = 16,
        segment_length: int = 12,
        actions: NDArray[Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(every, rollout_batch, horizon, refresh_every, updates, batch_size) < 1:
            raise ConfigError("every, rollout_batch, horizon, refresh_every, updates and batch_size must be positive")
        if segment_length <= (context := world_model.config.context_length):
            raise ConfigError(
                f"segments need a frame beyond the context of {context}, got segment_length {segment_length}"
            )
        if trainer is not None and trainer.world_model is not world_model:
            raise ConfigError("the trainer keeps another world model; give it the one that imagines")
        self.world_model, self.trainer, self.actions = world_model, trainer, actions
        self.every, self.rollout_batch, self.horizon = every, rollout_batch, horizon
        self.refresh_every, self.updates = refresh_every, updates
        self.batch_size, self.segment_length = batch_size, segment_length
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._handled = 0  # real steps so far, at the last look

    def _init_callback(self) -> None:
        self._algorithm, self._buffer = self._checked_algorithm()
        self._check_model(self._buffer.frame_shape)
        self.actions = self._checked_actions(self._algorithm.action_space)

    def _on_training_start(self) -> None:
        self._buffer.cut()
        self._handled = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """What fell due since the last look; SB3 has stored the steps by now and updates the agent next."""
        before, now = self._handled, self._algorithm.num_timesteps
        shortest = max(self.world_model.config.context_length, 0 if self.trainer is None else self.segment_length - 1)
        if now < self._algorithm.learning_starts or self._buffer.size() < shortest:
            return  # of many environments each has taken but a few steps yet
        self._handled = now
        if self.trainer is not None:
            for _ in range(now // self.refresh_every - before // self.refresh_every):
                self._refresh(self.trainer)
        if self.trainer is not None and not self.trainer.trained:
            return  # its first round of updates is still to come
        for _ in range(now // self.every - before // self.every):
            self._imagine()

    def _refresh(self, trainer: "OnlineTrainer") -> None:
        """One round of world-model updates."""
        for update in range(self.updates):
            if update % TRANSFORMER_UPDATES_A_TOKENIZER_UPDATE == 0:
                self._log("tokenizer", trainer.fit_tokenizer(self._segments()))
            self._log("transformer", trainer.fit_transformer(self._segments()))

    def _imagine(self) -> None:
        """One batch of rollouts."""
        model, sampling, buffer = self.world_model, self.world_model.config.sampling, self._buffer
        observations, context = buffer.starts(self._rng, self.rollout_batch, model.config.context_length)
        state, noise = model.start(context), self._exploration_noise()
        believed = buffer.reward_range()
        for _ in range(self.horizon):
            actions = self._act(observations, noise)
            moves = self._vectors(actions)
            _, frames, rewards = model.step(state, moves, sampling.temperature, sampling.top_k, self._generator)
            rewards = rewards.clamp(*believed)
            following = buffer.pushed(observations, frames.numpy(force=True))
            buffer.add_imagined(observations, following, actions, rewards.numpy(force=True))
            self._log("imagined", {"reward": rewards.mean().item(), "uncertainty": state.uncertainty.mean().item()})
            observations = following

    def _act(self, observations: Observations, noise: VectorizedActionNoise | None) -> NDArray[Any]:
        """What the policy would try, exploring, as the replay holds it: ``[N, A]``, continuous actions in [-1, 1]."""
        chosen, _ = self._algorithm.predict(observations, deterministic=False)
        if self.actions is not None:
            return chosen[:, None]
        scaled = self._algorithm.policy.scale_action(chosen)
        return scaled if noise is None else np.clip(scaled + noise(), -1, 1)

    def _exploration_noise(self) -> VectorizedActionNoise | None:
        """The algorithm's action noise, begun anew for every rollout of a batch."""
        noise = self._algorithm.action_noise
        if isinstance(noise, VectorizedActionNoise):
            noise = noise.base_noise
        if noise is None:
            return None
        fresh = VectorizedActionNoise(noise, self.rollout_batch)
        fresh.reset()
        return fresh

    def _vectors(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Actions of the replay, ``[..., A]`` or indices ``[..., 1]``, as the world model takes them."""
        return actions.astype(np.float32) if self.actions is None else self.actions[actions[..., 0]]

    def _segments(self) -> Batch:
        frames, actions, rewards = self._buffer.segments(self._rng, self.batch_size, self.segment_length)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(frames)),
            torch.from_numpy(self._vectors(actions)),
            torch.from_numpy(rewards),
        )

    def _log(self, part: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.logger.record_mean(f"world_model/{part}_{name}", value)

    def _checked_algorithm(self) -> tuple[OffPolicyAlgorithm, MixedReplayBuffer]:
        algorithm, buffer = self.model, getattr(self.model, "replay_buffer", None)
        if not isinstance(algorithm, OffPolicyAlgorithm) or not isinstance(buffer, MixedReplayBuffer):
            raise ConfigError(
                "expected an off-policy algorithm with replay_buffer_class=MixedReplayBuffer, "
                f"got {type(algorithm).__name__} with {type(buffer).__name__}"
            )
        if (rollouts := self.rollout_batch * self.horizon) > buffer.imagined.buffer_size:
            raise ConfigError(
                f"one batch of rollouts is {rollouts} transitions, more than the replay holds imagined ones: "
                f'raise replay_buffer_kwargs["imagined_size"] above {buffer.imagined.buffer_size}'
            )
        return algorithm, buffer

    def _check_model(self, frame_shape: tuple[int, ...]) -> None:
        config = self.world_model.config
        expected = (config.resolution, config.resolution, 3)
        if frame_shape != expected:
            raise ConfigError(f"the world model imagines frames {expected}, the environment shows {frame_shape}")
        check_rollouts_possible(self.world_model, config.context_length)  # the replay gives as many frames as it starts from

    def _checked_actions(self, space: gym.spaces.Space[Any]) -> NDArray[np.float32] | None:
        """The table of a discrete space's actions; None for continuous ones."""
        dim = self.world_model.config.action_dim
        if isinstance(space, gym.spaces.Discrete):
            table = np.asarray([] if self.actions is None else self.actions, np.float32)
            if table.shape != (space.n, dim) or not (np.abs(table) <= 1).all():
                raise ConfigError(
                    f"the environment has {space.n} discrete actions: say what each means to the world model by "
                    f"actions, float [{space.n}, {dim}] in [-1, 1]; got {self.actions}"
                )
            return table
        if space.shape != (dim,) or self.actions is not None:
            raise ConfigError(
                f"the world model takes {dim} continuous actions, the environment {space}"
                + ("" if self.actions is None else "; a table of actions is for discrete ones")
            )
        return None
