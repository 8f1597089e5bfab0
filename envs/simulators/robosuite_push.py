"""A scene for pushing on a table, in robosuite, as the VP2 benchmark plans in, and a scripted pusher.

The scene follows Tian et al. 2023, "A Control-Centric Benchmark for Video Prediction", and its published simulator:
two boxes, a cylinder and a ball on a table, seen from its camera in front of the robot, and its success: no object is
farther than 5 cm from its place in the goal. There, goals come from scripted pushes that were recorded; here an episode
draws a push, of one object by 15 cm along an axis of the table. Objects are smaller and lighter than there: the palm
passes over them, and the controller, which gets 20 commands a second and not one, pushes them.
"""

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TASK = "Push"
TABLE_HEIGHT = 0.8
PLACES = {"x_range": [-0.1, 0.3], "y_range": [-0.15, 0.15]}  # of objects' centres, from the table's centre
FRICTION, DENSITY = [0.7, 0.005, 0.0001], 400.0
CAMERA_POSITION = [0.676, 0.0, 1.251]
CAMERA_TURN = [0.6326, 0.3159, 0.3159, 0.6326]
PUSH = 0.15  # length of a push, metres
DIRECTIONS = {"far": (1.0, 0.0), "near": (-1.0, 0.0), "left": (0.0, 1.0), "right": (0.0, -1.0)}
"""From the robot's side of the table; its base is at negative x."""
TABLE_EDGE = 0.36  # farthest that the centre of an object or the hand may be from the table's centre, along an axis
CLEARANCE = 0.02  # between the way of a push and other objects
SUCCESS_DISTANCE = 0.05
PLACEMENTS = 200

# Of the scripted pusher: metres.
MAX_MOVE = 0.05  # of action 1, in one control step
HOVER = 0.2  # above the table, over all objects
GAP = 0.05  # between the hand and the object's side before a push
NEAR = 0.02  # horizontal distance at which the hand comes down
STRAY = 0.035  # distance from the line of the push at which it starts again
SLOW = 0.05  # distance to the goal from which it pushes less hard
DONE, ENOUGH = 0.012, 0.03  # distances of the pushed object and of all objects at which it stops


class Shape(NamedTuple):
    """An object of the scene."""

    kind: str
    size: tuple[float, ...]
    colour: tuple[float, float, float, float]
    radius: float
    """Of the circle around it, seen from above."""


SHAPES = {
    "box": Shape("BoxObject", (0.05, 0.05, 0.04), (0.8, 0.15, 0.1, 1), 0.071),
    "small_box": Shape("BoxObject", (0.035, 0.035, 0.035), (0.1, 0.25, 0.8, 1), 0.05),
    "cylinder": Shape("CylinderObject", (0.05, 0.04), (0.85, 0.75, 0.1, 1), 0.05),
    "ball": Shape("BallObject", (0.045,), (0.1, 0.6, 0.2, 1), 0.045),
}
PUSHED = ("box", "small_box", "cylinder")  # a ball that is pushed rolls away


def register() -> None:
    """Make the task known to robosuite, which must be importable."""
    _push_class()


@functools.cache
def _push_class() -> Any:
    """The task's class: defined here because robosuite is not imported unless it is needed."""
    base: Any = importlib.import_module("robosuite.environments.manipulation.manipulation_env").ManipulationEnv

    class Push(base):  # type: ignore[misc]
        """robosuite's environment. ``goals`` are the objects' places in the goal, float64 ``[4, 3]``."""

        def _load_model(self) -> None:
            super()._load_model()
            _load_scene(self)

        def _setup_references(self) -> None:
            super()._setup_references()
            self.body_ids = [self.sim.model.body_name2id(found.root_body) for found in self.objects]

        def _reset_internal(self) -> None:
            super()._reset_internal()
            _draw_episode(self)

        def reward(self, action: Any = None) -> float:
            """At most 1, which is success; else for the hand's and the objects' distances."""
            if self._check_success():
                return 1.0
            distance, hand = goal_distance(self), _hand(self)
            reach = float(np.linalg.norm(positions(self)[self.pushed] - hand))
            return float(0.25 * (1 - np.tanh(5 * reach)) + 0.5 * (1 - np.tanh(5 * distance)))

        def _check_success(self) -> bool:
            return goal_distance(self) < SUCCESS_DISTANCE

    return Push


def goal_distance(simulator: Any) -> float:
    """The greatest distance of an object from its place in the goal, metres: VP2's score."""
    return float(np.linalg.norm(positions(simulator) - simulator.goals, axis=1).max())


def positions(simulator: Any) -> NDArray[np.float64]:
    """The objects' centres, float64 ``[4, 3]``."""
    return np.array([simulator.sim.data.body_xpos[body] for body in simulator.body_ids])


