"""States of robosuite, and of LIBERO, which runs on it, that are saved and restored exactly.

robosuite keeps the state of an episode in MuJoCo's data, in a few fields of MuJoCo's model, and in the attributes of
many Python objects: goals of controllers, the gripper's command, buffers, counters of tasks.
"""

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.simulators.restoring import RestorableEnv

PACKAGES = ("robosuite.", "libero.")
STATELESS = ("robosuite.utils.binding_utils", "robosuite.utils.placement_samplers", "robosuite.models.")
GRIPPERS = "robosuite.models.grippers"  # of the models, they alone keep something: their newest command
MODEL_FIELDS = ("body_pos", "body_quat", "geom_rgba", "site_rgba")
"""What resets (furniture, marks to wipe) and steps (wiped marks, a burning stove) change in MuJoCo's model."""
PLAIN = (bool, int, float, str, bytes, type(None), np.ndarray, np.generic)
CONTAINERS = (list, tuple, set, deque)


class EpisodeState(NamedTuple):
    """A moment of an episode."""

    task: str
    data: Any
    """MuJoCo's data, a copy."""
    model: dict[str, NDArray[Any]]
    """:data:`MODEL_FIELDS`."""
    parts: dict[str, dict[str, Any]]
    """Attributes of robosuite's objects, by the objects' paths."""
    marks: frozenset[str]
    """Names of the marks that are wiped away."""
    rng: dict[str, Any]
    """State of the generator that the samplers of positions share."""
    own: dict[str, Any]
    """Attributes of the environment."""


class RobosuiteEnv(RestorableEnv[EpisodeState]):
    """An environment on robosuite whose episode can be continued from any moment."""

    @property
    @abstractmethod
    def _robosuite(self) -> Any:
        """robosuite's environment."""

    def _state(self) -> EpisodeState:
        simulator = self._robosuite
        sim, rng = simulator.sim, simulator.rng.bit_generator.state
        model = {name: getattr(sim.model, name).copy() for name in MODEL_FIELDS}
        parts = {path: _plain_attributes(part) for path, part in _parts(simulator)}
        marks = frozenset(mark.name for mark in getattr(simulator, "wiped_markers", ()))
        own = {name: getattr(self, name) for name in self.OWN}
        # One copy of all, because parts share arrays.
        return EpisodeState(self.task, copy.copy(sim.data._data), model, *copy.deepcopy((parts, marks, rng, own)))

    def _restore(self, state: EpisodeState) -> None:
        simulator = self._robosuite
        parts, rng, own = copy.deepcopy((state.parts, state.rng, state.own))
        simulator.sim.data._data = copy.copy(state.data)
        for name, values in state.model.items():
            getattr(simulator.sim.model, name)[:] = values
        for path, part in _parts(simulator):
            vars(part).update(parts[path])
        if state.marks or hasattr(simulator, "wiped_markers"):
            marks = simulator.model.mujoco_arena.markers
            simulator.wiped_markers = [mark for mark in marks if mark.name in state.marks]
        simulator.rng.bit_generator.state = rng
        self.__dict__.update(own)


def _parts(root: Any) -> Iterator[tuple[str, Any]]:
    """robosuite's own objects that may hold something of an episode's state, with their paths from the environment."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            waiting += [(f"{path}[{key!r}]", value) for key, value in found.items()]
        elif isinstance(found, list | tuple):
            waiting += [(f"{path}[{index}]", value) for index, value in enumerate(found)]
        elif found is root or _has_state(found):  # a task of our own is in no package of robosuite's
            yield path, found
            waiting += [(f"{path}.{name}", value) for name, value in vars(found).items()]


def _has_state(found: Any) -> bool:
    module = type(found).__module__
    if not module.startswith(PACKAGES) or not hasattr(found, "__dict__"):
        return False
    return module.startswith(GRIPPERS) or not module.startswith(STATELESS)


def _plain_attributes(part: Any) -> dict[str, Any]:
    """Attributes that are numbers, words, arrays or collections of them: other objects are parts themselves."""
    return {name: value for name, value in vars(part).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, CONTAINERS) else isinstance(value, PLAIN)
