"""Meta-World behind worldgym's contract: one uint8 frame, actions in [-1, 1], action repeat 2, 100 steps.

Rewards are summed over the repeat and raised by 10 in every step that succeeds (paper, appendix A.5); the camera is
``corner``. The simulator itself stays within reach as ``env.unwrapped.simulator``.
"""

import atexit
import ctypes.util
import functools
import importlib
import importlib.util
import os
import sys
import warnings
import weakref
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.envs.contract import (
    METADATA,
    ActionSpace,
    Frame,
    action_space,
    checked_action,
    close_window,
    frame_space,
    show_frame,
)
from worldgym.envs.registry import SimulatorSpec
from worldgym.errors import DependencyNotInstalled, InvalidOption, RenderingError, ResetNeeded, UnknownTask, nearest

PAPER_TASKS = ("button-press-topdown-wall", "plate-slide", "hammer", "door-lock", "handle-pull-side", "coffee-push")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")
ACTION_REPEAT = 2
EPISODE_STEPS = 100
SUCCESS_BONUS = 10.0
RESOLUTION = 64
CAMERA = "corner"

Look = Literal["fast", "reference"]


def task_names() -> list[str]:
    """The plain names of all 50 tasks, such as ``plate-slide``."""
    _import_metaworld()
    env_dict = importlib.import_module("metaworld.env_dict")
    return sorted(name.removesuffix("-v3") for name in env_dict.ALL_V3_ENVIRONMENTS)


def plain_task_name(task: str) -> str:
    """``plate-slide`` for ``plate-slide`` or ``plate-slide-v3``; :class:`UnknownTask` names the nearest ones."""
    name = task.removesuffix("-v3")
    known = task_names()
    if name not in known:
        raise UnknownTask(f"Meta-World has no task {task!r}; {nearest(name, known)}")
    return name


