"""Meta-World: one frame of camera ``corner``, actions in [-1, 1], action repeat 2, 100 steps.

Rewards are summed over the repeat and raised by 10 in every step that succeeds (paper, appendix A.5).
"""

import copy
import functools
import importlib
import math
import os
import sys
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.contract import (
    Frame,
    FrameEnv,
    Info,
    Options,
    action_space,
    check_look,
    checked_action,
    checked_options,
    metadata,
)
from worldgym.envs.mujoco_camera import GL_ADVICE, MujocoCamera, choose_gl_backend
from worldgym.envs.packages import missing_packages
from worldgym.envs.registry import SimulatorSpec
from worldgym.errors import DependencyNotInstalled, RenderingError

PAPER_TASKS = ("button-press-topdown-wall", "plate-slide", "hammer", "door-lock", "handle-pull-side", "coffee-push")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")
ACTION_REPEAT = 2
EPISODE_STEPS = 100
RENDER_FPS = 40  # Meta-World runs at 80 steps a second
SUCCESS_BONUS = 10.0
RESOLUTION = 64
CAMERA = "corner"
DIRECTIONS = ((-1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))  # the camera looks along a diagonal
VIEWED_FIELDS = ("xpos", "site_xpos", "geom_xpos")
FIXED = ("data", "model", "mujoco_renderer")  # the simulator's attributes that get_state does not copy as they are

Look = Literal["fast", "reference"]


def task_names() -> list[str]:
    """The plain names of all 50 tasks, such as ``plate-slide``."""
    _import_metaworld()
    env_dict = importlib.import_module("metaworld.env_dict")
    return sorted(plain_task_name(name) for name in env_dict.ALL_V3_ENVIRONMENTS)


def plain_task_name(task: str) -> str:
    """``plate-slide`` for ``plate-slide`` or ``plate-slide-v3``."""
    return task.removesuffix("-v3")


