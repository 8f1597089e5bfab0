"""Model-based policy optimisation (paper, Algorithm 1): collect -> fit -> imagine -> update.

The agent acts in the real environment; a world model learns from what it meets; rollouts imagined in that model, from
real frames on, fill half of every batch the agent learns from. Without a world model the same loop is model-free.

Everything drawn at random here is a function of the seed, the step and what it is drawn for, and the episodes' seeds
are functions of their number. So a learner goes on exactly from :meth:`MBPO.state` and its replays, also in the middle
of an episode: the environment is reset with the episode's seed and led through the actions taken so far.
"""

import copy
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.common.replay import MixedReplay, ReplayBuffer
from worldgym.agents.common.rewards import RewardReader
from worldgym.agents.common.rollouts import check_imaginable, imagine_rollouts
from worldgym.agents.common.schedules import Linear
from worldgym.data.episode import Episode
from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError, TrainingError
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.training.online import OnlineConfig, OnlineTrainer
from worldgym.precision import check_precision, wants_bfloat16
from worldgym.runs.log import Metrics
from worldgym.world_model import WorldModel

Env = gym.Env[NDArray[np.uint8], NDArray[np.float32]]
REWARD_FRAMES = 1500
READER_BATCH = 64
READER_START = 400  # steps' worth of updates for a reader where the world model needs none before the first rollouts
PHASES = ("collect", "fit", "imagine", "update")


