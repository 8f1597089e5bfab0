"""Scripted experts for ManiSkill's tasks. They know all positions, and keep no memory from one step to the next."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
"""x, y and z in metres, float64 ``[3]``; z points upwards."""

MAX_MOVE = 0.1  # of action 1: metres, and radians
GAIN = 1.5  # the controller moves less far than it is told
OPEN, CLOSED = 1.0, -1.0
LOOSE = 0.28  # the fingers press on a thing of 5 cm lightly
HOVER = 0.08  # above a cube, before the hand comes down
ALIGNED = 0.012  # horizontal distance within which the hand comes down
REACHED = 0.012
CUBE_SIZE = 0.04
PEG_GRIP = (0.08, 0.11)  # from its middle

T_RADIUS = 0.06  # metres that count as much as a turn by a radian
T_PUSH = 0.07  # metres into the T, at most
T_KEEP = 0.5  # another side is taken when the gain of this one falls below this share of the best
T_TRAVEL = 0.6  # gain that a metre of way to another side costs
T_BESIDE = 0.028  # metres from a side to where the stick comes down
T_REACH = 0.32  # metres from the robot's base, within which the arm does not fold
T_HOVER, T_PUSH_HEIGHT = 0.065, 0.018
T_FACES = (  # from, to and outwards, about the centre of mass
    ((-0.09, -0.0625), (0.09, -0.0625), (0, -1)),
    ((-0.1, -0.0525), (-0.1, -0.0225), (-1, 0)),
    ((0.1, -0.0525), (0.1, -0.0225), (1, 0)),
    ((-0.09, -0.0125), (-0.05, -0.0125), (0, 1)),
    ((0.05, -0.0125), (0.09, -0.0125), (0, 1)),
    ((-0.025, 0.015), (-0.025, 0.1275), (-1, 0)),
    ((0.025, 0.015), (0.025, 0.1275), (1, 0)),
    ((-0.015, 0.1375), (0.015, 0.1375), (0, 1)),
)
T_SIDES = np.concatenate(
    [np.column_stack((np.linspace(start, end, 9), np.tile(out, (9, 1)))) for start, end, out in T_FACES]
).astype(np.float64)
"""Points at which to push the T and the directions out of it there: float64 ``[72, 4]``, x and y in its own frame."""


def pick_cube(simulator: Any) -> NDArray[np.float32]:
    """Grasp the cube and carry it to the green mark."""
    if not _grasps(simulator, simulator.cube):
        return _grasp(simulator, simulator.cube)
    return _move(simulator, _point(simulator.goal_site) - _point(simulator.cube), CLOSED)


def stack_cube(simulator: Any) -> NDArray[np.float32]:
    """Grasp the red cube, put it on the green one and let go."""
    cube, below = _point(simulator.cubeA), _point(simulator.cubeB)
    to_place = below - cube
    to_place[2] += CUBE_SIZE
    sideways = math.hypot(*to_place[:2])
    if sideways < 0.01 and abs(to_place[2]) < 0.005:
        hand = _hand(simulator)
        return _move(simulator, np.array([0, 0, 0.05 if _is_open(simulator) and hand[2] < cube[2] + 0.1 else 0]), OPEN)
    if not _grasps(simulator, simulator.cubeA):
        return _grasp(simulator, simulator.cubeA)
    if sideways > 0.01:  # above first, so that it does not push the other cube away
        to_place[2] += 0.03
        if to_place[2] > 0.02:
            to_place[:2] = 0
    return _move(simulator, to_place, CLOSED)


def push_cube(simulator: Any) -> NDArray[np.float32]:
    """Push the cube forwards onto the target, from behind."""
    cube, goal = _point(simulator.obj), _point(simulator.goal_region)
    behind = cube - [0.08, 0, 0] - _hand(simulator)
    if abs(behind[1]) > 0.02 or behind[0] < -0.05:
        above = 0.1 - _hand(simulator)[2]
        return _move(simulator, np.array([behind[0], behind[1], above]), CLOSED)
    if _hand(simulator)[2] > 0.03:
        return _move(simulator, behind, CLOSED)
    ahead = np.clip(goal[0] - cube[0], 0, 0.03)  # slowly, or the cube slides over the target
    return _move(simulator, np.array([ahead, behind[1], behind[2]]), CLOSED)


def lift_peg_upright(simulator: Any) -> NDArray[np.float32]:
    """Lift the peg by its near end in a loose grip, so that it swings down to hang; set it down and let go.

    The wrist cannot turn by a right angle here, and the arm does not reach the far end.
    """
    peg, along = _point(simulator.peg), _matrix(simulator.peg)[:3, 0]
    above_table = peg[2] - simulator.peg_half_length
    tilt = math.atan2(math.hypot(*along[:2]), abs(along[2]))  # radians from upright
    if tilt < 0.07 and above_table < 0.004:
        return _move(simulator, np.zeros(3), OPEN)
    if not _grasps(simulator, simulator.peg):
        grip = np.clip((peg - _hand(simulator)) @ along, *PEG_GRIP)
        return _grasp(simulator, simulator.peg, -grip * along)
    if tilt > 0.15:
        return _move(simulator, np.array([0, 0, 0.015 - above_table]), LOOSE)
    action = _move(simulator, np.array([0, 0, -above_table]), CLOSED)  # the firm grip ends the swing
    action[4] = np.clip(GAIN * math.copysign(along[0], along[0] * along[2]) / MAX_MOVE, -1, 1)
    return action


def push_t(simulator: Any) -> NDArray[np.float32]:
    """Push the T by a side that brings it nearer to its goal; come down beside another side when this one does not."""
    tip, (points, outward, gains) = _hand(simulator), _t_sides(simulator)
    ahead = np.sum((tip[:2] - points) * outward, axis=1)  # of each point, along its outward direction
    beside = np.linalg.norm(tip[:2] - points - ahead[:, None] * outward, axis=1)
    worth = gains - T_TRAVEL * np.hypot(ahead, beside)
    down, done = bool(tip[2] < 0.03), bool(simulator.evaluate()["success"])
    if down:
        near = (ahead > 0.0) & (ahead < 0.04) & (beside < 0.012) & (gains > T_KEEP * gains.max())
    else:  # only the best side, or it would go up and down between two
        near = (ahead > 0.01) & (ahead < 0.05) & (beside < 0.015) & (worth == worth.max())
    if down and near.any() and not done:
        side = int(np.argmax(np.where(near, worth, -np.inf)))
        return _push(simulator, points[side], outward[side], bool(ahead[side] < 0.012))
    closest = int(np.argmin(np.hypot(ahead, beside)))
    if down and 0 < ahead[closest] < 0.014:  # back first, or it takes the T with it
        return _move_stick(simulator, np.append(0.04 * outward[closest], T_PUSH_HEIGHT - tip[2]))
    beside_best = points[worth.argmax()] + T_BESIDE * outward[worth.argmax()]
    offset = np.append(beside_best - tip[:2], (T_PUSH_HEIGHT if near.any() and not done else T_HOVER) - tip[2])
    if done or offset[2] > 0.02:  # up first
        offset[:2] = 0
    return _move_stick(simulator, offset)


EXPERTS: dict[str, Callable[[Any], NDArray[np.float32]]] = {
    "PickCube-v1": pick_cube,
    "StackCube-v1": stack_cube,
    "PushCube-v1": push_cube,
    "LiftPegUpright-v1": lift_peg_upright,
    "PushT-v1": push_t,
}


def _grasp(simulator: Any, thing: Any, beside: Point | float = 0.0) -> NDArray[np.float32]:
    """Come down over a thing (or beside its middle) with open fingers along its sides, and close them."""
    offset = _point(thing) + beside - _hand(simulator)
    if math.hypot(*offset[:2]) > ALIGNED:
        offset[2] += HOVER
        return _move(simulator, offset, OPEN, _turn(simulator, thing))
    reached = bool(np.linalg.norm(offset) < REACHED)
    return _move(simulator, offset, CLOSED if reached else OPEN, 0.0 if reached else _turn(simulator, thing))


def _move(simulator: Any, offset: Point, gripper: float, turn: float = 0.0) -> NDArray[np.float32]:
    """The action that moves the hand by an offset and turns it about the vertical, in radians."""
    action = np.zeros(7)
    action[:3] = GAIN * offset / MAX_MOVE
    action[5] = -turn / MAX_MOVE  # ManiSkill turns the other way round
    action[6] = gripper
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def _move_stick(simulator: Any, offset: Point) -> NDArray[np.float32]:
    """The action that moves the stick by an offset and keeps it vertical, which the load of a push would tilt."""
    action = _move(simulator, offset, CLOSED)
    axis = _matrix(simulator.agent.tcp)[:2, 2]
    action[3:5] = np.clip(2 * GAIN * np.array([axis[1], -axis[0]]) / MAX_MOVE, -1.0, 1.0)
    return action


def _turn(simulator: Any, cube: Any) -> float:
    """By how much the hand must turn about the vertical to close along a side of the cube; at most 45 degrees."""
    hand, side = (_matrix(thing)[:2, 1] for thing in (simulator.agent.tcp, cube))
    angle = math.atan2(side[1], side[0]) - math.atan2(hand[1], hand[0])
    return (angle + math.pi / 4) % (math.pi / 2) - math.pi / 4


def _push(
    simulator: Any, point: NDArray[np.float64], outward: NDArray[np.float64], touches: bool
) -> NDArray[np.float32]:
    """Push at a point of the T; harder while it rests, because the controller yields to the load."""
    harder = touches and bool(simulator.tee.linear_velocity.norm() < 0.02)
    far = min(T_PUSH, (0.04 if harder else 0.015) + float(np.linalg.norm(_t_left(simulator))))
    tip = _hand(simulator)
    return _move_stick(simulator, np.append(point - far * outward - tip[:2], T_PUSH_HEIGHT - tip[2]) / GAIN)


def _t_sides(simulator: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Where the T can be pushed, and how well each push leads to the goal.

    A slow push moves a thing that slides in proportion to the force, and turns it in proportion to the torque.

    Returns:
        The points ``[N, 2]``, the directions out of the T there ``[N, 2]`` and the gains ``[N]``: the cosine between
        the movement that the push makes and the one that is left.
    """
    pose = _matrix(simulator.tee)
    about_middle, outward = T_SIDES[:, :2] @ pose[:2, :2].T, T_SIDES[:, 2:] @ pose[:2, :2].T
    torque = about_middle[:, 1] * outward[:, 0] - about_middle[:, 0] * outward[:, 1]
    movement, left = np.column_stack((-outward, torque / T_RADIUS)), _t_left(simulator)
    gains = movement @ left / (np.linalg.norm(movement, axis=1) * np.linalg.norm(left) + 1e-9)
    points = about_middle + pose[:2, 3]
    from_base = np.linalg.norm(points + T_BESIDE * outward - _point(simulator.agent.robot)[:2], axis=1)
    return points, outward, np.where(from_base > T_REACH, gains, -1.0)


def _t_left(simulator: Any) -> NDArray[np.float64]:
    """The movement from the T to its goal, float64 ``[3]``: x and y, and the turn times ``T_RADIUS``, in metres."""
    pose, goal = _matrix(simulator.tee), _matrix(simulator.goal_tee)
    turn = pose[:2, :2].T @ goal[:2, 0]  # the goal's x axis as the T sees it
    return np.append(goal[:2, 3] - pose[:2, 3], T_RADIUS * math.atan2(turn[1], turn[0]))


def _matrix(thing: Any) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = thing.pose.to_transformation_matrix()[0].numpy().astype(np.float64)
    return matrix


def _hand(simulator: Any) -> Point:
    return _point(simulator.agent.tcp)


def _point(thing: Any) -> Point:
    position: Point = thing.pose.p[0].numpy().astype(np.float64)
    return position


def _grasps(simulator: Any, cube: Any) -> bool:
    return bool(simulator.agent.is_grasping(cube))


def _is_open(simulator: Any) -> bool:
    return bool(simulator.agent.robot.get_qpos()[0, -1] > 0.035)
