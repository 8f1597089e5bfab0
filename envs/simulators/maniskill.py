"""ManiSkill 3: one frame of the task's own video camera, end-effector deltas in [-1, 1], dense rewards.

Physics and drawing run on the CPU. Every task ends by its own time limit alone, which success does not cut short.
"""

import contextlib
import functools
import importlib
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.pictures import resized
from worldgym.envs.contract import (
    Frame,
    FrameEnv,
    Info,
    Options,
    action_space,
    checked_action,
    checked_options,
    metadata,
    no_expert,
)
from worldgym.envs.mujoco_camera import choose_gl_backend
from worldgym.envs.packages import missing_packages
from worldgym.envs.registry import SimulatorSpec
from worldgym.envs.simulators.maniskill_experts import EXPERTS
from worldgym.errors import ConfigError, DependencyNotInstalled, InvalidOption, RenderingError

TASKS = ("PickCube-v1", "LiftPegUpright-v1", "PegInsertionSide-v1", "PushT-v1", "StackCube-v1")
ACTION_NAMES = ("dx", "dy", "dz", "rotate_x", "rotate_y", "rotate_z", "gripper")
CONTROL_MODE = "pd_ee_delta_pose"
REWARD_MODES = ("dense", "normalized_dense", "sparse", "none")
"""The first that a task has is taken."""
RENDER_FPS = 20  # control steps a second
RESOLUTION = 64
DRAWN_RESOLUTION = 128  # then averaged, because ManiSkill draws without multisampling
VULKAN_ADVICE = (
    "ManiSkill needs a Vulkan driver. On Debian or Ubuntu: `apt-get install libvulkan1 mesa-vulkan-drivers` (a GPU is "
    "not needed, but Mesa 22.3 of Debian 12 is too old: take 25.0 from bookworm-backports)."
)


def task_names() -> list[str]:
    """The ids of all of ManiSkill's tasks, such as ``PickCube-v1``."""
    return sorted(_registered())


class SimulatorManiSkill(FrameEnv):
    """A ManiSkill task. ``simulator`` is ManiSkill's own environment, a batch of one.

    The action is ``(dx, dy, dz, rotate_x, rotate_y, rotate_z, gripper)``: 1 is 0.1 m or 0.1 rad a step, and an open
    gripper. Robots without a gripper (``PushT-v1``) ignore the last value. Frames show the marks of goals that
    ManiSkill hides from its own image observations. An environment can be neither copied nor pickled.

    Args:
        task: an id of ManiSkill's, such as ``PickCube-v1``.
        render_mode: ``rgb_array``, ``human`` or None.

    Raises:
        UnknownTask: for a task that ManiSkill does not have.
        InvalidOption: for a task whose robot takes no end-effector deltas.
        DependencyNotInstalled: without the ``maniskill`` extra, or without files that the task needs.
        RenderingError: without a Vulkan driver that works.
    """

    metadata = metadata(RENDER_FPS)
    frame_skip = 1

    def __init__(self, task: str = TASKS[0], render_mode: str | None = None) -> None:
        self.task = SPEC.check_task(task)
        super().__init__(RESOLUTION, action_space(len(ACTION_NAMES)), f"{SPEC.name} {self.task}", render_mode)
        self.simulator = _make_simulator(self.task)
        self.episode_steps: int | None = _registered()[self.task].max_episode_steps
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode; equal seeds give equal episodes. There are no options.

        Returns:
            The frame, uint8 ``[64, 64, 3]``, and ``info`` with ``success`` and ``task``.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        checked_options(options)
        _, result = self.simulator.reset(seed=int(self.np_random.integers(2**31)))
        self._elapsed = 0
        return self._show(self._draw()), self._info(result)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply the action, float32 ``[7]``. The task's time limit truncates the episode.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._current_frame("step")
        clipped = checked_action(action, self.action_space)
        taken = clipped[: self.simulator.single_action_space.shape[0]]
        _, reward, _, _, result = self.simulator.step(taken)
        self._elapsed += 1
        truncated = self.episode_steps is not None and self._elapsed >= self.episode_steps
        return self._show(self._draw()), float(reward), False, truncated, self._info(result)

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

    def close(self) -> None:
        """Free the scene and its renderer."""
        super().close()
        self.simulator.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A scene of SAPIEN's lives in one process. Raises ConfigError."""
        raise ConfigError(f"{SPEC.simulator_id} can be neither copied nor pickled: make another one, with gym.make")

    def _draw(self) -> Frame:
        camera = next(iter(self.simulator.scene.human_render_cameras))
        picture: Frame = self.simulator.render_rgb_array(camera)[0].numpy()
        if picture.min() == picture.max():
            raise RenderingError(f"ManiSkill drew an empty picture: every pixel is {picture.min()}. {VULKAN_ADVICE}")
        return resized(picture, RESOLUTION)

    def _info(self, result: dict[str, Any]) -> Info:
        return {"success": bool(result.get("success", False)), "task": self.task}