class SimulatorMetaWorld(gym.Env[Frame, NDArray[np.float32]]):
    """The real Meta-World.

    Args:
        task: a plain name; ``-v3`` may follow.
        render_mode: ``rgb_array``, ``human`` or None.
        look: ``fast`` draws without shadows and reflections (several times faster without a GPU), ``reference``
            as the published recordings were drawn.

    Raises:
        UnknownTask: for a name that Meta-World does not have.
        DependencyNotInstalled: without the ``metaworld`` extra, or without an OpenGL library to draw offscreen.
        RenderingError: where the OpenGL library is there and fails.
    """

    metadata = METADATA
    action_space: ActionSpace

    def __init__(self, task: str = "plate-slide", render_mode: str | None = None, look: Look = "fast") -> None:
        if look not in ("fast", "reference"):
            raise InvalidOption(f"look must be 'fast' or 'reference', got {look!r}")
        if render_mode not in (None, "rgb_array", "human"):
            raise InvalidOption(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
        self.task = plain_task_name(task)
        self.render_mode = render_mode
        self.observation_space = frame_space(RESOLUTION)
        self.action_space = action_space(len(ACTION_NAMES))
        self.simulator = self._build_simulator()
        self._camera = _Camera(self.simulator, look)
        self._frame: Frame | None = None
        self.state: NDArray[np.float64] | None = None

    def _build_simulator(self) -> Any:
        env_dict = importlib.import_module("metaworld.env_dict")
        simulator = env_dict.ALL_V3_ENVIRONMENTS[f"{self.task}-v3"]()
        # Meta-World ignores reset(seed=...): these make it draw goals and objects from its own generator (see reset).
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        simulator._set_task_called = True
        simulator._partially_observable = False
        simulator.__dict__.pop("sawyer_observation_space", None)
        simulator.max_path_length = sys.maxsize  # it would refuse to go on after 500 steps; gym.make sets the limit
        return simulator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Start an episode; equal seeds give equal episodes. ``options`` takes nothing.

        Returns:
            The frame, uint8 ``[64, 64, 3]``, and ``info`` with ``success``, ``task`` and ``state`` (the simulator's
            own observation, float64 ``[39]``).
        """
        super().reset(seed=seed)
        if options:
            raise InvalidOption(f"Simulator-MetaWorld-v0 takes no reset options, got {sorted(options)}")
        self.simulator.seed(int(self.np_random.integers(2**31)))
        self.simulator.reset()
        # One idle step, as in the reference recordings: only a step moves goal markers to their places.
        self.state, _, _, _, result = self.simulator.step(np.zeros(4, np.float32))
        return self._observe(), self._info(bool(result["success"]))

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Apply the action for two simulator steps.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        if self._frame is None:
            raise ResetNeeded("step() came before reset(); call env.reset() first")
        clipped = checked_action(action, self.action_space)
        reward, success = 0.0, False
        for _ in range(ACTION_REPEAT):
            self.state, part, _, _, result = self.simulator.step(clipped)
            reward += float(part)
            success = success or bool(result["success"])
        reward += SUCCESS_BONUS * success
        return self._observe(), reward, False, False, self._info(success)

    def expert_action(self) -> NDArray[np.float32]:
        """What Meta-World's scripted expert would do now, float32 ``[4]`` in [-1, 1]."""
        if self.state is None:
            raise ResetNeeded("expert_action() came before reset(); call env.reset() first")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant.s. may be too high")  # the experts' own, nearly always
            action: NDArray[np.float64] = _expert(self.task).get_action(self.state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def render(self) -> Frame | None:
        """The current frame in mode ``rgb_array``; in mode ``human`` it is shown in a window."""
        if self._frame is None:
            raise ResetNeeded("render() came before reset(); call env.reset() first")
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderer and the simulator."""
        self._frame = self.state = None
        if self.render_mode == "human":
            close_window(self._title)
        self._camera.close()
        self.simulator.close()

    def _observe(self) -> Frame:
        self._frame = self._camera.frame()
        if self.render_mode == "human":
            show_frame(self._frame, self._title)
        return self._frame.copy()

    @property
    def _title(self) -> str:
        return f"Meta-World {self.task}"

    def _info(self, success: bool) -> dict[str, Any]:
        assert self.state is not None
        return {"success": success, "task": self.task, "state": self.state.copy()}


class _Camera:
    """One offscreen renderer an environment.

    Gymnasium's renderer shares one OpenGL context among all environments of a process and then shows the wrong one;
    MuJoCo's own renderer does not.
    """

    def __init__(self, simulator: Any, look: Look) -> None:
        import mujoco

        self._simulator, self._look, self._mujoco = simulator, look, mujoco
        try:
            self._renderer: Any = mujoco.Renderer(simulator.model, RESOLUTION, RESOLUTION)
        except Exception as error:  # OpenGL libraries fail in ways of their own, from ImportError to mujoco.FatalError
            raise RenderingError(
                f"MuJoCo cannot draw offscreen with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {_GL_ADVICE}"
            ) from error
        self._close = weakref.finalize(self, self._renderer.close)  # also when an environment is dropped
        _CAMERAS.add(self)
        _close_cameras_at_exit()

    def frame(self) -> Frame:
        """The scene as it stands, uint8 ``[64, 64, 3]``, the right way up."""
        self._renderer.update_scene(self._simulator.data, camera=CAMERA)
        if self._look == "fast":
            flags = self._mujoco.mjtRndFlag
            self._renderer.scene.flags[flags.mjRND_SHADOW] = 0
            self._renderer.scene.flags[flags.mjRND_REFLECTION] = 0
        frame = np.ascontiguousarray(self._renderer.render()[::-1])  # Meta-World mounts this camera upside down
        if frame.min() == frame.max():
            raise RenderingError(f"MuJoCo drew an empty picture: every pixel is {frame.min()}. {_GL_ADVICE}")
        return frame

    def close(self) -> None:
        self._close()


_CAMERAS = weakref.WeakSet[_Camera]()


@functools.cache
def _close_cameras_at_exit() -> None:
    """When a process ends, what was registered last goes first.

    So renderers are freed before the OpenGL that MuJoCo set up for the first of them, without which each complains.
    """
    atexit.register(_close_cameras)


def _close_cameras() -> None:
    for camera in list(_CAMERAS):
        camera.close()


_GL_ADVICE = (
    "On Debian or Ubuntu: `apt-get install libegl1 libgl1` and MUJOCO_GL=egl (a GPU is not needed), "
    "or `apt-get install libosmesa6` and MUJOCO_GL=osmesa."
)


@functools.cache
def _import_metaworld() -> None:
    """Import Meta-World with an OpenGL backend that works without a display."""
    missing = [name for name in ("metaworld", "mujoco") if not _is_installed(name)]
    if missing:
        raise DependencyNotInstalled(
            f"Meta-World is not installed ({' and '.join(missing)} not found); run `pip install worldgym[metaworld]`. "
            "The learned environment WorldModel-MetaWorld-v0 runs without it."
        )
    _choose_gl_backend()
    try:
        importlib.import_module("metaworld")
    except Exception as error:  # OpenGL libraries fail in ways of their own
        raise RenderingError(
            f"Meta-World cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {_GL_ADVICE}"
        ) from error


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it stands in sys.modules without a spec
        return sys.modules[name] is not None


def _choose_gl_backend() -> None:
    """On a Linux machine without a display MuJoCo needs MUJOCO_GL before it is imported."""
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
    raise DependencyNotInstalled(f"no OpenGL library found to draw Meta-World without a display. {_GL_ADVICE}")


@functools.cache
def _expert(task: str) -> Any:
    return importlib.import_module("metaworld.policies").ENV_POLICY_MAP[f"{task}-v3"]()


SPEC = SimulatorSpec(
    name="MetaWorld",
    entry_point="worldgym.envs.simulators.metaworld:SimulatorMetaWorld",
    tasks=PAPER_TASKS,
    action_names=ACTION_NAMES,
    frame_skip=ACTION_REPEAT,
    episode_steps=EPISODE_STEPS,
    render_fps=40,
    install="pip install worldgym[metaworld]",
    checkpoint="metaworld-64",
    looks=("fast", "reference"),
    all_tasks=task_names,
    plain_task=lambda task: task.removesuffix("-v3"),
)
