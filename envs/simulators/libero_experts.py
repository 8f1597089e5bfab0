"""Scripted experts for LIBERO's pick-and-place tasks. They know all positions, and keep no memory of earlier steps."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
"""x, y and z in metres, float64 ``[3]``; z points upwards."""
Expert = Callable[[Any], NDArray[np.float32]]

MAX_MOVE, MAX_TURN = 0.05, 0.5  # of action 1: metres, and radians
OPEN, CLOSED = -1.0, 1.0
POINTS_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # the hand; its fingers move along y
HOVER = 0.10  # of the hand above the point of the grasp before it comes down
ALIGNED = 0.015  # horizontal distance within which the hand comes down: the controller does not end exactly
ALIGNED_BELOW = 0.02  # from half of this height on
REACHED = 0.016  # vertical distance within which the hand closes
NEAR = 0.035  # of the point of the grasp: the hand may hold the object
STOPPED = 0.01  # metres a second of a finger
GAP_CLOSED, GAP_OPEN = 0.001, 0.06  # between the fingers
RIM = 0.05  # from the middle of a bowl
RIM_HEIGHT = 0.025


def bowl_to_plate(env: Any, side: float, carry: float = 0.2) -> NDArray[np.float32]:
    """Grasp the bowl at its rim, lift it, put it on the plate and let go."""
    hand = _hand(env)
    bowl, plate = (_position(env, name) for name in env.obj_of_interest[:2])
    to_place = plate - bowl
    sideways = math.hypot(to_place[0], to_place[1])
    if sideways < 0.025 and -to_place[2] < 0.03:
        up = plate[2] + 0.2 - hand[2] if _gap(env) > GAP_OPEN else 0.0
        return _move(env, np.array([0, 0, max(0.0, up)]), OPEN)
    to_rim = bowl + np.array([0, side * RIM, RIM_HEIGHT]) - hand
    if not _holds(env, to_rim):
        return _grasp(env, to_rim)
    if sideways > 0.02:
        to_place[2] += carry
        if to_place[2] > 0.03:
            to_place[:2] = 0
    return _move(env, to_place, CLOSED)


def _grasp(env: Any, offset: Point) -> NDArray[np.float32]:
    """Bring the open hand above the point of the grasp, then down, and close it."""
    sideways, near = math.hypot(offset[0], offset[1]), np.linalg.norm(offset) < NEAR
    if (sideways < ALIGNED_BELOW and abs(offset[2]) < REACHED) or (near and _closes(env)):
        return _move(env, np.zeros(3), CLOSED)
    if sideways > (ALIGNED_BELOW if -offset[2] < HOVER / 2 else ALIGNED):
        offset = offset + np.array([0, 0, HOVER])
        if offset[2] > 0.03:
            offset[:2] = 0
    return _move(env, offset, OPEN)


def _hand(env: Any) -> Point:
    return np.array(env.sim.data.site_xpos[env.robots[0].eef_site_id["right"]])


def _position(env: Any, name: str) -> Point:
    return np.array(env.sim.data.body_xpos[env.obj_body_id[name]])


def _gap(env: Any) -> float:
    """Between the fingers, metres."""
    joints = env.robots[0].gripper["right"].joints
    return float(sum(abs(env.sim.data.get_joint_qpos(joint)) for joint in joints))


def _closes(env: Any) -> bool:
    """Whether the fingers are told to close, and still do."""
    return bool(env.robots[0].gripper["right"].current_action[0] < 0) and _gap(env) > GAP_CLOSED


def _holds(env: Any, offset: Point) -> bool:
    """Whether the fingers, at this offset from the grasp, hold something: it keeps them from closing."""
    joints = env.robots[0].gripper["right"].joints
    stopped = all(abs(env.sim.data.get_joint_qvel(joint)) < STOPPED for joint in joints)
    told = env.robots[0].gripper["right"].current_action[0] < -0.99
    return bool(np.linalg.norm(offset) < NEAR and told and stopped and _gap(env) > GAP_CLOSED)


def _move(env: Any, offset: Point, gripper: float) -> NDArray[np.float32]:
    turned = np.array(env.sim.data.site_xmat[env.robots[0].eef_site_id["right"]]).reshape(3, 3)
    action = np.zeros(7)
    action[:3] = offset / MAX_MOVE
    action[3:6] = _rotation(POINTS_DOWN @ turned.T) / MAX_TURN
    action[6] = gripper
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def _rotation(matrix: NDArray[np.float64]) -> Point:
    """The rotation vector of a small rotation."""
    return 0.5 * np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])


EXPERTS: dict[str, Expert] = {
    "libero_spatial/0": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/1": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/2": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/3": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/5": functools.partial(bowl_to_plate, side=-1.0),
    "libero_spatial/6": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/7": functools.partial(bowl_to_plate, side=1.0),
    "libero_spatial/8": functools.partial(bowl_to_plate, side=-1.0),
    "libero_spatial/9": functools.partial(bowl_to_plate, side=1.0, carry=0.33),
}