def _make_simulator(task: str) -> Any:
    registered = _registered()[task]
    _check_files(task, registered.asset_download_ids or [])
    supported = registered.cls.SUPPORTED_REWARD_MODES
    size = {"width": DRAWN_RESOLUTION, "height": DRAWN_RESOLUTION}
    try:
        simulator = registered.cls(
            **registered.default_kwargs,
            obs_mode="none",
            control_mode=CONTROL_MODE,
            reward_mode=next(mode for mode in REWARD_MODES if mode in supported),
            render_mode="rgb_array",
            sim_backend="physx_cpu",
            render_backend="cpu",
            human_render_camera_configs=size,
        )
    except (AssertionError, KeyError) as error:  # what ManiSkill raises for a control mode that a robot does not have
        raise _no_deltas(task, str(error)) from error
    except EOFError as error:  # it asks on the terminal whether to download a robot
        raise DependencyNotInstalled(f"{task} needs files of its robot; make it once in a terminal") from error
    except RuntimeError as error:
        if "download_asset" in str(error):
            raise DependencyNotInstalled(f"{task} needs files that are not there: {error}") from error
        raise RenderingError(f"{task} cannot be drawn: {error}. {VULKAN_ADVICE}") from error
    space = simulator.single_action_space
    if space.shape not in ((len(ACTION_NAMES),), (len(ACTION_NAMES) - 1,)):
        simulator.close()
        raise _no_deltas(task, f"actions {space}")
    return simulator


def _no_deltas(task: str, got: str) -> InvalidOption:
    return InvalidOption(
        f"{task}: expected a robot of one arm with the control mode {CONTROL_MODE!r}, got {got}; choose another task"
    )


def _check_files(task: str, needed: list[str]) -> None:
    """Raise DependencyNotInstalled if files are missing: ManiSkill itself would ask on the terminal."""
    assets = importlib.import_module("mani_skill.utils.assets")
    for name in needed:
        sources = assets.DATA_GROUPS.get(name, [name])
        if not all(assets.is_data_source_downloaded(source) for source in sources):
            raise DependencyNotInstalled(
                f"{task} needs the files {name!r}, which are not there; run "
                f"`python -m mani_skill.utils.download_asset {name}`"
            )


def _registered() -> dict[str, Any]:
    _import_maniskill()
    registered: dict[str, Any] = importlib.import_module("mani_skill.utils.registration").REGISTERED_ENVS
    return registered


@functools.cache
def _import_maniskill() -> None:
    missing = missing_packages("mani_skill", "sapien")
    if missing:
        raise DependencyNotInstalled(
            f"ManiSkill is not installed ({' and '.join(missing)} not found); run `{SPEC.install}`. {VULKAN_ADVICE}"
        )
    # It imports MuJoCo, which other simulators draw with, and which chooses how to draw when it is imported.
    with contextlib.suppress(DependencyNotInstalled):
        choose_gl_backend()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies
            importlib.import_module("mani_skill.envs")
    except (ImportError, OSError) as error:
        raise DependencyNotInstalled(
            f"ManiSkill cannot be imported: {error}. On Debian or Ubuntu: `apt-get install libgl1 libglib2.0-0`. "
            f"{VULKAN_ADVICE}"
        ) from error
    logging.getLogger("mani_skill").setLevel(logging.ERROR)


SPEC = SimulatorSpec(
    name="ManiSkill",
    largest_reward=5.0,
    entry_point="worldgym.envs.simulators.maniskill:SimulatorManiSkill",
    tasks=TASKS,
    action_names=ACTION_NAMES,
    frame_skip=1,
    episode_steps=None,
    render_fps=RENDER_FPS,
    install="pip install worldgym[maniskill]",
    all_tasks=task_names,
    checkpoint="maniskill-64",
)
