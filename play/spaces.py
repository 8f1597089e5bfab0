"""Action spaces as the page shows them, and the actions of four futures."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

FUTURES = 4
Space = gym.spaces.Space[Any]


def describe_space(
    space: Space,
    names: Sequence[str],
    directions: Sequence[Sequence[float]] = (),
    keys: Mapping[tuple[str, ...], int] | None = None,
) -> dict[str, Any]:
    """The action space for the page's controls.

    Args:
        space: of the actions.
        names: of the dimensions, or of the actions of a list; may be empty.
        directions: as in :class:`worldgym.envs.registry.SimulatorSpec`.
        keys: actions of a list by the keys that are held together.
    """
    if isinstance(space, gym.spaces.Discrete):
        start, count = int(space.start), int(space.n)
        return {
            "kind": "Discrete",
            "start": start,
            "names": list(names) or [f"action {start + n}" for n in range(count)],
            "keys": [[list(held), action] for held, action in (keys or {}).items()],
        }
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "counts": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    assert isinstance(space, gym.spaces.Box)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return {
        "kind": "Box",
        "names": list(names) or [f"action {n}" for n in range(len(low))],
        "low": low.tolist(),
        "high": high.tolist(),
        "shape": list(space.shape),
        "directions": [list(row) for row in directions if len(row) == len(low)],
    }


def four_actions(space: Space, names: Sequence[str], seed: int) -> list[tuple[str, Any]]:
    """Four actions with their labels: opposite ones along the first dimensions, or the first ones of a list."""
    if isinstance(space, gym.spaces.Box) and np.prod(space.shape) > 1:
        found = []
        for index in range(FUTURES):
            dimension, bound = index // 2, (space.low, space.high)[index % 2].reshape(-1)
            action = ((space.low.astype(np.float64) + space.high) / 2).reshape(-1)
            action[dimension] = bound[dimension]
            name = names[dimension] if names else f"action {dimension}"
            found.append((f"{name} {'-+'[index % 2]}", action.reshape(space.shape).astype(space.dtype)))
        return found
    if isinstance(space, gym.spaces.Discrete) and space.n >= FUTURES:
        shown = describe_space(space, names)["names"]
        return [(shown[index], int(space.start) + index) for index in range(FUTURES)]
    space.seed(seed)
    drawn = [space.sample() for _ in range(FUTURES)]
    return [(str(np.round(action, 2).tolist()), action) for action in drawn]
