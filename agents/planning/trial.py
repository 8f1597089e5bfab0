"""One episode under a behaviour, with what its plans promised, as figures and as pictures."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.agents.planning.agent import PlanningAgent
from worldgym.reports.video import below, beside, enlarge

SCALE = 3  # of pictures
SHOWN_PLANS, GAP = 4, 2
Frames = NDArray[np.uint8]


class MadePlan(NamedTuple):
    """A plan and when it was made."""

    step: int
    frames: Frames
    """Imagined, uint8 ``[T, H, W, 3]``."""
    costs: tuple[float, ...]
    """The least cost of every iteration of the search."""


@dataclass(frozen=True)
class Trial:
    """One episode.

    Attributes:
        seed: of the environment's reset.
        frames: uint8 ``[steps + 1, H, W, 3]``.
        rewards: of every step.
        succeeded: whether every step counts as a success.
        plans: in their order; empty for behaviours that do not plan.
        seconds: that choosing actions took.
    """

    seed: int
    frames: Frames
    rewards: list[float]
    succeeded: list[bool]
    plans: list[MadePlan]
    seconds: float

    def figures(self) -> dict[str, Any]:
        """For a JSON file."""
        first = self.succeeded.index(True) + 1 if any(self.succeeded) else None
        figures: dict[str, Any] = {
            "seed": self.seed,
            "success": first is not None,
            "first_success": first,
            "return": sum(self.rewards),
            "steps": len(self.rewards),
        }
        if self.plans:
            plans = [{"step": plan.step, "costs": list(plan.costs)} for plan in self.plans]
            figures |= {"seconds_a_plan": self.seconds / len(plans), "plans": plans}
        return figures

    def clip(self) -> Frames:
        """Execution, what the newest plan imagined for the same step, and where that plan ends, side by side."""
        imagined, ends = [self.frames[0]], [self.frames[0]]
        plans = [*self.plans, MadePlan(len(self.rewards), self.frames[:0], ())]
        for plan, following in itertools.pairwise(plans):
            count = following.step - plan.step
            imagined += list(plan.frames[:count])
            ends += [plan.frames[-1]] * count
        if not self.plans:
            return enlarge(self.frames, SCALE)
        return beside(*(enlarge(np.stack(list(part)), SCALE) for part in (self.frames, imagined, ends)))

    def strip(self) -> Frames:
        """A few plans' imagined frames, each above what happened; white after the episode's end. uint8 picture."""
        chosen = np.unique(np.linspace(0, len(self.plans) - 1, SHOWN_PLANS).astype(int))
        rows = []
        for plan in (self.plans[index] for index in chosen):
            real = np.full_like(plan.frames, 255)
            happened = self.frames[plan.step + 1 : plan.step + 1 + len(real)]
            real[: len(happened)] = happened
            rows += [beside(*(frame[None] for frame in part)) for part in (plan.frames, real)]
        picture: Frames = below(*rows)[0]
        return picture


def run_trial(
    env: gym.Env[Any, Any],
    make_policy: Callable[[Any, int], Callable[[], Any]],
    seed: int,
    agent: PlanningAgent | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> Trial:
    """Run one episode to its end.

    Args:
        env: ends its episodes itself; ``env.unwrapped.frame`` is the current frame.
        make_policy: makes the policy from the environment, which was just reset, and the seed.
        seed: of the reset.
        agent: the one that plans, if the policy is its; its plans are kept.
        tick: called after every step.
    """
    env.reset(seed=seed)
    inner: Any = env.unwrapped
    act = make_policy(inner, seed)
    frames, rewards, succeeded, plans = [inner.frame], list[float](), list[bool](), list[MadePlan]()
    seconds, done = 0.0, False
    while not done:
        before = time.perf_counter()
        action = act()
        seconds += time.perf_counter() - before
        if agent is not None and agent.episode.plan is not None and agent.episode.used == 1:
            imagined = agent.imagined().frames[0].cpu().numpy()
            plans.append(MadePlan(len(rewards), imagined, agent.episode.plan.costs))
        frame, reward, terminated, truncated, info = env.step(action)
        frames.append(frame)
        rewards.append(float(reward))
        succeeded.append(bool(info.get("success", False)))
        done = terminated or truncated
        tick()
    return Trial(seed, np.stack(frames), rewards, succeeded, plans, seconds)
