"""The simulator families: each is one file in ``simulators/`` that defines one :class:`SimulatorSpec`, ``SPEC``.

Everything outside those files asks this registry. Importing it imports no simulator.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.errors import DependencyNotInstalled, RenderingError, UnknownTask, nearest

WORLD_MODEL_ID = "WorldModel-v0"
LEARNED_ENV = "worldgym.envs.learned.env:WorldModelEnv"
LEARNED_VECTOR_ENV = "worldgym.envs.learned.vector_env:WorldModelVectorEnv"

Env = gym.Env[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True)
class SimulatorSpec:
    """All that the rest of worldgym needs to know of a simulator family.

    Attributes:
        name: X of the ids ``Simulator-X-v0`` and ``WorldModel-X-v0``; empty for the family ``Simulator-v0`` of any
            Gymnasium environment.
        entry_point: ``"module:Class"`` of the simulator's environment. The class takes ``task`` and ``render_mode``,
            and ``look`` where there are several. It is a :class:`gymnasium.Env` with the method ``expert_action()`` and
            the attribute ``task``.
        tasks: tasks that commands use unless told otherwise, and that can be named without the simulator installed.
        action_names: what each dimension of an action means.
        frame_skip: simulator steps in one environment step.
        episode_steps: environment steps after which an episode is truncated; None if the environments end theirs.
        render_fps: environment steps in a second of real time.
        install: the command that installs the simulator; empty if worldgym alone is enough.
        checkpoint: the shipped world model behind ``WorldModel-X-v0``; None if there is none.
        looks: ways in which the simulator can draw, the default first.
        all_tasks: names of all tasks, where there are more than ``tasks``. Calling it may need the simulator.
        plain_task: maps another name of a task to its plain one, such as ``"hammer-v3"`` to ``"hammer"``.
        largest_reward: of a usual step, about. Agents' presets scale rewards by it.
        directions: actions that move what acts to the right in the default picture, away (up in the picture), and, in
            three dimensions, off the ground; each has a value for every dimension of an action. Empty where nothing
            moves in the picture. Tests measure them.
    """

    name: str
    entry_point: str
    tasks: tuple[str, ...]
    action_names: tuple[str, ...]
    frame_skip: int
    episode_steps: int | None
    render_fps: int
    install: str = ""
    checkpoint: str | None = None
    looks: tuple[str, ...] = ("fast",)
    all_tasks: Callable[[], Sequence[str]] | None = None
    plain_task: Callable[[str], str] = str
    largest_reward: float = 1.0
    directions: tuple[tuple[float, ...], ...] = ()

    @property
    def simulator_id(self) -> str:
        """The Gymnasium id of the simulator."""
        return f"Simulator-{self.name}-v0" if self.name else "Simulator-v0"

    @property
    def world_model_id(self) -> str:
        """The Gymnasium id of the learned environment; registered only if there is a ``checkpoint``."""
        return f"WorldModel-{self.name}-v0" if self.name else WORLD_MODEL_ID

    def known_tasks(self) -> tuple[str, ...]:
        """Names of all tasks. May need the simulator."""
        return self.tasks if self.all_tasks is None else tuple(self.all_tasks())

    def check_task(self, task: str) -> str:
        """The plain name of a task.

        Raises:
            UnknownTask: if the family has no such task; names the nearest ones.
        """
        name = self.plain_task(task)
        if name not in self.tasks and name not in (known := self.known_tasks()):
            raise UnknownTask(f"{self.name} has no task {task!r}; {nearest(name, known)}")
        return name

    def make(self, task: str, **kwargs: Any) -> Env:
        """The simulator's environment without Gymnasium's wrappers, so without a time limit."""
        module, _, name = self.entry_point.partition(":")
        env: Env = getattr(importlib.import_module(module), name)(task=task, **kwargs)
        return env


@functools.cache
def specs() -> dict[str, SimulatorSpec]:
    """Every simulator family by its name."""
    folder = importlib.import_module("worldgym.envs.simulators")
    modules = (importlib.import_module(f"{folder.__name__}.{found.name}") for found in _modules(folder))
    found = [module.SPEC for module in modules if hasattr(module, "SPEC")]
    return {spec.name: spec for spec in found}


def _modules(folder: Any) -> list[pkgutil.ModuleInfo]:
    return sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name)


def find_spec(env_id: str) -> SimulatorSpec | None:
    """The family of an id such as ``Simulator-X-v0`` or ``WorldModel-X-v0``; None for any other id."""
    name = env_id.rpartition(":")[2]
    return next((spec for spec in specs().values() if name in (spec.simulator_id, spec.world_model_id)), None)


def find_task(task: str) -> tuple[SimulatorSpec, str]:
    """The family that has a task, and the task's plain name.

    Families are asked for the tasks that they can name without a simulator first, then those whose simulator is
    installed for all others; that of any Gymnasium environment comes last, because simulators add ids to it. A task
    with a colon is ``module:id`` of a Gymnasium environment.

    Raises:
        UnknownTask: if no family has the task; names the nearest ones of all families, and those not installed.
    """
    if ":" in task:
        return specs()[""], task
    families = sorted(specs().values(), key=lambda spec: not spec.name)
    for spec in families:
        if spec.plain_task(task) in spec.tasks:
            return spec, spec.plain_task(task)
    known: list[str] = []
    not_asked: list[str] = []
    for spec in families:
        try:
            names = spec.known_tasks()
        except (DependencyNotInstalled, RenderingError):
            names = spec.tasks
            not_asked.append(f"{spec.name} ({spec.install})")
        if spec.plain_task(task) in names:
            return spec, spec.plain_task(task)
        known += names
    advice = f"; not installed, so that only some of its tasks are known: {', '.join(not_asked)}" if not_asked else ""
    raise UnknownTask(f"no simulator has a task {task!r}; {nearest(task, known)}{advice}")


def register_envs() -> None:
    """Register the ids of all families, and ``WorldModel-v0`` for any checkpoint, with Gymnasium.

    Gymnasium's own order and space checks stay off: the environments check more, with messages that say what to do.
    Learned environments take their time limit from the checkpoint, so their registration has none.
    """
    options: dict[str, Any] = {"order_enforce": False, "disable_env_checker": True}
    learned = {"entry_point": LEARNED_ENV, "vector_entry_point": LEARNED_VECTOR_ENV, **options}
    gym.register(WORLD_MODEL_ID, **learned)
    for spec in specs().values():
        gym.register(spec.simulator_id, entry_point=spec.entry_point, max_episode_steps=spec.episode_steps, **options)
        if spec.checkpoint is not None:
            given = {"checkpoint": spec.checkpoint, "simulator": spec.simulator_id}
            gym.register(spec.world_model_id, kwargs=given, **learned)