def push(simulator: Any) -> NDArray[np.float32]:
    """Move over the object, come down behind it, push, and stop at the goal. It keeps no memory of earlier steps."""
    hand, place = _hand(simulator), positions(simulator)[simulator.pushed]
    way = (simulator.goals[simulator.pushed] - place)[:2]
    action = np.zeros(7)
    action[6] = 1.0  # closed
    length = float(np.linalg.norm(way))
    if length < DONE or goal_distance(simulator) < ENOUGH:
        return action.astype(np.float32)
    along = way / length
    radius = list(SHAPES.values())[simulator.pushed].radius
    offset = (place - hand)[:2]
    side = np.array([along[1], -along[0]])
    ahead, beside = float(offset @ along), float(offset @ side)
    # At the height of the object's centre, where a push tips nothing and the palm is above all objects.
    low, hover = simulator.goals[simulator.pushed, 2], TABLE_HEIGHT + HOVER
    behind = place[:2] - along * (radius + GAP) - hand[:2]
    if hand[2] < low + 0.03 and ahead > 0 and abs(beside) < STRAY:
        aim = [
            *(along * max(MAX_MOVE * min(1.0, length / SLOW), 0.02) + beside * np.array([along[1], -along[0]])),
            low - hand[2],
        ]
    elif np.linalg.norm(behind) < NEAR:
        aim = [*behind, low - hand[2]]
    elif hand[2] < hover - 0.04:
        aim = [0.0, 0.0, hover - hand[2]]
    else:
        aim = [*behind, hover - hand[2]]
    action[:3] = np.array(aim) / MAX_MOVE
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def _hand(simulator: Any) -> NDArray[np.float64]:
    return np.array(simulator.sim.data.site_xpos[simulator.robots[0].eef_site_id["right"]])


def _load_scene(simulator: Any) -> None:
    objects: Any = importlib.import_module("robosuite.models.objects")
    samplers: Any = importlib.import_module("robosuite.utils.placement_samplers")
    arena: Any = importlib.import_module("robosuite.models.arenas").TableArena(table_offset=(0, 0, TABLE_HEIGHT))
    arena.set_origin([0, 0, 0])
    arena.set_camera("agentview", CAMERA_POSITION, CAMERA_TURN)
    robot = simulator.robots[0].robot_model
    robot.set_base_xpos(robot.base_xpos_offset["table"](arena.table_full_size[0]))
    simulator.objects = [
        getattr(objects, shape.kind)(
            name=name, size=list(shape.size), rgba=list(shape.colour), density=DENSITY, friction=FRICTION
        )
        for name, shape in SHAPES.items()
    ]
    simulator.sampler = samplers.UniformRandomSampler(
        name="places",
        mujoco_objects=simulator.objects,
        **PLACES,
        rotation=0.0,  # sides along the table's, as the pushes
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=(0, 0, TABLE_HEIGHT),
        rng=simulator.rng,
    )
    task: Any = importlib.import_module("robosuite.models.tasks").ManipulationTask
    simulator.model = task(arena, [robot], simulator.objects)


def _draw_episode(simulator: Any) -> None:
    """Place the objects, and draw a push whose way is free."""
    for _ in range(PLACEMENTS):
        placed = _sample(simulator)
        if placed is None:
            continue
        for found, place in zip(simulator.objects, placed, strict=True):
            simulator.sim.data.set_joint_qpos(found.joints[0], [*place, 1, 0, 0, 0])
        free = [(index, name) for index in range(len(PUSHED)) for name in DIRECTIONS if _is_free(placed, index, name)]
        if free:
            simulator.pushed, simulator.direction = free[simulator.rng.integers(len(free))]
            simulator.goals = placed.copy()
            simulator.goals[simulator.pushed, :2] += PUSH * np.array(DIRECTIONS[simulator.direction])
            return
    raise RuntimeError(f"no free push in {PLACEMENTS} placements")


def _sample(simulator: Any) -> NDArray[np.float64] | None:
    """The objects' centres, float64 ``[4, 3]``; None if the sampler found no room."""
    failure = importlib.import_module("robosuite.utils.errors").RandomizationError
    try:
        placed = simulator.sampler.sample()
    except failure:
        return None
    return np.array([placed[name][0] for name in SHAPES])


def _is_free(placed: NDArray[np.float64], index: int, name: str) -> bool:
    """Whether neither the pushed object nor the hand behind it meets another object or the table's edge."""
    way, radii = np.array(DIRECTIONS[name]), [shape.radius for shape in SHAPES.values()]
    start = placed[index, :2] - way * (radii[index] + GAP)
    end = placed[index, :2] + way * PUSH
    if max(np.abs(start).max(), np.abs(end).max()) > TABLE_EDGE:
        return False
    for other in range(len(placed)):
        offset = placed[other, :2] - start
        nearest = start + np.clip(offset @ way, 0, (end - start) @ way) * way
        if other != index and np.linalg.norm(placed[other, :2] - nearest) < radii[index] + radii[other] + CLEARANCE:
            return False
    return True
