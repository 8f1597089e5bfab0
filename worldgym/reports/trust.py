"""How far a learned environment can be trusted: policies ranked in both worlds, and promises of optimised actions.

Environments are arguments; nothing here names a simulator.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym.metrics.ranking import bootstrap, pearson, spearman
from worldgym.reports.returns import compare_returns
from worldgym.world_model import WorldModel

REVERSION = 0.1  # of the random walks that candidates of actions are
Behaviour = Callable[[Any, int], Callable[[], NDArray[np.float32]]]


def rank_policies(
    learned: gym.vector.VectorEnv[Any, Any, Any],
    simulator: gym.Env[Any, Any],
    policies: Mapping[str, Behaviour],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Mean returns of policies in both worlds, from the same first frames under the same actions.

    Args:
        learned: as many slots as seeds.
        simulator: of the same task.
        policies: by their names; see :func:`worldgym.reports.returns.play`.
        seeds: of the simulator's resets.

    Returns:
        ``policies`` (name -> ``imagined`` and ``real``), and ``pearson`` and ``spearman`` over policies, each
        ``[value, low, high]`` with a 95 % bootstrap interval over policies.
    """
    found = {}
    for name, behaviour in tqdm(policies.items(), desc="policies", unit="policy", leave=False):
        figures = compare_returns(learned, simulator, seeds, behaviour).figures()
        found[name] = {"imagined": figures["imagined"], "real": figures["real"]}
    imagined, real = (np.array([entry[world] for entry in found.values()]) for world in ("imagined", "real"))
    return {
        "policies": found,
        "pearson": list(bootstrap(pearson, imagined, real)),
        "spearman": list(bootstrap(spearman, imagined, real)),
    }


def measure_optimism(
    model: WorldModel, simulator: gym.Env[Any, Any], seeds: Sequence[int], candidates: int, horizon: int
) -> dict[str, Any]:
    """What the best of many action sequences is promised in the model, and what it earns in the simulator.

    Args:
        model: takes actions in [-1, 1].
        simulator: of a task that the model knows.
        seeds: of the simulator's resets.
        candidates: random walks of actions for each first frame.
        horizon: steps of each.

    Returns:
        Lists with an entry a seed: ``promised`` (the imagined return of the best sequence), ``real`` (its return in the
        simulator), ``mean_promised`` (the mean over all sequences).
    """
    figures: dict[str, list[float]] = {"promised": [], "real": [], "mean_promised": []}
    sampling, context = model.config.sampling, model.config.context_length
    for seed in tqdm(seeds, desc="optimised actions", unit="start", leave=False):
        rng = np.random.default_rng(seed)
        frame = simulator.reset(seed=int(seed))[0]
        actions = _random_walks(rng, candidates, horizon, model.config.action_dim)
        imagined = model.rollout(
            np.repeat(frame[None, None], context, axis=1),
            actions,
            sampling.temperature,
            sampling.top_k,
            torch.Generator(model.device).manual_seed(int(seed)),
            decode=False,
        )
        returns = imagined.rewards.sum(1).cpu().numpy()
        best = int(returns.argmax())
        figures["promised"].append(float(returns[best]))
        figures["mean_promised"].append(float(returns.mean()))
        figures["real"].append(float(sum(float(simulator.step(action)[1]) for action in actions[best])))
    return figures


def _random_walks(rng: np.random.Generator, count: int, steps: int, action_dim: int) -> NDArray[np.float32]:
    """Actions ``[count, steps, A]`` in [-1, 1] that change slowly."""
    walk = 0.5 * rng.standard_normal((count, action_dim))
    actions = np.empty((count, steps, action_dim), np.float32)
    for step in range(steps):
        walk = (1 - REVERSION) * walk + 0.4 * rng.standard_normal(walk.shape)
        actions[:, step] = np.clip(walk, -1, 1)
    return actions