class SimulatorMetaWorld(FrameEnv):
    """The real Meta-World. ``simulator`` is Meta-World's own environment, ``state`` its newest observation.

    Args:
        task: a plain name; ``-v3`` may follow.
        render_mode: ``rgb_array``, ``human`` or None.
        look: ``fast`` draws without shadows and reflections (several times faster without a GPU), ``reference`` as the
            published recordings were drawn.

    Raises:
        UnknownTask: for a task that Meta-World does not have.
        DependencyNotInstalled: without the ``metaworld`` extra, or without an OpenGL library to draw offscreen.
        RenderingError: if the OpenGL library fails.
    """

    metadata = metadata(RENDER_FPS)
    frame_skip = ACTION_REPEAT

    def __init__(self, task: str = PAPER_TASKS[1], render_mode: str | None = None, look: Look = "fast") -> None:
        check_look(look, SPEC.looks)
        self.task, self.look = SPEC.check_task(task), look
        super().__init__(RESOLUTION, action_space(len(ACTION_NAMES)), f"{SPEC.name} {self.task}", render_mode)
        self.simulator = _make_simulator(self.task)
        self._camera = self._make_camera()
        self.state: NDArray[np.float64] | None = None

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode; equal seeds give equal episodes. There are no options.

        Returns:
            The frame, uint8 ``[64, 64, 3]``, and ``info`` with ``success``, ``task`` and ``state`` (the simulator's
            own observation, float64 ``[39]``).
        """
        self._check_open("reset")
        super().reset(seed=seed)
        checked_options(options)
        self.simulator.seed(int(self.np_random.integers(2**31)))
        self.simulator.reset()
        # One idle step, as in the reference recordings: only a step moves goal markers to their places.
        self.state, _, _, _, result = self.simulator.step(np.zeros(4, np.float32))
        return self._show(self._draw()), self._info(bool(result["success"]))

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply the action, float32 ``[4]``, for two simulator steps.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._current_frame("step")
        reward, success = self.advance(action)
        return self._show(self._draw()), reward, False, False, self._info(success)

    def advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """As :meth:`step` without drawing, which takes most of its time: reward and success. ``frame`` stays old."""
        self._current_frame("advance")
        clipped = checked_action(action, self.action_space)
        reward, success = 0.0, False
        for _ in range(ACTION_REPEAT):
            self.state, part, _, _, result = self.simulator.step(clipped)
            reward += float(part)
            success = success or bool(result["success"])
        return reward + SUCCESS_BONUS * success, success

    def draw(self) -> Frame:
        """The frame of the present state; ``frame`` stays old."""
        self._current_frame("draw")
        return self._draw()

    def get_state(self) -> "EpisodeState":
        """All that the rest of the episode depends on, for :meth:`set_state`.

        Raises:
            ResetNeeded: before the first reset.
        """
        frame = self._current_frame("get_state")
        data = self.simulator.data
        views = _find_views(vars(self.simulator), data)
        kept = {name: value for name, value in vars(self.simulator).items() if name not in (*FIXED, *views)}
        own = {"state": self.state, "_frame": frame, "_np_random": self._np_random}
        return EpisodeState(copy.copy(data), views, _copied(kept), _copied(own))

    def set_state(self, state: "EpisodeState") -> None:
        """Continue as from the moment of :meth:`get_state`, exactly; a state can be set any number of times.

        Args:
            state: of the same episode: MuJoCo's model, in which a reset places things, is not part of it.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._current_frame("set_state")
        data = copy.copy(state.data)
        vars(self.simulator).update(_copied(state.simulator), data=data)
        vars(self.simulator).update({name: view.of(data) for name, view in state.views.items()})
        self.simulator.mujoco_renderer.data = data
        self.__dict__.update(_copied(state.own))

    def expert_action(self) -> NDArray[np.float32]:
        """The action of Meta-World's scripted expert, float32 ``[4]`` in [-1, 1].

        Raises:
            ResetNeeded: before the first reset.
        """
        self._current_frame("expert_action")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant.s. may be too high")  # the experts' own, nearly always
            action: NDArray[np.float64] = _expert(self.task).get_action(self.state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        """Free the renderer and the simulator."""
        super().close()
        self.state = None
        self._camera.close()
        self.simulator.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but OpenGL and Meta-World's own renderer, for copies and pickles in the middle of an episode."""
        left_out = ("mujoco_renderer", "model")  # the model comes with the data
        simulator = {name: value for name, value in vars(self.simulator).items() if name not in left_out}
        views = _find_views(simulator, self.simulator.data)
        return {**self.__dict__, "simulator": {**simulator, **dict.fromkeys(views)}, "_camera": None, "_views": views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        views = state.pop("_views")
        self.__dict__.update(state)
        self.simulator = _make_simulator(self.task)
        data = state["simulator"]["data"]
        vars(self.simulator).update(state["simulator"], model=data.model)
        vars(self.simulator).update({name: view.of(data) for name, view in views.items()})
        own_renderer = self.simulator.mujoco_renderer
        own_renderer.model, own_renderer.data = data.model, data
        self._camera = self._make_camera()

    def _make_camera(self) -> MujocoCamera:
        return MujocoCamera(self.simulator.model, CAMERA, RESOLUTION, shadows=self.look == "reference")

    def _draw(self) -> Frame:
        return np.ascontiguousarray(self._camera.frame(self.simulator.data)[::-1])  # the camera is upside down

    def _info(self, success: bool) -> Info:
        assert self.state is not None
        return {"success": success, "task": self.task, "state": self.state.copy()}


class EpisodeState(NamedTuple):
    """A moment of an episode."""

    data: Any
    """MuJoCo's data, a copy."""
    views: "dict[str, _View]"
    """Attributes of the simulator that are parts of the data."""
    simulator: dict[str, Any]
    """Its other attributes, copies."""
    own: dict[str, Any]
    """Attributes of the environment, copies."""


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes that a step may change are copied; it changes arrays and generators in place, and nothing else."""
    mutable = (np.ndarray, np.random.Generator)
    return {name: copy.deepcopy(value) if isinstance(value, mutable) else value for name, value in attributes.items()}


class _View(NamedTuple):
    """Where in MuJoCo's data an attribute of the simulator lies; ``init_left_pad`` for one moves with the pad."""

    field: str
    offset: int
    shape: tuple[int, ...]

    def of(self, data: Any) -> NDArray[np.float64]:
        """The same part of other data."""
        values: NDArray[np.float64] = getattr(data, self.field).reshape(-1)
        return values[self.offset : self.offset + math.prod(self.shape)].reshape(self.shape)


def _find_views(attributes: dict[str, Any], data: Any) -> dict[str, _View]:
    """The attributes that are parts of positions in MuJoCo's data rather than arrays of their own."""
    views = {}
    for name, value in attributes.items():
        if not isinstance(value, np.ndarray) or value.flags.owndata:
            continue
        for field in VIEWED_FIELDS:
            positions = getattr(data, field)
            if np.may_share_memory(value, positions):
                offset = (value.ctypes.data - positions.ctypes.data) // positions.itemsize
                views[name] = _View(field, offset, value.shape)
    return views


def _make_simulator(task: str) -> Any:
    _import_metaworld()
    env_dict = importlib.import_module("metaworld.env_dict")
    simulator = env_dict.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    # Meta-World ignores reset(seed=...): these make it sample goals and objects from its own generator (see reset).
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True
    simulator._set_task_called = True
    simulator._partially_observable = False
    simulator.__dict__.pop("sawyer_observation_space", None)
    simulator.max_path_length = sys.maxsize  # it would refuse to continue after 500 steps; gym.make sets the limit
    return simulator


@functools.cache
def _import_metaworld() -> None:
    """Import Meta-World with an OpenGL backend that works without a display."""
    missing = missing_packages("metaworld", "mujoco")
    if missing:
        raise DependencyNotInstalled(
            f"Meta-World is not installed ({' and '.join(missing)} not found); run `{SPEC.install}`. "
            f"The learned environment {SPEC.world_model_id} runs without it."
        )
    choose_gl_backend()
    try:
        importlib.import_module("metaworld")
    except Exception as error:  # OpenGL libraries fail in many ways
        raise RenderingError(
            f"Meta-World cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {GL_ADVICE}"
        ) from error


@functools.cache
def _expert(task: str) -> Any:
    return importlib.import_module("metaworld.policies").ENV_POLICY_MAP[f"{task}-v3"]()


SPEC = SimulatorSpec(
    name="MetaWorld",
    largest_reward=2 * 10 + SUCCESS_BONUS,
    entry_point="worldgym.envs.simulators.metaworld:SimulatorMetaWorld",
    tasks=PAPER_TASKS,
    action_names=ACTION_NAMES,
    frame_skip=ACTION_REPEAT,
    episode_steps=EPISODE_STEPS,
    render_fps=RENDER_FPS,
    install="pip install worldgym[metaworld]",
    checkpoint="metaworld-64",
    looks=("fast", "reference"),
    all_tasks=task_names,
    plain_task=plain_task_name,
    directions=DIRECTIONS,
)
