"""Model-based policy optimisation (paper, Algorithm 1): collect, fit, imagine, update.

The agent acts in the real environment. A world model is trained on what happened. Rollouts imagined in that model from
real frames fill a share of every batch that the agent is trained on. Without a world model the same loop is model-free.

Everything sampled here is a function of the seed, the step and its purpose. So a learner continues exactly from its
state and its replays, also in the middle of an episode.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.common.mixed_replay import MixedReplay
from worldgym.agents.common.random_streams import Purpose, RandomStreams
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.spaces import check_spaces
from worldgym.agents.common.transitions import Transitions
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo.collector import Collector, Env, Stack
from worldgym.agents.mbpo.config import MBPOConfig
from worldgym.agents.mbpo.world import LearnedWorld, named
from worldgym.data.episode import Episode
from worldgym.errors import ConfigError
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.world_model import WorldModel

CLONED_SHARE = 4  # batches of demonstrated steps are this much smaller
PHASES = ("collect", "fit", "imagine", "update")


class MBPO:
    """An agent that is trained in a real environment and, if there is a world model, in imagination.

    Args:
        real_env: observations uint8 ``[H, W, 3]``, actions float32 ``[A]`` in [-1, 1]; deterministic given its seed,
            and ending its episodes itself.
        world_model: trained in place; None trains the agent alone.
        agent: trained in place.
        config: settings of the loop; those of the paper unless given.
        demonstrations: put into the replay before the first step, and cloned as the settings say.

    Attributes:
        replay: real steps.
        demonstrations: those steps of it that were demonstrated; None without cloning.
        imagined: imagined steps.
        world: the world model's side; None without one.
        seconds: time spent so far, by phase.

    Raises:
        ConfigError: if environment, world model, agent or demonstrations do not fit each other.
    """

    def __init__(
        self,
        real_env: Env,
        world_model: WorldModel | None,
        agent: DrQv2,
        config: MBPOConfig | None = None,
        demonstrations: Iterable[Episode] = (),
    ) -> None:
        check_spaces(real_env, agent, world_model)
        self.agent = agent
        self.config = config = config or MBPOConfig()
        demonstrations = list(demonstrations)
        clones = config.warmup_clone_updates > 0 or agent.config.clone_weight > 0
        if clones and not demonstrations:
            raise ConfigError(
                "warmup_clone_updates, clone_weight: without demonstrations expected 0; record some with --demos"
            )
        if not config.seed_steps and not demonstrations:
            raise ConfigError(
                "seed_steps: without demonstrations expected a number above 0, got 0; record some with --demos"
            )
        self._streams = RandomStreams(config.seed)
        demonstrated = sum(map(len, demonstrations))
        self.replay = self._make_replay(config.steps + demonstrated)
        self.demonstrations = self._make_replay(demonstrated) if clones else None
        for episode in demonstrations:
            self.replay.add_demonstration(episode)
            if self.demonstrations is not None:
                self.demonstrations.add_demonstration(episode)
        frames = config.horizon + agent.spec.frame_stack  # of a rollout with its history
        self.imagined = self._make_replay(config.keep_rollouts * config.rollouts * frames)
        self.collector = Collector(real_env, self.replay, agent.spec.frame_stack, self._streams)
        self.world = None if world_model is None else LearnedWorld(world_model, config, self.replay, self._streams)
        if self.world is not None:
            limit = real_env.spec.max_episode_steps if real_env.spec else None
            seed_episode = min(config.seed_steps, limit or config.seed_steps)
            self.world.check_segments(max([seed_episode, *map(len, demonstrations)]))
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @property
    def step(self) -> int:
        """Environment steps done, without demonstrations."""
        return self._streams.step

    @property
    def warmup_done(self) -> int:
        """Warm-up units done."""
        return self._streams.warmup

    @property
    def warmup_units(self) -> int:
        """Warm-up units in all: those of cloning, of the world model, if there is one, and of the agent."""
        agent_units = self.config.warmup_clone_units + self.config.warmup_agent_units
        return agent_units + (0 if self.world is None else self.config.warmup_model_units)

    @property
    def warming_up(self) -> bool:
        """Whether a warm-up unit comes next, not an environment step."""
        return self.step == self.config.seed_steps and self.warmup_done < self.warmup_units

    def advance(self) -> Metrics:
        """One warm-up unit, or one environment step and the training that follows from it."""
        return self.warm_up() if self.warming_up else self.collect() | self.learn()

    def collect(self) -> Metrics:
        """One step of the real environment; see :meth:`Collector.step`."""
        with self._timed("collect"):
            metrics = self.collector.step(self._act)
        self._streams.step += 1
        self.agent.step = self.step
        return metrics

    def learn(self) -> Metrics:
        """The training that follows from a step; none before the ``seed_steps`` are done.

        After an episode's last step the world model is measured on the episode, before it is trained on its end.
        """
        metrics = self._evaluate_world() if self.collector.between_episodes else {}
        if self.step <= self.config.seed_steps:
            return metrics
        return metrics | self.fit() | self.imagine() | self.update()

    def fit(self) -> Metrics:
        """Train the world model on segments of the replay, if it is due."""
        if self.world is None:
            return {}
        with self._timed("fit"):
            return self.world.fit(self.step)

    def imagine(self) -> Metrics:
        """Imagine a batch of rollouts of the exploring agent, if it is due and batches will contain any of it."""
        return self._imagine() if self.step % self.config.rollout_every == 0 else {}

    def update(self) -> Metrics:
        """Train the agent on batches of real and imagined steps, if it is due; metrics of the last batch."""
        return self._update(self.config.updates_per_step) if self.step % self.config.update_every == 0 else {}

    def warm_up(self) -> Metrics:
        """One unit of the warm-up: cloning, an update of the world model, rollouts, or rollouts and agent updates."""
        self._streams.warmup += 1
        unit, model_units = self.warmup_done - self.config.warmup_clone_units, self.config.warmup_model_units
        if unit <= 0:
            return self._clone()
        if self.world is None:
            return self._warm_up_agent()
        if unit <= 2 * self.config.warmup_model_updates:
            with self._timed("fit"):
                return self.world.warm_up(unit)
        metrics = self._imagine()
        return metrics if unit <= model_units else metrics | self._warm_up_agent()

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of everything but the replays."""
        tensors = add_prefix("agent", self.agent.state_dict()) | add_prefix("episode", self.collector.state_dict())
        return tensors | ({} if self.world is None else self.world.state_dict())

    def counters(self) -> dict[str, Any]:
        """Counters and times, as plain JSON types."""
        batches = 0 if self.world is None else self.world.rollout_batches
        progress = {"step": self.step, "warmup": self.warmup_done, "episode": self.collector.episode}
        return {**progress, "rollout_batches": batches, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict` and :meth:`counters`; the current episode is repeated in the environment.

        Raises:
            CheckpointError: if the tensors do not fit.
            TrainingError: if the environment does not repeat the episode.
        """
        self.agent.load_state_dict(select_prefix("agent", state))
        self._streams.step, self._streams.warmup = int(counters["step"]), int(counters["warmup"])
        self.agent.step = self.step
        if self.world is not None:
            self.world.load_state_dict(state)
            self.world.rollout_batches = int(counters["rollout_batches"])
        self.seconds = dict(counters["seconds"])
        self.collector.episode = int(counters["episode"])
        self.collector.load_state_dict(select_prefix("episode", state))

    def _act(self, stack: Stack) -> NDArray[np.float32]:
        """A uniformly random action during the ``seed_steps``, then the exploring agent's."""
        if self.step < self.config.seed_steps:
            rng = self._streams.rng(Purpose.COLLECT)
            return rng.uniform(-1, 1, self.agent.spec.action_dim).astype(np.float32)
        return self.agent.act(stack, explore=True, generator=self._streams.generator(Purpose.COLLECT))

    def _evaluate_world(self) -> Metrics:
        if self.world is None or not self.world.trainer.trained:
            return {}
        with self._timed("imagine"):
            return self.world.evaluate()

    def _imagine(self) -> Metrics:
        """A batch of rollouts into the imagined replay, unless the model is untrained or all batches are real now."""
        if self.world is None or not self.world.trainer.trained or self.config.real_ratio(self.step) == 1:
            return {}
        with self._timed("imagine"):
            rollouts = self.world.imagine(
                lambda frames, generator: self.agent.act(frames, explore=True, generator=generator)
            )
            made_at = self.world.rollout_batches
            rollouts.store(self.imagined, made_at)
            self.imagined.evict_before(made_at - self.config.keep_rollouts + 1)
        steps = max(1, int(rollouts.lengths.sum()))  # what was not imagined is 0
        return {
            "imagination/length": float(rollouts.lengths.mean()),
            "imagination/reward": float(rollouts.rewards.sum()) / steps,
            "imagination/uncertainty": float(rollouts.uncertainty.sum()) / steps,
        }

    def _clone(self) -> Metrics:
        """The behaviour cloning of one warm-up unit; the last unit may have fewer updates."""
        metrics: Metrics = {}
        last = self.warmup_done == self.config.warmup_clone_units
        with self._timed("update"):
            for index in range(self._updates_in_unit(self.config.warmup_clone_updates, last)):
                batch = self._demonstrated(index, self.agent.config.batch_size)
                metrics = self.agent.clone(batch)
        return named("agent", metrics)

    def _demonstrated(self, index: int, size: int) -> Transitions:
        """A batch of demonstrated steps for the update ``index`` of this unit or step."""
        assert self.demonstrations is not None
        return self.demonstrations.sample(self._streams.rng(Purpose.CLONE, index), size)

    def _warm_up_agent(self) -> Metrics:
        """The agent's updates of one warm-up unit; the last unit may have fewer."""
        config, left = self.config, self.warmup_units - self.warmup_done
        total = config.warmup_critic_updates + config.warmup_agent_updates
        done = (config.warmup_agent_units - 1 - left) * config.updates_per_rollout_batch
        critics = max(0, config.warmup_critic_updates - done)
        return self._update(self._updates_in_unit(total, not left), critics)

    def _updates_in_unit(self, total: int, last: bool) -> int:
        """How many of ``total`` updates belong to one warm-up unit."""
        each = self.config.updates_per_rollout_batch
        return (total - 1) % each + 1 if last else each

    def _update(self, count: int, critics: int = 0) -> Metrics:
        """Updates of the agent, of which the first ones train the critics alone."""
        metrics: Metrics = {}
        mixed, ratio = MixedReplay(self.replay, self.imagined), self.config.real_ratio(self.step)
        cloned = self.agent.config.clone_weight > 0
        with self._timed("update"):
            for index in range(count):
                batch = mixed.sample(self._streams.rng(Purpose.UPDATE, index), self.agent.config.batch_size, ratio)
                demonstrated = self._demonstrated(index, max(1, len(batch.rewards) // CLONED_SHARE)) if cloned else None
                metrics = self.agent.update(batch, demonstrated, actor=index >= critics)
        return named("agent", metrics)

    def _timed(self, phase: str) -> "_Timer":
        return _Timer(self.seconds, phase)

    def _make_replay(self, capacity: int) -> ReplayBuffer:
        spec, config = self.agent.spec, self.agent.config
        return ReplayBuffer(
            spec.frame_shape,
            spec.action_dim,
            capacity,
            capacity_bytes=self.config.capacity_bytes,
            frame_stack=spec.frame_stack,
            n_step=config.n_step,
            discount=config.discount,
        )


class _Timer:
    """Adds the seconds of its block to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._seconds[self._phase] += time.perf_counter() - self._start
