"""robosuite: one frame of camera ``agentview``, one Panda arm, end-effector deltas in [-1, 1], shaped rewards.

Rewards are summed over an action repeat of 2 control steps; an episode has 100 steps, or 10 seconds.
"""

import functools
import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.contract import (
    Frame,
    Info,
    Options,
    action_space,
    check_look,
    checked_action,
    checked_options,
    metadata,
    no_expert,
)
from worldgym.envs.mujoco_camera import GL_ADVICE, MujocoCamera, choose_gl_backend
from worldgym.envs.packages import missing_packages
from worldgym.envs.registry import SimulatorSpec
from worldgym.envs.simulators import robosuite_push
from worldgym.envs.simulators.robosuite_state import RobosuiteEnv
from worldgym.errors import DependencyNotInstalled, RenderingError

TASKS = ("Lift", "Stack", "Door", "Wipe", "PickPlaceCan", robosuite_push.TASK)
ACTION_NAMES = ("dx", "dy", "dz", "rotate_x", "rotate_y", "rotate_z", "gripper")
DIRECTIONS = (
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
)
ROBOT = "Panda"
CONTROL_FREQUENCY = 20
ACTION_REPEAT = 2
EPISODE_STEPS = 100
RENDER_FPS = CONTROL_FREQUENCY // ACTION_REPEAT
RESOLUTION = 64
CAMERA = "agentview"
COLLISION_SHAPES = 0  # their group in the model

# Of the scripted expert: metres.
MAX_MOVE = 0.05  # of action 1, in one control step
HOVER = 0.08  # above the cube, before the hand comes down
ALIGNED = 0.012  # horizontal distance within which the hand comes down
REACHED = 0.012
LIFTED = 0.12  # above the table

Look = Literal["fast", "reference"]


def task_names() -> list[str]:
    """The names of robosuite's own tasks for one arm, such as ``Lift``, and of ours, ``Push``."""
    _import_robosuite()
    registered = importlib.import_module("robosuite.environments.base").REGISTERED_ENVS
    own = (name for name, kind in registered.items() if kind.__module__.startswith("robosuite.environments."))
    return sorted([robosuite_push.TASK, *(name for name in own if not name.startswith("TwoArm"))])


class SimulatorRobosuite(RobosuiteEnv):
    """A robosuite task. ``simulator`` is robosuite's own environment.

    The action is ``(dx, dy, dz, rotate_x, rotate_y, rotate_z, gripper)`` of robosuite's operational space controller: 1
    is 0.05 m or 0.5 rad a control step, and a closed gripper. ``Wipe``, whose hand is a sponge, ignores the last value.
    Sizes of objects, which robosuite draws when it builds a scene, are the same in all episodes; all else that it
    draws changes with the seed.

    Args:
        task: a name of robosuite's, such as ``Lift``, or ``Push``, a scene as the VP2 benchmark plans in.
        render_mode: ``rgb_array``, ``human`` or None.
        look: ``fast`` draws without shadows and reflections, ``reference`` with them, as robosuite does.

    Raises:
        UnknownTask: for a task that robosuite does not have for one arm.
        DependencyNotInstalled: without the ``robosuite`` extra, or without an OpenGL library to draw offscreen.
        RenderingError: if the OpenGL library fails.
    """

    metadata = metadata(RENDER_FPS)
    frame_skip = ACTION_REPEAT

    def __init__(self, task: str = TASKS[0], render_mode: str | None = None, look: Look = "fast") -> None:
        check_look(look, SPEC.looks)
        self.task, self.look = SPEC.check_task(task), look
        super().__init__(RESOLUTION, action_space(len(ACTION_NAMES)), f"{SPEC.name} {self.task}", render_mode)
        self._build()

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode; equal seeds give equal episodes. There are no options.

        Returns:
            The frame, uint8 ``[64, 64, 3]``, and ``info`` with ``success`` and ``task``.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        checked_options(options)
        drawn = np.random.default_rng(int(self.np_random.integers(2**31)))
        self.simulator.rng.bit_generator.state = drawn.bit_generator.state  # samplers share this one generator
        self.simulator.reset()
        return self._show(self._draw()), self._info(self._succeeds())

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply the action, float32 ``[7]``, for two control steps.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._current_frame("step")
        reward, success = self.advance(action)
        return self._show(self._draw()), reward, False, False, self._info(success)

    def advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """As :meth:`step` without drawing: reward and success. ``frame`` stays old."""
        self._current_frame("advance")
        clipped = checked_action(action, self.action_space)[: self.simulator.action_dim]
        reward, success = 0.0, False
        for _ in range(ACTION_REPEAT):
            _, part, _, _ = self.simulator.step(clipped)
            reward += float(part)
            success = success or self._succeeds()
        return reward, success

    def expert_action(self) -> NDArray[np.float32]:
        """The action of a scripted expert that knows all positions, float32 ``[7]`` in [-1, 1].

        Raises:
            ResetNeeded: before the first reset.
            InvalidOption: for a task without an expert; names those that have one.
        """
        self._current_frame("expert_action")
        if self.task not in EXPERTS:
            raise no_expert(self.task, EXPERTS)
        return EXPERTS[self.task](self.simulator)

    def _build(self) -> None:
        self.simulator = _make_simulator(self.task)
        model, shadows = self.simulator.sim.model._model, self.look == "reference"
        self._camera = MujocoCamera(model, CAMERA, RESOLUTION, shadows, hidden_groups=(COLLISION_SHAPES,))

    @property
    def _robosuite(self) -> Any:
        return self.simulator

    def _draw(self) -> Frame:
        return self._camera.frame(self.simulator.sim.data._data)

    def _succeeds(self) -> bool:
        return bool(self.simulator._check_success())

    def _info(self, success: bool) -> Info:
        return {"success": success, "task": self.task}


