"""RoboDesk: one frame of its own camera, five actions in [-1, 1], dense rewards.

Rewards are summed over an action repeat of 5; an episode has 100 steps, which are RoboDesk's 500.
"""

import contextlib
import copy
import functools
import importlib
import io
import os
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
from worldgym.envs.seeding import numpy_seeded
from worldgym.envs.simulators.restoring import RestorableEnv
from worldgym.envs.simulators.robodesk_experts import EXPERTS
from worldgym.errors import DependencyNotInstalled, RenderingError

TASKS = (
    "push_red",
    "push_green",
    "push_blue",
    "open_slide",
    "open_drawer",
    "upright_block_off_table",
    "flat_block_off_table",
)
"""The tasks of the VP2 benchmark."""
ACTION_NAMES = ("dx", "dy", "dz", "wrist", "gripper")
DIRECTIONS = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0),
)
ACTION_REPEAT = 5
EPISODE_STEPS = 100
RENDER_FPS = 10  # RoboDesk runs at 50 steps a second
RESOLUTION = 64
DRAWN_RESOLUTION = 120
CROP = (16.75, 25.0, 105.0, 88.75)  # left, top, right and bottom of the part that RoboDesk shows, as a square
CHANGING = ("original_pos", "success", "num_steps", "drawer_opened", "previous_z_angle", "total_rotation")

Look = Literal["fast", "reference"]


def task_names() -> list[str]:
    """The names of all 18 tasks."""
    _import_robodesk()
    return sorted(importlib.import_module("robodesk").RoboDesk().all_tasks)


class SimulatorRoboDesk(RestorableEnv["EpisodeState"]):
    """A RoboDesk task. ``simulator`` is RoboDesk's own environment.

    The action is ``(dx, dy, dz, wrist, gripper)``: 1 is 1 cm a simulator step, and an open gripper.

    Args:
        task: a name of RoboDesk's, such as ``push_red``.
        render_mode: ``rgb_array``, ``human`` or None.
        look: ``fast`` draws without shadows and reflections, ``reference`` as RoboDesk draws.

    Raises:
        UnknownTask: for a task that RoboDesk does not have.
        DependencyNotInstalled: without the ``robodesk`` extra, or without an OpenGL library to draw offscreen.
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
        with numpy_seeded(int(self.np_random.integers(2**31))):
            self.simulator.reset()
        # RoboDesk keeps views that follow the blocks, so that none would ever have moved.
        first = {name: position.copy() for name, position in self.simulator.original_pos.items()}
        self.simulator.original_pos = first
        return self._show(self._draw()), self._info(self._succeeds())

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply the action, float32 ``[5]``, for five simulator steps.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._current_frame("step")
        reward, success = self.advance(action)
        return self._show(self._draw()), reward, False, False, self._info(success)

    def advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """As :meth:`step` without drawing, which takes half of its time: reward and success. ``frame`` stays old."""
        self._current_frame("advance")
        clipped = checked_action(action, self.action_space)
        reward, success = 0.0, False
        for _ in range(ACTION_REPEAT):
            _, part, _, _ = self.simulator.step(clipped)
            reward += float(part)
            success = success or self._succeeds()
        return reward, success

    def expert_action(self) -> NDArray[np.float32]:
        """The action of a scripted expert that knows all positions, float32 ``[5]`` in [-1, 1].

        Raises:
            ResetNeeded: before the first reset.
            InvalidOption: for a task without an expert; names those that have one.
        """
        self._current_frame("expert_action")
        if self.task not in EXPERTS:
            raise no_expert(self.task, EXPERTS)
        return EXPERTS[self.task](self.simulator)

    def _build(self) -> None:
        _import_robodesk()
        self.simulator = importlib.import_module("robodesk").RoboDesk(self.task, episode_length=None)
        self.simulator._get_obs = dict  # RoboDesk would draw after each of its steps
        shadows = self.look == "reference"
        self._camera = MujocoCamera(self._mujoco()[0], _viewpoint(), DRAWN_RESOLUTION, shadows)

    def _mujoco(self) -> tuple[Any, Any]:
        """MuJoCo's model and data."""
        physics = self.simulator.physics
        return physics.model.ptr, physics.data.ptr

    def _state(self) -> "EpisodeState":
        import mujoco

        (model, data), kind = self._mujoco(), mujoco.mjtState.mjSTATE_INTEGRATION
        values = np.empty(mujoco.mj_stateSize(model, kind), np.float64)
        mujoco.mj_getState(model, data, values, kind)
        simulator = {name: getattr(self.simulator, name) for name in CHANGING}
        own = {name: getattr(self, name) for name in self.OWN}
        return EpisodeState(self.task, values, *copy.deepcopy((simulator, own)))

    def _restore(self, state: "EpisodeState") -> None:
        import mujoco

        model, data = self._mujoco()
        mujoco.mj_setState(model, data, state.values, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_step1(model, data)  # as dm_control ends its steps: all that follows from positions and velocities
        self.simulator.physics_copy.data.qpos[:] = data.qpos
        simulator, own = copy.deepcopy((state.simulator, state.own))
        vars(self.simulator).update(simulator)
        self.__dict__.update(own)

    def _draw(self) -> Frame:
        picture = Image.fromarray(self._camera.frame(self._mujoco()[1]))
        part = picture.crop(CROP).resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS)  # as RoboDesk does
        return np.asarray(part)

    def _succeeds(self) -> bool:
        return bool(self.simulator._get_task_reward(self.task, "success"))

    def _info(self, success: bool) -> Info:
        return {"success": success, "task": self.task}


class EpisodeState(NamedTuple):
    """A moment of an episode."""

    task: str
    values: NDArray[np.float64]
    """MuJoCo's ``mjSTATE_INTEGRATION``: positions, velocities, controls, applied forces, the solver's start."""
    simulator: dict[str, Any]
    """:data:`CHANGING` of RoboDesk's environment."""
    own: dict[str, Any]
    """Attributes of the environment."""


def _viewpoint() -> Any:
    """The camera that RoboDesk draws with."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = 1.8, 90, -60
    camera.lookat[:] = 0, 0.535, 1.1
    return camera


@functools.cache
def _import_robodesk() -> None:
    """Import RoboDesk with an OpenGL backend that works without a display."""
    missing = missing_packages("robodesk", "dm_control", "mujoco")
    if missing:
        raise DependencyNotInstalled(
            f"RoboDesk is not installed ({' and '.join(missing)} not found); run `{SPEC.install}`."
        )
    choose_gl_backend()
    try:
        # Gym, which RoboDesk imports, prints that it is no longer maintained.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module("robodesk")
    except Exception as error:  # OpenGL libraries fail in many ways
        raise RenderingError(
            f"RoboDesk cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {GL_ADVICE}"
        ) from error


SPEC = SimulatorSpec(
    name="RoboDesk",
    entry_point="worldgym.envs.simulators.robodesk:SimulatorRoboDesk",
    tasks=TASKS,
    action_names=ACTION_NAMES,
    frame_skip=ACTION_REPEAT,
    episode_steps=EPISODE_STEPS,
    render_fps=RENDER_FPS,
    install="pip install worldgym[robodesk]",
    checkpoint="robodesk-64",
    looks=("fast", "reference"),
    all_tasks=task_names,
    directions=DIRECTIONS,
)
