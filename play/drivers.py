"""Whoever acts in place of the person: the simulator's expert, an agent, a planner."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.envs.behaviours import Behaviour
from worldgym.errors import DataError, InvalidOption, WorldGymError, nearest
from worldgym.play.planner import Stopped
from worldgym.play.recorder import Moment

EXPERT, POLICY, PLANNER = "expert", "policy", "planner"


class Driver(NamedTuple):
    """Somebody who can take over."""

    label: str
    """Its name on the page."""
    behaviour: Behaviour
    """Begins to act from the current frame on; it gets a :class:`SeenSession` as its environment."""


class SeenSession:
    """A session as the environment that a driver sees.

    Args:
        observation_space: of the frames.
        action_space: of the actions.
        moments: the episode so far; of futures the first.
    """

    def __init__(
        self,
        observation_space: gym.spaces.Space[Any],
        action_space: gym.spaces.Space[Any],
        moments: Callable[[], Sequence[Moment]],
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._moments = moments
        self.stopped: Callable[[], bool] = bool

    @property
    def frame(self) -> NDArray[np.uint8]:
        """The current frame, uint8 ``[H, W, 3]``."""
        return self._moments()[-1].frame.copy()

    def past(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
        """The frames before the current one, and the actions as vectors, float32 ``[A]``, after each of them."""
        moments = self._moments()
        vectors = [moment.vector for moment in moments if moment.vector is not None]
        return [moment.frame for moment in moments[:-1]], vectors


class Drivers:
    """Lets one driver act at a time. A driver that comes back begins anew.

    Args:
        seen: what they see.
    """

    def __init__(self, seen: SeenSession) -> None:
        self._seen = seen
        self._name, self._act = "", self._nobody

    def act(self, name: str, known: Mapping[str, Driver], seed: int, stopped: Callable[[], bool]) -> Any:
        """The action of a driver.

        Args:
            name: of the driver.
            known: the drivers that can act now.
            seed: of a driver that takes over.
            stopped: whether the person has taken over again; a driver that takes long asks now and then.

        Raises:
            InvalidOption: for a name that is not known.
            Stopped: if the person has taken over.
            DataError: if a policy of somebody else's fails.
        """
        if name not in known:
            raise InvalidOption(f"nobody is called {name!r} here; {nearest(name, known)}")
        self._seen.stopped = stopped
        try:
            if name != self._name:
                self._act = known[name].behaviour(self._seen, np.random.default_rng(seed))
                self._name = name
            return self._act()
        except (WorldGymError, Stopped):
            self.leave()
            raise
        except Exception as error:  # whatever an agent of the user's may raise
            self.leave()
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{known[name].label} failed: {reason}; drive yourself, or mend it") from error

    def leave(self) -> None:
        """The driver's turn ends: the person acts, or the past is another one."""
        self._name, self._act = "", self._nobody

    @staticmethod
    def _nobody() -> Any:
        raise AssertionError