@dataclass(frozen=True)
class MBPOConfig:
    """Settings of the loop. The defaults are Table 5 of the paper, counted in steps of the real environment.

    Attributes:
        steps: real steps, demonstrations not counted.
        seed: of everything drawn here; the agent has one of its own.
        seed_steps: real steps of uniformly random actions, before anything learns.
        updates_per_step: of the agent.
        update_every: real steps between them.
        initial_model_updates: of the tokenizer, then as many of the transformer, right behind the ``seed_steps``.
        tokenizer_every: real steps between two updates of the tokenizer from then on.
        transformer_every: the same for the transformer.
        rewards_every: real steps until the reward head is solved for anew, by ridge regression on the replay, for the
            first time before the first rollouts; None leaves it to the transformer's updates, in which it follows an
            agent to new places slowly.
        reader_updates: a real step, and a unit of the model's preparation, of a network that reads the rewards of
            rollouts off their frames (:class:`RewardReader`) in place of the world model's own head; 0 is the paper's
            way, the head.
        model_batch_size: segments in such an update.
        segment_length: frames of a segment.
        initial_rollouts: imagined behind the ``initial_model_updates``, in batches of ``rollouts``.
        initial_updates: of the agent behind these, before it takes a step of its own: what demonstrations, random steps
            and a model that is trained already have to tell takes more updates than a few real steps bring. Batches of
            rollouts come as often between them as in the loop. The agent by itself makes them, too.
        rollout_every: real steps between two batches of rollouts from then on.
        rollouts: in one batch.
        horizon: imagined steps of a rollout, at most.
        uncertainty: nats; a rollout ends before the first frame that the model is less sure of. None trusts all.
        keep_rollouts: batches of rollouts until one is forgotten: its model is then too old.
        real_ratio: share of real steps in an agent's batch, by the real step.
        capacity_bytes: of each replay; beyond it the oldest steps are forgotten.
        precision: to imagine in: "float32", "bfloat16", or "auto", which is bfloat16 where the hardware has it.
        model: how the world model learns.
        log_every: real steps between two lines of figures.
        evaluate_every: real steps between two evaluations.
        evaluation_episodes: in each.
        save_every: real steps between two checkpoints.
    """

    steps: int = 100_000
    seed: int = 0
    seed_steps: int = 4000
    updates_per_step: int = 2
    update_every: int = 1
    initial_model_updates: int = 1000
    tokenizer_every: int = 40
    transformer_every: int = 10
    rewards_every: int | None = None
    reader_updates: int = 0
    model_batch_size: int = 16
    segment_length: int = 12
    initial_rollouts: int = 640
    initial_updates: int = 0
    rollout_every: int = 200
    rollouts: int = 32
    horizon: int = 10
    uncertainty: float | None = None
    keep_rollouts: int = 100
    real_ratio: Linear = field(default_factory=lambda: Linear(0.5, 0.5, 1))
    capacity_bytes: int = 4 * 2**30
    precision: str = "auto"
    model: OnlineConfig = field(default_factory=OnlineConfig)
    log_every: int = 200
    evaluate_every: int = 2000
    evaluation_episodes: int = 10
    save_every: int = 2000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            free = name in ("seed", "seed_steps", "reader_updates") or name.startswith("initial_")  # may be 0
            if isinstance(value, (int, float)) and not (value >= 0 if free else value > 0):
                raise ConfigError(f"{name} must be {'at least' if free else 'above'} 0, got {value!r}")
        check_precision(self.precision)
        if not all(0 <= share <= 1 for share in (self.real_ratio.start, self.real_ratio.end)):
            raise ConfigError(f"real_ratio must lie in [0, 1], got {self.real_ratio}")

    @property
    def model_preparation(self) -> int:
        """Units of work between the ``seed_steps`` and the first agent's update: model updates, then rollouts."""
        return 2 * self.initial_model_updates + math.ceil(self.initial_rollouts / self.rollouts)

    @property
    def updates_per_rollouts(self) -> int:
        """The agent's updates between two batches of rollouts."""
        return max(1, self.rollout_every * self.updates_per_step // self.update_every)


class Purpose(IntEnum):
    """What something is drawn for: each has a random stream of its own at every step."""

    RESET, COLLECT, TOKENIZER, TRANSFORMER, IMAGINE, UPDATE, REWARDS, FORESIGHT, READER = range(9)


class MBPO:
    """An agent that learns in a real environment and, where there is a world model, in imagination.

    Args:
        real_env: observations uint8 ``[H, W, 3]``, actions float32 ``[A]`` in [-1, 1]; deterministic given its seed,
            and ending its episodes itself.
        world_model: goes on learning, in place; None is the agent by itself.
        agent: learns, in place.
        config: settings of the loop.
        demonstrations: put into the replay before the first step.

    Raises:
        ConfigError: where environment, world model, agent or demonstrations do not fit each other.
    """

    def __init__(
        self,
        real_env: Env,
        world_model: WorldModel | None,
        agent: DrQv2,
        config: MBPOConfig = MBPOConfig(),
        demonstrations: Iterable[Episode] = (),
    ) -> None:
        check_spaces(real_env, agent, world_model)
        self.env = FrameStackObservation(real_env, agent.about.frame_stack)
        self.world_model, self.agent, self.config = world_model, agent, config
        demonstrations = list(demonstrations)
        if not config.seed_steps and not demonstrations:
            raise ConfigError("without demonstrations there is nothing to learn from at step 0: set seed_steps above 0")
        self.replay = self._replay(config.steps + sum(len(episode) for episode in demonstrations))
        for episode in demonstrations:
            self.replay.add_demonstration(episode)
        frames = config.horizon + agent.about.frame_stack  # of a rollout, its start included
        self.imagined = self._replay(config.keep_rollouts * config.rollouts * frames)
        self.trainer = None if world_model is None else OnlineTrainer(world_model, config.model, config.seed)
        reading = world_model is not None and config.reader_updates > 0
        self.reader = RewardReader(agent.about.frame_shape, config.seed) if reading else None
        self._fresh = self.trainer is not None and self.trainer.untrained
        self._check_segments([len(episode) for episode in demonstrations])
        self.step = self.prepared = self.episode = self.refreshes = 0
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._stack: NDArray[np.uint8] | None = None  # what the agent sees; None between episodes
        self._actions: list[NDArray[np.float32]] = []  # taken in this episode
        self._score, self._success = 0.0, False

    def _check_segments(self, demonstrated: list[int]) -> None:
        """Raise ConfigError where the world model would find nothing to learn from when its time comes.

        demonstrated: steps of each demonstration.
        """
        if self.trainer is None:
            return
        length, lengths = self.config.segment_length, self.trainer.segment_lengths
        if length not in lengths:
            raise ConfigError(
                f"the world model learns from segments of {lengths[0]} to {lengths[-1]} frames, got {length}"
            )
        limit = self.env.spec.max_episode_steps if self.env.spec else None
        steps = max([min(self.config.seed_steps, limit or self.config.seed_steps), *demonstrated])
        if steps + 1 < length:
            raise ConfigError(
                f"segments of {length} frames are longer than what there will be to learn from behind the seed_steps, "
                f"{steps + 1} frames: raise seed_steps, give longer demonstrations or lower segment_length"
            )

    def _replay(self, capacity: int) -> ReplayBuffer:
        config, agent = self.config, self.agent
        return ReplayBuffer(
            agent.about.frame_shape,
            agent.about.action_dim,
            capacity,
            capacity_bytes=config.capacity_bytes,
            frame_stack=agent.about.frame_stack,
            n_step=agent.config.n_step,
            discount=agent.config.discount,
        )

    @property
    def preparing(self) -> bool:
        """Whether model and agent are to learn from what there is before the loop goes on."""
        return self.step == self.config.seed_steps and self.prepared < self.preparation

    @property
    def preparation(self) -> int:
        """Units of it: those of the model, where there is one, and the agent's."""
        practice = math.ceil(self.config.initial_updates / self.config.updates_per_rollouts)
        return practice + (0 if self.trainer is None else self.config.model_preparation)

    def prepare(self) -> Metrics:
        """One unit of the preparation: an update of the model, a batch of rollouts or, in the end, that and updates.

        The tokenizer comes first, because the transformer's codes are its own; a fresh reward head is solved for last.
        """
        self.prepared += 1
        updates = self.config.initial_model_updates
        if self.trainer is None:
            return self._practise()
        if self.reader is not None and self.prepared <= 2 * updates:
            self._timed("fit", self._fit_reader)
        if self.prepared <= updates:
            return self._timed("fit", self._fit_tokenizer)
        if self.prepared <= 2 * updates:
            metrics = self._timed("fit", self._fit_transformer)
            if self.prepared == 2 * updates and self._fresh:
                self._timed("fit", self._refit_rewards)
            return metrics
        metrics = self._timed("imagine", self._imagine) if self._wanted else {}
        return metrics | (self._practise() if self.prepared > self.config.model_preparation else {})

    def _practise(self) -> Metrics:
        """The agent's updates between two batches of rollouts; the last of the ``initial_updates`` may be fewer."""
        left = self.preparation - self.prepared
        each, count = self.config.updates_per_rollouts, self.config.initial_updates
        return self._timed("update", lambda: self._update(each if left else count - count // each * each or each))

    def advance(self) -> Metrics:
        """One real step and all that follows from it."""
        return self.collect() | self.learn()

    def collect(self) -> Metrics:
        """One step of the real environment; a step that fails is not counted, and nothing of it is kept.

        Raises whatever the environment does, and the replay's errors for rewards and frames that are not valid.
        """
        return self._timed("collect", self._collect)

    def learn(self) -> Metrics:
        """What follows from a real step; nothing is learned before the ``seed_steps`` are taken.

        Behind an episode's last step the world model is measured by it: what it would have foreseen of frames and
        rewards, ``horizon`` steps ahead, under the actions taken. Only what came of the episode's first steps can it
        have learned from before.
        """
        metrics: Metrics = {}
        if self._stack is None and self.trainer is not None and not self.trainer.untrained:
            metrics = self._timed("imagine", self._foresight)
        if self.step <= self.config.seed_steps:
            return metrics
        return metrics | self.fit() | self.imagine() | self.update()

    def fit(self) -> Metrics:
        """Let the world model learn from segments of the real replay, when it is time."""
        metrics: Metrics = {}
        if self.trainer is not None and self.step % self.config.tokenizer_every == 0:
            metrics |= self._timed("fit", self._fit_tokenizer)
        if self.trainer is not None and self.step % self.config.transformer_every == 0:
            metrics |= self._timed("fit", self._fit_transformer)
        if self.reader is not None:
            metrics |= self._timed("fit", self._fit_reader)
        every = self.config.rewards_every
        if self.trainer is not None and every is not None and self.step % every == 0:
            self._timed("fit", self._refit_rewards)
        return metrics

    def imagine(self) -> Metrics:
        """Imagine a batch of rollouts of the exploring agent from real frames on, when it is time and it is for use."""
        due = self.step % self.config.rollout_every == 0
        return self._timed("imagine", self._imagine) if due and self._wanted else {}

    @property
    def _wanted(self) -> bool:
        """Whether the world model has learned anything to imagine by, and batches hold any of it at this step."""
        trained = self.trainer is not None and not self.trainer.untrained
        return trained and self.config.real_ratio(self.step) < 1

    def update(self) -> Metrics:
        """Let the agent learn from batches of real and imagined steps; figures of the last one."""
        due = self.step % self.config.update_every == 0
        return self._timed("update", lambda: self._update(self.config.updates_per_step)) if due else {}

    def _timed(self, phase: str, work: Any) -> Metrics:
        start = time.perf_counter()
        metrics: Metrics = work()
        self.seconds[phase] += time.perf_counter() - start
        return metrics

    def _collect(self) -> Metrics:
        stack = self._begin_episode() if self._stack is None else self._stack
        action = self._action(stack)
        stack, reward, terminated, truncated, info = self.env.step(action)
        self.replay.add(action, float(reward), stack[-1], terminated, truncated)
        self.step += 1
        self.agent.step = self.step
        self._note(action, float(reward), info)
        self._stack = None if terminated or truncated else stack
        if self._stack is not None:
            return {}
        self.episode += 1
        return {
            "episode/return": self._score,
            "episode/success": float(self._success),
            "episode/length": float(len(self._actions)),
        }

    def _begin_episode(self) -> NDArray[np.uint8]:
        stack = self._reset()
        self.replay.start(stack[-1])
        self._stack = stack
        return stack

    def _reset(self) -> NDArray[np.uint8]:
        """Reset the environment with the seed of the episode by its number."""
        self._actions, self._score, self._success = [], 0.0, False
        rng = np.random.default_rng([self.config.seed, self.episode, Purpose.RESET])
        stack: NDArray[np.uint8] = self.env.reset(seed=int(rng.integers(2**31)))[0]
        return stack

    def _note(self, action: NDArray[np.float32], reward: float, info: Mapping[str, Any]) -> None:
        self._actions.append(action)
        self._score += reward
        self._success = self._success or bool(info.get("success", False))

    def _action(self, stack: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.step < self.config.seed_steps:
            return self._rng(Purpose.COLLECT).uniform(-1, 1, self.agent.about.action_dim).astype(np.float32)
        return self.agent.act(stack, explore=True, generator=self._generator(Purpose.COLLECT))

    def _fit_tokenizer(self) -> Metrics:
        assert self.trainer is not None
        return _named("tokenizer", self.trainer.fit_tokenizer(self._segments(Purpose.TOKENIZER)))

    def _fit_transformer(self) -> Metrics:
        assert self.trainer is not None
        return _named("transformer", self.trainer.fit_transformer(self._segments(Purpose.TRANSFORMER)))

    def _fit_reader(self, drawn: int = 0) -> Metrics:
        """``drawn``: batches that were drawn for it at this step before."""
        assert self.reader is not None
        error = 0.0
        for index in range(self.config.reader_updates):
            batch = self.replay.segments(self._rng(Purpose.READER, drawn + index), READER_BATCH, 2)
            error = self.reader.fit(batch.frames[:, 1], batch.rewards[:, 0])
        return {"reader/error": error}

    def _refit_rewards(self) -> Metrics:
        """On several times as many frames as the transformer is wide."""
        assert self.trainer is not None
        count = math.ceil(REWARD_FRAMES / (self.config.model_batch_size * self.config.segment_length))
        self.trainer.refit_rewards(self._segments(Purpose.REWARDS, index) for index in range(count))
        return {}

    def _ready_rewards(self) -> None:
        """The first rollouts are not to be the worst judged, also where a model that is trained already makes them."""
        if self.config.rewards_every is not None and not self._fresh:
            self._refit_rewards()
        if self.reader is not None and not self.config.initial_model_updates:
            for index in range(READER_START):
                self._fit_reader(index * self.config.reader_updates)

    def _segments(self, purpose: Purpose, index: int = 0) -> Batch:
        config = self.config
        return self.replay.segments(self._rng(purpose, index), config.model_batch_size, config.segment_length)

    def _imagine(self) -> Metrics:
        assert self.world_model is not None
        config = self.config
        if not self.refreshes:
            self._ready_rewards()
        stacks = torch.as_tensor(self.replay.starts(self._rng(Purpose.IMAGINE), config.rollouts))
        generator = self._generator(Purpose.IMAGINE)
        made = imagine_rollouts(
            self._imagining(),
            lambda seen: self.agent.act(seen, explore=True, generator=generator),
            stacks,
            config.horizon,
            generator,
            config.uncertainty,
            self.replay.reward_range(),  # a head that has met no more may promise more, and an agent finds out where
            None if self.reader is None else self.reader.read,
        )
        self.refreshes += 1
        made.store(self.imagined, made_at=self.refreshes)
        self.imagined.evict_before(self.refreshes - config.keep_rollouts + 1)
        steps = max(1, int(made.lengths.sum()))  # what was not imagined is 0
        return {
            "imagination/length": float(made.lengths.mean()),
            "imagination/reward": float(made.rewards.sum()) / steps,
            "imagination/uncertainty": float(made.uncertainty.sum()) / steps,
        }

    def _foresight(self) -> Metrics:
        model = self._imagining()
        context, sampling = model.layout.context_length, model.config.sampling
        real = self.replay.newest(context + self.config.horizon)
        if not len(real.frames):
            return {}
        frames, rewards = real.frames[:, context:], real.rewards[:, context - 1 :]
        given = real.frames[:, :context], real.actions[:, context - 1 :]
        foreseen = model.rollout(*given, sampling.temperature, sampling.top_k, self._generator(Purpose.FORESIGHT))
        promised = foreseen.rewards.cpu() if self.reader is None else self.reader.read(foreseen.frames.cpu())
        errors = promised - rewards
        return {
            "foresight/psnr": psnr(float(squared_error(foreseen.frames.cpu() / 255, frames / 255).mean())),
            "foresight/reward": float(promised.mean()),
            "foresight/real_reward": float(rewards.mean()),
            "foresight/reward_error": float(errors.square().mean().sqrt()),
        }

    def _imagining(self) -> WorldModel:
        """The world model as it is now, in the precision to imagine in."""
        assert self.world_model is not None
        model = self.world_model
        if not wants_bfloat16(self.config.precision, model.device):
            return model
        parts = copy.deepcopy((model.tokenizer, model.transformer))
        return WorldModel(model.config, *parts).to(dtype=torch.bfloat16)

    def _update(self, count: int) -> Metrics:
        metrics: Metrics = {}
        mixed, ratio = MixedReplay(self.replay, self.imagined), self.config.real_ratio(self.step)
        for index in range(count):
            rng = self._rng(Purpose.UPDATE, index)
            metrics = self.agent.update(mixed.sample(rng, self.agent.config.batch_size, ratio))
        return _named("agent", metrics)

    def _rng(self, purpose: Purpose, index: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, self.step, self.prepared, purpose, index])

    def _generator(self, purpose: Purpose) -> torch.Generator:
        return torch.Generator().manual_seed(int(self._rng(purpose, index=1).integers(2**63)))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All but the replays: tensors, and notes in plain JSON types."""
        tensors = {f"agent.{name}": value for name, value in self.agent.state_dict().items()}
        if self.trainer is not None:
            tensors |= {f"world_model.{name}": value for name, value in self.trainer.state().items()}
        if self.reader is not None:
            tensors |= {f"reader.{name}": value for name, value in self.reader.state().items()}
        if self._stack is not None:
            tensors["episode.stack"] = torch.from_numpy(self._stack)
            taken = np.array(self._actions, np.float32).reshape(-1, self.agent.about.action_dim)
            tensors["episode.actions"] = torch.from_numpy(taken)
        counters = {name: getattr(self, name) for name in ("step", "prepared", "episode", "refreshes")}
        return tensors, {**counters, "seconds": self.seconds}

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`; an episode under way is gone through again.

        Raises:
            TrainingError: if the environment does not repeat it.
        """
        parts: dict[str, dict[str, Tensor]] = {"agent": {}, "world_model": {}, "reader": {}, "episode": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = value
        self.agent.load_state_dict(parts["agent"])
        if self.trainer is not None:
            self.trainer.load_state(parts["world_model"])
        if self.reader is not None:
            self.reader.load_state(parts["reader"])
        for name in ("step", "prepared", "episode", "refreshes"):
            setattr(self, name, int(notes[name]))
        self.agent.step = self.step
        self.seconds = dict(notes["seconds"])
        self._stack = None
        if parts["episode"]:
            self._repeat_episode(parts["episode"]["actions"].numpy(), parts["episode"]["stack"].numpy())

    def _repeat_episode(self, actions: NDArray[np.float32], expected: NDArray[np.uint8]) -> None:
        stack = self._reset()
        for action in actions:
            stack, reward, _, _, info = self.env.step(action)
            self._note(action, float(reward), info)
        if not np.array_equal(stack, expected):
            raise TrainingError(
                f"the environment did not repeat episode {self.episode} as far as step {len(actions)}: the same seed "
                "and actions led to another frame, so the run cannot be resumed. Has the simulator changed since?"
            )
        self._stack = stack


def check_spaces(env: Env, agent: DrQv2, world_model: WorldModel | None = None) -> None:
    """Raise :class:`ConfigError` unless agent and world model take the environment's frames and actions."""
    frames, actions = env.observation_space, env.action_space
    if not isinstance(frames, gym.spaces.Box) or frames.dtype != np.uint8 or len(frames.shape) != 3:
        raise ConfigError(f"expected an environment of frames uint8 [height, width, 3], got {frames}")
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise ConfigError(f"expected an environment of continuous actions [action_dim], got {actions}")
    if (tuple(agent.about.frame_shape), agent.about.action_dim) != (frames.shape, actions.shape[0]):
        raise ConfigError(
            f"the agent takes frames {tuple(agent.about.frame_shape)} and {agent.about.action_dim} actions, the "
            f"environment gives frames {frames.shape} and takes {actions.shape[0]} actions"
        )
    if world_model is None:
        return
    config = world_model.config
    check_imaginable(world_model, agent.about.frame_stack)
    if config.action_dim != actions.shape[0]:
        raise ConfigError(
            f"the world model takes {config.action_dim} actions, the environment {actions.shape[0]}: "
            "choose a checkpoint that was made for it"
        )
    if (config.resolution, config.resolution, 3) != frames.shape:
        raise ConfigError(
            f"the world model imagines {config.resolution} x {config.resolution} pixels, the environment shows "
            f"{frames.shape}: choose a checkpoint that was made for it"
        )


def _named(part: str, metrics: Mapping[str, float]) -> Metrics:
    return {f"{part}/{name}": value for name, value in metrics.items()}
