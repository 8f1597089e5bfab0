"""The simulator of a session: whether there is one, and what it shows of the episode."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.config import WorldModelConfig
from worldgym.envs.actions import ActionCodec
from worldgym.errors import DependencyNotInstalled, InvalidOption, RenderingError, UnknownTask
from worldgym.play.recorder import Moment
from worldgym.play.simulator import Follower


class Beside:
    """The simulator beside the learned environment, made when an episode needs it.

    Args:
        wanted: False runs none.
        config: of the world model.
        codec: of its actions.

    Attributes:
        simulator: the simulator of the task; None if there is none.
        follows: whether it began where the episode did, and takes its actions.
        why_not: why there is none, or why it does not follow; empty if it does.
    """

    def __init__(self, wanted: bool, config: WorldModelConfig, codec: ActionCodec) -> None:
        self._wanted, self._config, self._codec = wanted, config, codec
        self._task: str | None = None
        self.simulator: Follower | None = None
        self.follows = False
        self.why_not = "" if wanted else "Switched off by --no-simulator."

    @property
    def has_expert(self) -> bool:
        """Whether a scripted expert can act in this episode."""
        return self.follows and self.simulator is not None and self.simulator.has_expert

    def begin(self, task: str, seed: int) -> NDArray[np.uint8] | None:
        """The simulator's first frame of an episode, uint8 ``[H, W, 3]``; None if it cannot run here."""
        self.follows = False
        simulator = self._find(task)
        if simulator is None:
            return None
        frame = simulator.reset(seed)
        self.follows, self.why_not = True, ""
        return frame

    def leave(self, reason: str) -> None:
        """An episode begins that the simulator cannot follow."""
        self.follows = False
        if self._wanted:
            self.why_not = reason

    def rewind(self, steps: int) -> None:
        """Go back with the episode to where it had this many steps."""
        if self.simulator is not None and self.follows:
            self.simulator.rewind(steps)

    def follow(self, moments: Sequence[Moment]) -> Moment:
        """The newest moment, with what the simulator shows after the same actions if it follows."""
        if self.simulator is None or not self.follows:
            return moments[-1]
        real = self.simulator.follow(_actions(moments))
        if real is None:
            return moments[-1]
        return dataclasses.replace(
            moments[-1],
            real=real.frame,
            real_reward=real.reward,
            real_success=real.success,
            real_ended=real.terminated or real.truncated,
            real_terminated=real.terminated,
        )

    def expert_action(self, moments: Sequence[Moment]) -> Any:
        """What the scripted expert does next."""
        assert self.simulator is not None
        return self.simulator.expert_action(_actions(moments))

    def keys(self) -> dict[tuple[str, ...], int]:
        """The simulator's own keys, if there are any."""
        return {} if self.simulator is None else self.simulator.keys()

    def close(self) -> None:
        """Free the simulator."""
        if self.simulator is not None:
            self.simulator.close()
        self.simulator, self._task, self.follows = None, None, False

    def _find(self, task: str) -> Follower | None:
        if not self._wanted:
            return None
        if self._config.goal_conditioned:
            self.leave("The world model needs a goal, which the simulator does not show.")
            return None
        if self._task != task:
            self.close()
            try:
                self.simulator = Follower(task, self._config, self._codec)
            except (UnknownTask, DependencyNotInstalled, RenderingError, InvalidOption) as error:
                self.leave(str(error))
                return None
            self._task = task
        return self.simulator


def _actions(moments: Sequence[Moment]) -> list[Any]:
    return [moment.action for moment in moments[1:]]
