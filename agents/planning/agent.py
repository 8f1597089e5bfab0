"""An agent that plans: at every step, or every few steps, it searches for the best actions in a model.

Shapes: B environments, S stacked frames, H x W pixels, T steps of a plan, A action dimension, M given candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.planning.cost import Cost
from worldgym.agents.planning.futures import ALL_FRAMES, Futures
from worldgym.agents.planning.model import LearnedModel, PlanningModel, evaluate
from worldgym.agents.planning.planner import Plan, Planner
from worldgym.agents.planning.proposal import Proposal
from worldgym.errors import ConfigError, InvalidFrames
from worldgym.world_model import WorldModel

Frame = NDArray[np.uint8]
Action = NDArray[np.float32]


class Spec(NamedTuple):
    """What :func:`worldgym.agents.common.evaluation.evaluate` asks of an agent."""

    frame_stack: int


@dataclass
class Episode:
    """What the agent remembers of one episode.

    Attributes:
        seed: of the episode's random numbers.
        frames: the newest real frames, each uint8 ``[H, W, 3]``.
        actions: that led to the last of them, each float32 ``[A]``.
        plan: the newest plan, None before the first.
        steps: actions chosen so far.
        used: actions of the plan that were chosen.
    """

    seed: int = 0
    frames: list[Frame] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    plan: Plan | None = None
    steps: int = 0
    used: int = 0


class PlanningAgent:
    """Acts by planning. It learns nothing.

    Args:
        model: a world model, or anything that plans can be made in, such as
            :class:`worldgym.agents.planning.oracle.SimulatorModel`.
        planner: searches.
        cost: of imagined futures.
        proposal: a policy whose plans the search begins with.
        replan_every: how many actions of a plan are carried out before the next one (action chunks).
        seed: equal seeds choose equal actions for equal observations.

    Attributes:
        episode: the episode that :meth:`act` is in; its plan is the newest one.

    Raises:
        ConfigError: for ``replan_every`` outside the horizon, and for a model that plans cannot be made in.
        OutOfMemory: if not even one candidate fits the model's budget.
    """

    def __init__(
        self,
        model: WorldModel | PlanningModel,
        planner: Planner,
        cost: Cost,
        proposal: Proposal | None = None,
        replan_every: int = 1,
        seed: int = 0,
    ) -> None:
        if not 1 <= replan_every <= planner.horizon:
            raise ConfigError(f"replan_every: expected 1 to the horizon of {planner.horizon} steps, got {replan_every}")
        self.model: PlanningModel = LearnedModel(model) if isinstance(model, WorldModel) else model
        self.model.check_horizon(planner.horizon)
        self.planner, self.cost, self.proposal = planner, cost, proposal
        self.replan_every, self.seed = replan_every, seed
        stack = 1 if proposal is None else proposal.frame_stack
        self._stack = max(2, stack, min(cost.frames, 16) if cost.frames < ALL_FRAMES else 1)
        self._memory = max(self.model.context_length, self._stack)
        self.episode = Episode()
        self._last_stack: Frame | None = None

    @property
    def spec(self) -> Spec:
        """The number of frames in the stacks that :meth:`act` is given by an evaluation."""
        return Spec(self._stack)

    def reset(self, seed: int = 0) -> None:
        """Forget the episode; ``seed`` is part of the random numbers of the next one."""
        self.episode, self._last_stack = Episode(seed), None

    def act(self, frames: Frame, explore: bool = False) -> Action:
        """The next action.

        Args:
            frames: the observation, uint8 ``[H, W, 3]``; call :meth:`reset` at the start of an episode. Or a stack of
                the newest, ``[S, H, W, 3]``: one that does not continue the last stack starts an episode.
            explore: changes nothing; other agents have it.

        Returns:
            float32 ``[A]`` in [-1, 1].

        Raises:
            InvalidFrames: for observations of another shape or dtype.
            ConfigError: if the cost returns anything but finite numbers.
        """
        observed = np.asarray(frames)
        if observed.dtype != np.uint8 or observed.ndim not in (3, 4) or observed.shape[-1] != 3:
            raise InvalidFrames(
                f"expected an observation uint8 [height, width, 3] or a stack of them, got {observed.dtype} "
                f"{list(observed.shape)}"
            )
        if observed.ndim == 3:
            return self._act(self.episode, observed)
        if self._last_stack is None or not np.array_equal(self._last_stack[1:], observed[:-1]):
            self.episode = Episode(self.episode.seed)
            self.episode.frames = list(observed[:-1].copy())  # the actions that led to them are unknown
        self._last_stack = observed.copy()
        return self._act(self.episode, observed[-1])

    def predict(
        self,
        observation: Any,
        state: Sequence[Episode] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Action, tuple[Episode, ...]]:
        """As the method of stable-baselines3's algorithms, for its ``evaluate_policy``.

        Args:
            observation: uint8 ``[B, H, W, 3]``, also with the channels first, as its image wrappers leave them.
            state: what the last call returned.
            episode_start: bool ``[B]``, which environments have begun an episode.
            deterministic: changes nothing.

        Returns:
            Actions float32 ``[B, A]``, and the state for the next call.
        """
        frames = np.asarray(observation)
        if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
            frames = np.moveaxis(frames, 1, -1)
        begun = np.zeros(len(frames), bool) if episode_start is None else np.asarray(episode_start)
        episodes = [Episode(row) for row in range(len(frames))] if state is None else list(state)
        for row in np.flatnonzero(begun):
            episodes[row] = Episode(int(row))
        actions = [self._act(episode, np.array(frame)) for episode, frame in zip(episodes, frames, strict=True)]
        return np.stack(actions), tuple(episodes)

    def behaviour(self, env: Any, rng: np.random.Generator) -> Callable[[], Action]:
        """A :data:`worldgym.envs.behaviours.Behaviour`, by which episodes are collected."""
        self.reset(int(rng.integers(2**31)))
        return lambda: self.act(env.frame)

    def imagined(self) -> Futures:
        """What the newest plan leads to in the model, with all frames: one row.

        It continues from the frames that the plan was made from.
        """
        assert self.episode.plan is not None, "act() comes first"
        generator = self._generator(self.episode, 1)
        (futures,) = self.model.futures(self.episode.plan.actions[None], ALL_FRAMES, generator)
        return futures

    def _act(self, episode: Episode, frame: Frame) -> Action:
        episode.frames = [*episode.frames, frame][-self._memory :]
        episode.actions = episode.actions[max(0, len(episode.actions) - len(episode.frames) + 1) :]
        if episode.plan is None or episode.used >= self.replan_every:
            episode.plan = self._search(episode)
            episode.used = 0
        action: Action = episode.plan.actions[episode.used].numpy().copy()
        episode.used += 1
        episode.steps += 1
        episode.actions.append(action)
        return action

    def _search(self, episode: Episode) -> Plan:
        """A plan from the newest frames, begun with what is left of the last plan and with proposals."""
        generator = self._generator(episode, 0)
        actions = np.array(episode.actions, np.float32).reshape(-1, self.model.action_dim)
        self.model.observe(np.stack(episode.frames), actions)
        mean, given = self._warm_start(episode)
        if self.proposal is not None:
            proposals = self.proposal.propose(self.model, self.planner.horizon, generator)
            given = torch.cat([mean[None], given, proposals]) if self.proposal.centre else torch.cat([given, proposals])
            mean = proposals[0] if self.proposal.centre else mean
        return self.planner.plan(
            lambda actions: evaluate(self.model, self.cost, actions, generator), mean, given, generator
        )

    def _warm_start(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Where the search begins, ``[T, A]``, and candidates ``[M, T, A]``: the last plan and its elites, shifted."""
        if episode.plan is None:
            mean = torch.zeros(self.planner.horizon, self.model.action_dim)
            return mean, mean[None][:0]
        kept = episode.plan.elites[: max(1, len(episode.plan.elites) // 4)]
        return _shifted(episode.plan.actions, episode.used), _shifted(kept, episode.used)

    def _generator(self, episode: Episode, purpose: int) -> torch.Generator:
        key = np.random.SeedSequence([self.seed, episode.seed, episode.steps, purpose])
        return torch.Generator("cpu").manual_seed(int(key.generate_state(1, np.uint64)[0]))


def _shifted(actions: Tensor, steps: int) -> Tensor:
    """Sequences ``[..., T, A]`` without their first steps; the last action is repeated."""
    last = actions[..., -1:, :].expand(*actions.shape[:-2], steps, -1)
    return torch.cat([actions[..., steps:, :], last], dim=-2)
