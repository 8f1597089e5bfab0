"""Whole episodes in the learned environment and in the simulator: same start, same actions, both returns.

Environments are arguments; nothing here names a simulator.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym.data.episode import EpisodeFile
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.metrics.ranking import pearson
from worldgym.reports.tables import number, table
from worldgym.world_model import WorldModel

Actions = NDArray[np.float32]


class Episodes(NamedTuple):
    """Episodes of a simulator."""

    frames: NDArray[np.uint8]
    """Their first frames, ``[N, H, W, 3]``."""
    actions: NDArray[Any]
    """Of the simulator's action space, ``[N, T, ...]``; those behind the end of an episode repeat its last."""
    returns: NDArray[np.float64]
    """``[N]``."""
    lengths: NDArray[np.int64]
    """Their steps, ``[N]``."""


class Comparison(NamedTuple):
    """Returns of N episodes in both worlds, float64 ``[N]``."""

    imagined: NDArray[np.float64]
    real: NDArray[np.float64]

    def figures(self) -> dict[str, float]:
        """Mean returns, their ratio, and the correlation over episodes (NaN if one of them does not vary)."""
        return {
            "episodes": float(len(self.real)),
            "imagined": float(self.imagined.mean()),
            "real": float(self.real.mean()),
            "ratio": float(self.imagined.mean() / self.real.mean()) if self.real.mean() else float("nan"),
            "correlation": pearson(self.imagined, self.real),
        }


def play(
    simulator: gym.Env[Any, Any], seeds: Sequence[int], behaviour: Callable[[Any, int], Callable[[], Actions]]
) -> Episodes:
    """Record whole episodes of a simulator.

    Args:
        simulator: ends its episodes itself.
        seeds: of the resets.
        behaviour: makes the policy of an episode from the simulator without wrappers and the episode's seed.
    """
    frames, actions, returns = [], [], []
    for seed in tqdm(seeds, desc="simulator", unit="episode", leave=False):
        frames.append(simulator.reset(seed=int(seed))[0])
        policy, taken, total, done = behaviour(simulator.unwrapped, int(seed)), [], 0.0, False
        while not done:
            taken.append(policy())
            _, reward, terminated, truncated, _ = simulator.step(taken[-1])
            total, done = total + float(reward), terminated or truncated
        actions.append(np.stack(taken))
        returns.append(total)
    lengths = np.array([len(taken) for taken in actions])
    padded = [np.concatenate([taken, taken[-1:].repeat(lengths.max() - len(taken), axis=0)]) for taken in actions]
    return Episodes(np.stack(frames), np.stack(padded), np.array(returns), lengths)


