"""Scripted experts for six of RoboDesk's seven tasks in VP2: all but ``open_drawer``. They keep no memory of steps.

Each moves the closed hand toward a point that depends on where the hand and the things are. x grows to the right, y
away from the robot, z upward; metres.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAIN = 30.0  # action for a metre of distance; 1 is 1 cm a simulator step
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
        return _toward(simulator, _from_above(simulator, button - np.array([0, 0, 0.04]), 0.85))

    return act


def _slide(simulator: Any) -> NDArray[np.float32]:
    """To the left of the door's handle, then push it to the right."""
    hand, handle = _hand(simulator), np.array(simulator.physics.named.data.site_xpos["slide_handle"])
    offset = handle - hand
    if abs(offset[1]) < 0.05 and abs(offset[2]) < 0.06 and offset[0] > 0:
        return _toward(simulator, handle + np.array([0.15, 0, 0]))
    return _toward(simulator, handle - np.array([0.08, 0, 0]))


def _off_table(block: str, height: float) -> Expert:
    """Down to the left of the block, to a height of the hand, then push it over the edge on the right."""

    def act(simulator: Any) -> NDArray[np.float32]:
        place = np.array(simulator.physics.named.data.xpos[block])
        hand = _hand(simulator)
        if place[2] < 0.7:
            return _toward(simulator, hand)
        low = np.array([*place[:2], height])
        offset = low - hand
        if abs(offset[1]) < 0.04 and hand[2] < height + 0.03 and offset[0] > 0:
            return _toward(simulator, low + np.array([0.2, 0, 0]))
        return _toward(simulator, _from_above(simulator, low - np.array([0.1, 0, 0]), 0.9))

    return act


EXPERTS: dict[str, Expert] = {
    **{f"push_{colour}": _button(colour) for colour in ("red", "green", "blue")},
    "open_slide": _slide,
    "upright_block_off_table": _off_table("upright_block", 0.83),
    "flat_block_off_table": _off_table("flat_block", 0.805),
}
