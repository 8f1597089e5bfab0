"""The simulator beside the learned environment: it follows an episode's actions, also after a rewind."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.config import WorldModelConfig
from worldgym.envs.actions import ActionCodec
from worldgym.envs.registry import SimulatorSpec, find_task
from worldgym.errors import DataError, InvalidOption, WorldGymError

SAVE_EVERY = 10  # steps between two states that are kept, to which a rewind returns


class Real(NamedTuple):
    """One step of the simulator."""

    frame: NDArray[np.uint8]
    """uint8 ``[H, W, 3]``."""
    reward: float
    success: bool
    terminated: bool
    truncated: bool


class Follower:
    """A simulator that takes the actions of an episode.

    Args:
        task: its task.
        config: of the world model that it stands beside.
        codec: the model's action space, which the simulator must have too.

    Attributes:
        spec: the simulator's family.
        env: the simulator.

    Raises:
        UnknownTask: if no simulator has the task.
        DependencyNotInstalled, RenderingError: if the simulator cannot run here.
        InvalidOption: if its frames or actions are not those of the model.
    """

    def __init__(self, task: str, config: WorldModelConfig, codec: ActionCodec) -> None:
        self.spec, name = find_task(task)
        self.env: Any = self.spec.make(name, **_options(self.spec, config))
        frame, expected = self.env.observation_space.shape, (config.resolution, config.resolution, 3)
        if frame != expected or self.env.action_space != codec.space:
            self.env.close()
            raise InvalidOption(
                f"{self.spec.simulator_id} {task!r}: expected frames {expected} and the action space {codec.space} of "
                f"the checkpoint, got {frame} and {self.env.action_space}"
            )
        self._seed, self._steps, self._stale = 0, 0, True
        self._last: Real | None = None
        self._saved: dict[int, tuple[Any, Real | None]] = {}  # states and last steps, by the number of steps

    @property
    def has_expert(self) -> bool:
        """Whether the simulator has a scripted expert."""
        return hasattr(self.env, "expert_action")

    def keys(self) -> dict[tuple[str, ...], int]:
        """The simulator's own keys: actions of keys that are held together; empty if it has none."""
        found: dict[tuple[str, ...], int] = self.env.keys() if hasattr(self.env, "keys") else {}
        return found

    def reset(self, seed: int) -> NDArray[np.uint8]:
        """Start an episode; the first frame, uint8 ``[H, W, 3]``."""
        frame: NDArray[np.uint8] = self.env.reset(seed=seed)[0]
        self._seed, self._steps, self._stale, self._last, self._saved = seed, 0, False, None, {}
        return frame

    def rewind(self, steps: int) -> None:
        """Go back to where the episode had this many steps.

        :meth:`follow` then takes the steps before it again: all of them, or, where the simulator's state can be
        restored, those since the newest saved state.
        """
        self._stale = self._stale or steps < self._steps
        self._saved = {number: moment for number, moment in self._saved.items() if number <= steps}

    def follow(self, actions: Sequence[Any]) -> Real | None:
        """Take the actions of the episode that were not taken yet.

        Args:
            actions: all actions since the reset.

        Returns:
            The last step; None if the simulator's episode ended before it.

        Raises:
            DataError: if the simulator fails.
        """
        try:
            if self._stale:
                self._go_back()
            for action in actions[self._steps :]:
                self._last = None if self._ended else self._step(action)
                self._steps += 1
                if self._steps % SAVE_EVERY == 0 and hasattr(self.env, "get_state"):
                    self._saved[self._steps] = self.env.get_state(), self._last
        except WorldGymError:
            raise
        except Exception as error:  # whatever a simulator may raise
            raise DataError(f"the simulator failed: {type(error).__name__}: {error}; start a new episode") from error
        return self._last

    def expert_action(self, actions: Sequence[Any]) -> Any:
        """What the scripted expert does after these actions. Raises DataError if the simulator's episode ended."""
        self.follow(actions)
        if self._ended:
            raise DataError("the expert acts in the simulator, whose episode has ended: start a new episode")
        return self.env.expert_action()

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    @property
    def _ended(self) -> bool:
        return self._steps > 0 and (self._last is None or self._last.terminated or self._last.truncated)

    def _go_back(self) -> None:
        """To the newest saved state, or to the beginning."""
        if not self._saved:
            self.reset(self._seed)
            return
        self._steps = max(self._saved)
        state, self._last = self._saved[self._steps]
        self.env.set_state(state)
        self._stale = False

    def _step(self, action: Any) -> Real:
        frame, reward, terminated, truncated, info = self.env.step(action)
        return Real(frame, float(reward), bool(info.get("success", False)), bool(terminated), bool(truncated))


def _options(spec: SimulatorSpec, config: WorldModelConfig) -> dict[str, Any]:
    """Arguments that make the simulator draw as in the model's training data."""
    if not spec.name:
        return {"resolution": config.resolution, "frame_skip": config.frame_skip or 1}
    trained_on = config.training_data.get("trained_on", {})
    look = trained_on.get("look") if isinstance(trained_on, dict) else None
    return {"look": look} if look in spec.looks[1:] else {}
