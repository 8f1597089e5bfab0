"""A toy world in which an agent needs many steps: eight bars have to be set, each by its own action."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.simulators.toy_world import RESOLUTION, Canvas, State, ToyWorld

BARS = 8
CELL = 8  # pixels along a side: a frame has 4 x 4 cells, and each bar its own
CELLS = np.linspace(0, (RESOLUTION // CELL) ** 2 - 1, BARS).round().astype(int)
HEIGHT = 7.0  # pixels, of a bar that is full; an action of 1 raises it by one of them
LEVELS = 2.0 + np.arange(BARS) * 7 % 4  # pixels, where the bars should stand
NEAR = 0.75  # pixels

FLOOR_COLOUR = (128, 128, 128)  # mid-grey: 0 after pixels are centred
EMPTY_COLOUR = (80, 80, 80)
FULL_COLOUR = (250, 140, 30)


class SimulatorDials(ToyWorld):
    """Eight bars that are raised and lowered, each to its own level, which no frame shows.

    A reward says little about which action caused it, also when the same steps are used more often: an agent alone
    needs many steps. How a bar moves can be learned from a few hundred, because it stays within its cell.

    The reward is the mean of ``1 / (1 + d^2)`` over the bars, ``d`` pixels from their levels after the move. It counts
    as success while no bar is further than 3/4 of a pixel from its own.

    ``info["state"]``: heights of the bars in pixels, float64 ``[8]``.
    """

    spec_name: ClassVar[str] = "Dials"
    action_dim: ClassVar[int] = BARS

    @classmethod
    def bounds(cls) -> tuple[State, State]:
        """Empty and full."""
        return np.zeros(BARS), np.full(BARS, HEIGHT)

    def _sample_state(self) -> State:
        return self.np_random.uniform(0, HEIGHT, BARS)

    def _next_state(self, action: NDArray[np.float32]) -> State:
        return np.clip(self.state + action, *self.bounds())

    def _unbounded_expert_action(self) -> State:
        return LEVELS - self.state

    def _reward(self) -> float:
        return float(np.mean(1 / (1 + (self.state - LEVELS) ** 2)))

    def _succeeds(self) -> bool:
        return bool(np.abs(self.state - LEVELS).max() <= NEAR)

    def _canvas(self) -> Canvas:
        canvas = np.full((RESOLUTION, RESOLUTION, 3), FLOOR_COLOUR, np.float32)
        for height, cell in zip(self.state, CELLS, strict=True):
            top, left = CELL * (cell // 4), CELL * (cell % 4)
            full = np.clip(height - np.arange(HEIGHT), 0, 1)[::-1, None, None]  # from the top
            colours = np.array(EMPTY_COLOUR) + full * (np.array(FULL_COLOUR) - EMPTY_COLOUR)
            canvas[top : top + CELL - 1, left + 1 : left + CELL - 1] = colours
        return canvas


SPEC = SimulatorDials.make_spec(tuple(f"bar {bar}" for bar in range(BARS)))
