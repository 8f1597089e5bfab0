"""MBPO for SB3's off-policy algorithms: a callback that trains a world model and adds imagined rollouts to the replay.

Shapes: B rollouts, S frames of history, T steps, H x W pixels, A action dimension.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from worldgym.agents.common.rewards import ClippedRewards, HeadRewards
from worldgym.agents.common.rollouts import Rollouts, check_rollouts_possible, imagine_rollouts
from worldgym.agents.sb3.replay import MixedReplayBuffer
from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError
from worldgym.training.online import OnlineTrainer
from worldgym.world_model import WorldModel

TRANSFORMER_UPDATES_PER_TOKENIZER_UPDATE = 4
"""Paper, Table 5: the transformer is updated every 10 real steps, the tokenizer every 40."""


class ImaginationCallback(BaseCallback):
    """Adds imagined rollouts to an algorithm's :class:`MixedReplayBuffer`, and trains the world model on real steps.

    Rollouts start in real states, sampled uniformly, and follow the algorithm's current policy with its exploration.
    Their rewards are clipped to the range of the real rewards. Continuous actions are scaled to [-1, 1] for the world
    model, as SB3 scales them for its replay.

    Nothing happens during the algorithm's ``learning_starts``, nor before each slot has taken the steps of one
    segment; what was due until then is done after it. A world model that was never trained imagines nothing before its
    first round of training.

    Args:
        world_model: must have the environment's action dimension and resolution.
        trainer: trains this world model on real steps; None does not train it.
        rollout_every: real steps between two batches of rollouts.
        rollouts: rollouts in a batch.
        horizon: steps of a rollout at most.
        max_uncertainty: a rollout ends before the first frame whose uncertainty is larger. None: rollouts have
            full length.
        pessimism: how many standard deviations of the predicted reward are subtracted from it; above 0 the world model
            needs reward bins.
        train_every: real steps between two rounds of world-model training.
        updates: updates of the transformer in a round; the tokenizer gets a quarter as many.
        batch_size: segments in an update of the world model.
        segment_length: frames in a segment.
        action_table: the world model's action for each action of a discrete space, float ``[n, action_dim]`` in
            [-1, 1].
        seed: of starts, segments and imagined tokens. The policy samples with SB3's own random numbers.

    Raises:
        ConfigError: if a number is out of range, or the trainer does not fit the world model or ``segment_length``.
            When training starts: if the algorithm, its environment or ``action_table`` does not fit.
    """

    def __init__(
        self,
        world_model: WorldModel,
        trainer: OnlineTrainer | None = None,
        rollout_every: int = 200,
        rollouts: int = 32,
        horizon: int = 10,
        max_uncertainty: float | None = None,
        pessimism: float = 0.0,
        train_every: int = 200,
        updates: int = 20,
        batch_size: int = 16,
        segment_length: int = 12,
        action_table: NDArray[Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.world_model, self.trainer, self.action_table = world_model, trainer, action_table
        self.rollout_every, self.rollouts, self.horizon = rollout_every, rollouts, horizon
        self.max_uncertainty, self.pessimism = max_uncertainty, pessimism
        self.train_every, self.updates = train_every, updates
        self.batch_size, self.segment_length = batch_size, segment_length
        self._check_numbers()
        if trainer is not None:
            self._check_trainer(trainer)
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._last_step = 0  # real steps when it was last checked what is due

    def _check_numbers(self) -> None:
        for name in ("rollout_every", "rollouts", "horizon", "train_every", "updates", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if self.max_uncertainty is not None and not self.max_uncertainty > 0:
            raise ConfigError(f"max_uncertainty: expected None or a number above 0, got {self.max_uncertainty}")

    def _check_trainer(self, trainer: OnlineTrainer) -> None:
        if trainer.world_model is not self.world_model:
            raise ConfigError("trainer: expected one of the callback's world model, got one of another: pass the same")
        trainer.check_segment_length(self.segment_length)

    @property
    def _steps_needed(self) -> int:
        """Successive steps of one episode that rollouts and segments need."""
        segment = 0 if self.trainer is None else self.segment_length - 1
        return max(self.world_model.config.context_length, segment)

    def _init_callback(self) -> None:
        self._algorithm, self._buffer = self._checked_algorithm()
        self._check_returns()
        self._check_episodes(self.training_env)
        self._check_world_model()
        self._table = self._checked_table(self._algorithm.action_space)

    def _on_training_start(self) -> None:
        self._buffer.end_episodes()
        self._last_step = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Do what became due; SB3 has stored the real steps and updates the agent next."""
        before, now = self._last_step, self._algorithm.num_timesteps
        if now < self._algorithm.learning_starts or self._buffer.size() < self._steps_needed:
            return
        self._last_step = now
        if self.trainer is not None:
            for _ in range(now // self.train_every - before // self.train_every):
                self._train(self.trainer)
            if not self.trainer.trained:
                return
        for _ in range(now // self.rollout_every - before // self.rollout_every):
            self._imagine()

    def _train(self, trainer: OnlineTrainer) -> None:
        """One round of world-model training."""
        for update in range(self.updates):
            if update % TRANSFORMER_UPDATES_PER_TOKENIZER_UPDATE == 0:
                self._record("tokenizer", trainer.fit_tokenizer(self._segments()))
            self._record("transformer", trainer.fit_transformer(self._segments()))

    def _imagine(self) -> None:
        """One batch of rollouts."""
        buffer, policy = self._buffer, _ExploringPolicy(self._algorithm, self._buffer, self._table, self.rollouts)
        history = buffer.starts(self._rng, self.rollouts, self.world_model.config.context_length)
        rollouts = imagine_rollouts(
            self.world_model,
            policy,
            torch.from_numpy(history),
            self.horizon,
            rewards=ClippedRewards(HeadRewards(), *buffer.reward_range()),
            generator=self._generator,
            max_uncertainty=self.max_uncertainty,
            pessimism=self.pessimism,
        )
        actions = policy.stored_actions(rollouts)
        buffer.add_rollouts(rollouts.frames, actions, rollouts.rewards, rollouts.lengths, rollouts.terminated)
        self._record("imagined", _summary(rollouts))

    def _segments(self) -> Batch:
        batch = self._buffer.segments(self._rng, self.batch_size, self.segment_length)
        return batch._replace(actions=torch.from_numpy(_model_actions(batch.actions.numpy(), self._table)))

    def _record(self, part: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.logger.record_mean(f"world_model/{part}_{name}", value)

    def _checked_algorithm(self) -> tuple[OffPolicyAlgorithm, MixedReplayBuffer]:
        algorithm, buffer = self.model, getattr(self.model, "replay_buffer", None)
        if not isinstance(algorithm, OffPolicyAlgorithm) or not isinstance(buffer, MixedReplayBuffer):
            raise ConfigError(
                "expected an off-policy algorithm with replay_buffer_class=MixedReplayBuffer, "
                f"got {type(algorithm).__name__} with {type(buffer).__name__}"
            )
        if (transitions := self.rollouts * self.horizon) > (size := buffer.imagined.buffer_size):
            raise ConfigError(
                f"expected an imagined part of the replay buffer for one batch of rollouts, {transitions} "
                f'transitions, got {size}: raise replay_buffer_kwargs["imagined_size"]'
            )
        return algorithm, buffer

    def _check_returns(self) -> None:
        """Check n-step returns: SB3 ignores an algorithm's ``n_steps`` if it is given a replay buffer class."""
        algorithm, buffer = self._algorithm, self._buffer
        steps = algorithm.n_steps if algorithm.n_steps > 1 else buffer.n_steps
        if steps > 1 and (buffer.n_steps, buffer.gamma) != (steps, algorithm.gamma):
            raise ConfigError(
                f"expected a replay buffer with n_steps={steps} and the algorithm's gamma={algorithm.gamma}, got "
                f"n_steps={buffer.n_steps} and gamma={buffer.gamma}: pass "
                f'replay_buffer_kwargs={{"n_steps": {steps}, "gamma": {algorithm.gamma}}}'
            )

    def _check_episodes(self, env: VecEnv) -> None:
        """Check that episodes are long enough, as far as their time limit says."""
        attribute = "_max_episode_steps"  # of Gymnasium's TimeLimit
        for limit in env.get_attr(attribute) if env.has_attr(attribute) else []:
            if limit < self._steps_needed:
                raise ConfigError(
                    f"expected episodes of at least {self._steps_needed} steps, for the world model's context and for "
                    f"segment_length, got max_episode_steps={limit}: raise it or lower segment_length"
                )

    def _check_world_model(self) -> None:
        config, frame_shape = self.world_model.config, self._buffer.frame_shape
        expected = (config.resolution, config.resolution, 3)
        if frame_shape != expected:
            raise ConfigError(
                f"expected an environment with the world model's frames {expected}, got frames {frame_shape}"
            )
        check_rollouts_possible(self.world_model, max(config.context_length, self._buffer.stack), self.pessimism)

    def _checked_table(self, space: gym.spaces.Space[Any]) -> NDArray[np.float32] | None:
        """The action table of a discrete space; None for a continuous one."""
        dim = self.world_model.config.action_dim
        if isinstance(space, gym.spaces.Discrete):
            table = np.asarray([] if self.action_table is None else self.action_table, np.float32)
            if table.shape != (space.n, dim) or not (np.abs(table) <= 1).all():
                raise ConfigError(
                    f"action_table: expected float [{space.n}, {dim}] in [-1, 1], the world model's action for each of "
                    f"the environment's {space.n} discrete actions, got {self.action_table}"
                )
            return table
        if not isinstance(space, gym.spaces.Box) or space.shape != (dim,):
            raise ConfigError(f"expected an environment with the world model's {dim} continuous actions, got {space}")
        if self.action_table is not None:
            raise ConfigError(f"action_table: expected None for continuous actions {space}: leave it out")
        return None


class _ExploringPolicy:
    """An algorithm's policy for :func:`imagine_rollouts`, exploring as in the real environment.

    Args:
        algorithm: chooses actions.
        buffer: stacks frames to observations.
        table: the world model's actions for discrete ones.
        rollouts: number of rollouts, B.
    """

    def __init__(
        self,
        algorithm: OffPolicyAlgorithm,
        buffer: MixedReplayBuffer,
        table: NDArray[np.float32] | None,
        rollouts: int,
    ) -> None:
        self._algorithm, self._buffer, self._table = algorithm, buffer, table
        self._noise = _fresh_noise(algorithm, rollouts)
        self._stored: list[NDArray[Any]] = []

    def __call__(self, history: Tensor) -> NDArray[np.float32]:
        """Actions float32 ``[N, A]`` of the N rollouts that have not ended, for frames uint8 ``[N, S, H, W, 3]``."""
        chosen, _ = self._algorithm.predict(self._buffer.stacked(history.numpy(force=True)), deterministic=False)
        self._stored.append(chosen[:, None] if self._table is not None else self._explore(chosen))
        return _model_actions(self._stored[-1], self._table)

    def stored_actions(self, rollouts: Rollouts) -> NDArray[Any]:
        """All actions as SB3 stores them: ``[B, T, A]``, of which the first ``lengths[b]`` of a row are valid."""
        first, lengths = self._stored[0], rollouts.lengths
        actions = np.zeros((*rollouts.rewards.shape, *first.shape[1:]), first.dtype)
        for step, stored in enumerate(self._stored):
            # The rollouts that had not ended, in their order. One that got too uncertain at this step was still asked.
            asked = (lengths > step) | ((lengths == step) & ~rollouts.terminated)
            actions[asked, step] = stored
        return actions

    def _explore(self, chosen: NDArray[Any]) -> NDArray[np.float32]:
        """Continuous actions in [-1, 1], with the algorithm's action noise."""
        scaled = self._algorithm.policy.scale_action(chosen)
        if self._noise is not None:
            scaled = np.clip(scaled + self._noise()[: len(scaled)], -1, 1)
        return scaled.astype(np.float32)


def _fresh_noise(algorithm: OffPolicyAlgorithm, rollouts: int) -> VectorizedActionNoise | None:
    """The algorithm's action noise, reset, one for each rollout."""
    noise = algorithm.action_noise
    if isinstance(noise, VectorizedActionNoise):
        noise = noise.base_noise
    if noise is None:
        return None
    fresh = VectorizedActionNoise(noise, rollouts)
    fresh.reset()
    return fresh


def _model_actions(stored: NDArray[Any], table: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The world model's actions, float32 ``[..., A]``, for stored ones: ``[..., A]``, or indices ``[..., 1]``."""
    return stored.astype(np.float32) if table is None else table[stored[..., 0]]


def _summary(rollouts: Rollouts) -> dict[str, float]:
    """Means over the steps of a batch of rollouts, and their mean length."""
    valid = np.arange(rollouts.rewards.shape[1]) < rollouts.lengths[:, None]
    summary = {"length": float(rollouts.lengths.mean())}
    if valid.any():
        summary["reward"] = float(rollouts.rewards[valid].mean())
        summary["uncertainty"] = float(rollouts.uncertainty[valid].mean())
    return summary