def _lift(simulator: Any) -> NDArray[np.float32]:
    """Come down over the cube with open fingers, close them and lift. It keeps no memory of earlier steps."""
    data, robot = simulator.sim.data, simulator.robots[0]
    hand = np.array(data.site_xpos[robot.eef_site_id["right"]])
    cube = np.array(data.body_xpos[simulator.cube_body_id])
    offset, grasped = cube - hand, simulator._check_grasp(gripper=robot.gripper, object_geoms=simulator.cube)
    closed = grasped or bool(np.linalg.norm(offset) < REACHED)
    if grasped:
        offset = np.array([0.0, 0.0, simulator.table_offset[2] + LIFTED - cube[2]])
    elif math.hypot(offset[0], offset[1]) > ALIGNED:
        offset[2] += HOVER
    action = np.zeros(len(ACTION_NAMES))
    action[:3] = offset / MAX_MOVE
    action[6] = 1.0 if closed else -1.0
    return np.clip(action, -1.0, 1.0).astype(np.float32)


EXPERTS: dict[str, Callable[[Any], NDArray[np.float32]]] = {"Lift": _lift, robosuite_push.TASK: robosuite_push.push}


def _make_simulator(task: str) -> Any:
    _import_robosuite()
    # Our own task has rewards of one shape alone.
    options = {} if task == robosuite_push.TASK else {"reward_shaping": True}
    return importlib.import_module("robosuite").make(
        task,
        robots=ROBOT,
        control_freq=CONTROL_FREQUENCY,
        **options,
        ignore_done=True,  # gym.make sets the limit
        hard_reset=False,  # which would build the scene anew for every episode
        seed=0,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,  # it shows the wrong picture when several environments are alive
        renderer="mujoco",
    )


@functools.cache
def _import_robosuite() -> None:
    """Import robosuite with an OpenGL backend that works without a display."""
    missing = missing_packages("robosuite", "mujoco")
    if missing:
        raise DependencyNotInstalled(
            f"robosuite is not installed ({' and '.join(missing)} not found); run `{SPEC.install}`."
        )
    choose_gl_backend()
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies
            importlib.import_module("robosuite")
            robosuite_push.register()
    except Exception as error:  # OpenGL libraries fail in many ways
        raise RenderingError(
            f"robosuite cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {GL_ADVICE}"
        ) from error


def _is_error(record: logging.LogRecord) -> bool:
    """Whether a message is worth showing: robosuite warns of optional packages, and of joint limits in every step."""
    return record.levelno >= logging.ERROR


SPEC = SimulatorSpec(
    name="Robosuite",
    largest_reward=2.0,
    entry_point="worldgym.envs.simulators.robosuite:SimulatorRobosuite",
    tasks=TASKS,
    action_names=ACTION_NAMES,
    frame_skip=ACTION_REPEAT,
    episode_steps=EPISODE_STEPS,
    render_fps=RENDER_FPS,
    install="pip install worldgym[robosuite]",
    looks=("fast", "reference"),
    all_tasks=task_names,
    directions=DIRECTIONS,
)
