"""Action spaces as the page shows them, and the actions of four futures."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

FUTURES = 4
SIDES = ("left", "right", "up", "down")  # of the picture
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


def four_actions(
    space: Space, names: Sequence[str], seed: int, directions: Sequence[Sequence[float]] = ()
) -> list[tuple[str, Any]]:
    """Four actions with their labels: to the four sides of the picture, or opposite ones along the first dimensions.

    Of a list of actions the first four; else random ones.
    """
    if isinstance(space, gym.spaces.Box) and np.prod(space.shape) > 1:
        sides = np.array(directions[:2]) if len(directions) > 1 else np.eye(int(np.prod(space.shape)))[:2]
        signs = (-1, 1, 1, -1) if len(directions) > 1 else (-1, 1, -1, 1)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        found = []
        for index, sign in enumerate(signs):
            push = sign * sides[index // 2].reshape(space.shape)
            name = names[index // 2] if names else f"action {index // 2}"
            label = SIDES[index] if len(directions) > 1 else f"{name} {'-+'[index % 2]}"
            found.append((label, ((low + high) / 2 + push * (high - low) / 2).astype(space.dtype)))
        return found
    if isinstance(space, gym.spaces.Discrete) and space.n >= FUTURES:
        shown = describe_space(space, names)["names"]
        return [(shown[index], int(space.start) + index) for index in range(FUTURES)]
    space.seed(seed)
    drawn = [space.sample() for _ in range(FUTURES)]
    return [(str(np.round(action, 2).tolist()), action) for action in drawn]