def replay(
    learned: gym.vector.VectorEnv[Any, Any, Any],
    frames: NDArray[np.uint8],
    actions: NDArray[Any],
    lengths: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Returns, float64 ``[N]``, of recorded actions in the learned environment, always the same.

    Args:
        learned: N slots. An episode that it terminates earns nothing afterwards.
        frames: where the episodes start, uint8 ``[N, H, W, 3]``; the context before repeats it.
        actions: of the episodes, ``[N, T, ...]``.
        lengths: steps of each episode, ``[N]``; None: T.
    """
    context = learned.unwrapped.world_model.config.context_length  # type: ignore[attr-defined]
    learned.reset(seed=0, options={"frames": np.repeat(frames[:, None], context, axis=1)})
    total, going = np.zeros(len(frames)), np.ones(len(frames), np.bool_)
    for step in tqdm(range(actions.shape[1]), desc="imagined", unit="step", leave=False):
        if lengths is not None:
            going = going & (step < lengths)
        _, rewards, terminations, _, _ = learned.step(actions[:, step])
        total += np.where(going, rewards, 0)
        going = going & ~terminations
    return total


def compare_returns(
    learned: gym.vector.VectorEnv[Any, Any, Any],
    simulator: gym.Env[Any, Any],
    seeds: Sequence[int],
    behaviour: Callable[[Any, int], Callable[[], Actions]],
) -> Comparison:
    """Whole episodes from the same first frames under the same actions in both worlds.

    Args:
        learned: as many slots as seeds.
        simulator: of the same task.
        seeds: of the simulator's resets.
        behaviour: as in :func:`play`.

    Raises:
        ConfigError: if the number of slots is not the number of seeds.
    """
    _check_slots(learned, seeds)
    episodes = play(simulator, seeds, behaviour)
    return Comparison(replay(learned, episodes.frames, episodes.actions, episodes.lengths), episodes.returns)


class _Slot:
    """One episode of a vector environment, as policies see it."""

    def __init__(self, learned: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        self.observation_space, self.action_space = learned.single_observation_space, learned.single_action_space
        self.frame: NDArray[np.uint8] = np.zeros(0, np.uint8)


def imagined_play(
    learned: gym.vector.VectorEnv[Any, Any, Any],
    simulator: gym.Env[Any, Any],
    seeds: Sequence[int],
    behaviour: Callable[[Any, int], Callable[[], Actions]],
    steps: int,
) -> Comparison:
    """Whole episodes in the learned environment, and what their actions earn in the simulator.

    The policy sees imagined frames. The difference between the two returns is what it was promised in vain.

    Args:
        learned: as many slots as seeds. An episode that it terminates ends.
        simulator: of the same task.
        seeds: of the simulator's resets, whose frames both worlds start from.
        behaviour: as in :func:`play`; its environment has ``frame``, ``observation_space`` and ``action_space`` alone.
        steps: of an episode at most.

    Raises:
        ConfigError: if the number of slots is not the number of seeds.
    """
    _check_slots(learned, seeds)
    first = np.stack([simulator.reset(seed=int(seed))[0] for seed in seeds])
    context = learned.unwrapped.world_model.config.context_length  # type: ignore[attr-defined]
    frames, _ = learned.reset(seed=0, options={"frames": np.repeat(first[:, None], context, axis=1)})
    slots = [_Slot(learned) for _ in seeds]
    policies = [behaviour(slot, int(seed)) for slot, seed in zip(slots, seeds, strict=True)]
    taken: list[NDArray[Any]] = []
    total, lengths, going = np.zeros(len(slots)), np.zeros(len(slots), np.int64), np.ones(len(slots), np.bool_)
    for _ in tqdm(range(steps), desc="imagined", unit="step", leave=False):
        for slot, frame in zip(slots, frames, strict=True):
            slot.frame = frame.copy()
        taken.append(np.stack([policy() for policy in policies]))
        frames, rewards, terminations, _, _ = learned.step(taken[-1])
        total, lengths = total + np.where(going, rewards, 0), lengths + going
        going = going & ~terminations
        if not going.any():
            break
    actions = np.stack(taken, axis=1)
    real = [
        _earned(simulator, int(seed), chosen[:length])
        for seed, chosen, length in zip(seeds, actions, lengths, strict=True)
    ]
    return Comparison(total, np.array(real))


def _earned(simulator: gym.Env[Any, Any], seed: int, actions: NDArray[Any]) -> float:
    """The return of some actions; those behind the end of the episode earn nothing."""
    simulator.reset(seed=seed)
    total = 0.0
    for action in actions:
        _, reward, terminated, truncated, _ = simulator.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    return total


def _check_slots(learned: gym.vector.VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> None:
    if learned.num_envs != len(seeds):
        raise ConfigError(f"expected as many slots as seeds, got {learned.num_envs} slots and {len(seeds)} seeds")


@torch_defaults(grad=False)
def recorded_returns(model: WorldModel, episodes: Sequence[EpisodeFile]) -> Comparison:
    """Whole recorded episodes: imagined from their first frames under their actions, always the same.

    What is imagined behind a termination counts by the probability that the episode has not ended.

    Args:
        model: predicts rewards.
        episodes: N of them, all imagined in one batch.

    Raises:
        DataError, InvalidFrames, InvalidAction: if the recordings do not fit the model.
    """
    context, sampling = model.config.context_length, model.config.sampling
    lengths = np.array([len(episode.actions) for episode in episodes])
    # Behind its end an episode's last action repeats.
    steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    imagined = model.rollout(
        np.stack([episode.frames_at([0] * context) for episode in episodes]),
        np.stack([episode.actions[each] for episode, each in zip(episodes, steps, strict=True)]),
        sampling.temperature,
        sampling.top_k,
        torch.Generator(model.device).manual_seed(0),
        decode=False,
    )
    rewards = imagined.rewards.cpu().double().numpy() * (np.arange(lengths.max()) < lengths[:, None])
    if model.config.termination:
        going = np.cumprod(1 - imagined.termination_probability.cpu().double().numpy(), axis=1)
        rewards[:, 1:] *= going[:, :-1]
    return Comparison(rewards.sum(1), np.array([float(episode.rewards.sum()) for episode in episodes]))


def returns_table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """``task -> behaviour -> figures`` as a Markdown table."""
    header = ["task", "behaviour", "episodes", "imagined", "real", "ratio", "correlation"]
    rows = [
        [task, behaviour, f"{found['episodes']:.0f}", f"{found['imagined']:.0f}", f"{found['real']:.0f}"]
        + [number(found[name], ".2f") for name in ("ratio", "correlation")]
        for task, by_behaviour in figures.items()
        for behaviour, found in by_behaviour.items()
    ]
    return table(header, rows)
