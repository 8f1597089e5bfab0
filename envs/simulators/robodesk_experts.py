"""Scripted experts for RoboDesk's tasks in the VP2 benchmark. They keep no memory of earlier steps.

Each moves the closed hand toward a point that depends on where the hand and the things are. x grows to the right, y
away from the robot, z upward; metres.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAIN = 10.0  # action for a metre of distance; 1 is 1 cm a simulator step
NEAR = 0.03

Point = NDArray[np.float64]
Expert = Callable[[Any], NDArray[np.float32]]


def _hand(simulator: Any) -> Point:
    return np.array(simulator.physics.named.data.site_xpos["end_effector"])


def _toward(simulator: Any, aim: Point) -> NDArray[np.float32]:
    action = np.zeros(5)
    action[:3] = GAIN * (aim - _hand(simulator))
    action[4] = -1.0  # closed
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def _from_above(simulator: Any, place: Point, height: float) -> Point:
    """The next point on the way up, over the place and down to it."""
    hand = _hand(simulator)
    away = float(np.linalg.norm((place - hand)[:2]))
    if away < NEAR:
        return place
    over = max(height, place[2])
    if hand[2] < over - NEAR and away > 2 * NEAR:
        return np.array([*hand[:2], over + NEAR])
    return np.array([*place[:2], over + NEAR])


def _button(colour: str) -> Expert:
    """Down on the button, from above."""

    def act(simulator: Any) -> NDArray[np.float32]:
        button = np.array(simulator.physics.named.data.xpos[f"{colour}_button"])
        return _toward(simulator, _from_above(simulator, button - [0, 0, 0.04], 0.85))

    return act


def _slide(simulator: Any) -> NDArray[np.float32]:
    """To the left of the door's handle, then push it to the right."""
    hand, handle = _hand(simulator), np.array(simulator.physics.named.data.site_xpos["slide_handle"])
    offset = handle - hand
    if abs(offset[1]) < 0.05 and abs(offset[2]) < 0.06 and offset[0] > 0:
        return _toward(simulator, handle + [0.15, 0, 0])
    return _toward(simulator, handle - [0.1, 0, 0])


def _drawer(simulator: Any) -> NDArray[np.float32]:
    """Down behind the handle, then pull."""
    hand, handle = _hand(simulator), np.array(simulator.physics.named.data.geom_xpos["drawer_handle"])
    behind = handle + [0, 0.03, 0.0]
    if hand[2] < handle[2] + 0.05 and np.abs((behind - hand)[:2]).max() < 0.06:
        return _toward(simulator, hand + [0, -0.1, -0.01])
    return _toward(simulator, _from_above(simulator, behind, 0.85))


def _off_table(block: str) -> Expert:
    """Down to the left of the block, then push it over the edge on the right."""

    def act(simulator: Any) -> NDArray[np.float32]:
        place = np.array(simulator.physics.named.data.xpos[block])
        hand = _hand(simulator)
        if place[2] < 0.7:
            return _toward(simulator, hand)
        low = np.array([*place[:2], 0.775])
        offset = low - hand
        if abs(offset[1]) < 0.04 and hand[2] < 0.82 and offset[0] > 0:
            return _toward(simulator, low + [0.2, 0, 0])
        return _toward(simulator, _from_above(simulator, low - [0.12, 0, 0], 0.87))

    return act


EXPERTS: dict[str, Expert] = {
    **{f"push_{colour}": _button(colour) for colour in ("red", "green", "blue")},
    "open_slide": _slide,
    "open_drawer": _drawer,
    **{f"{block}_off_table": _off_table(block) for block in ("upright_block", "flat_block")},
}
