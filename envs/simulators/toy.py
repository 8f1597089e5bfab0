"""A toy world: an orange square has to be moved onto a blue one."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.simulators.toy_world import RESOLUTION, Canvas, State, ToyWorld

# All lengths are in pixels; x grows to the right, y downwards.
WALL = 2.0
AGENT_SIZE = 5.0
GOAL_SIZE = 9.0
SPEED = 2.0  # of action 1, a step
START_DISTANCE = 10.0  # at least, from centre to centre
HALF_REWARD_DISTANCE = 5.0

WALL_COLOUR = (80, 80, 80)
FLOOR_COLOUR = (128, 128, 128)  # mid-grey: 0 after pixels are centred
GOAL_COLOUR = (40, 110, 230)
AGENT_COLOUR = (250, 140, 30)

Point = NDArray[np.float64]
"""x and y of a square's centre, float64 ``[2]``."""

_PIXEL_EDGES = np.arange(RESOLUTION + 1, dtype=np.float64)


class SimulatorToy(ToyWorld):
    """Two squares between walls.

    The action ``(dx, dy)`` moves the orange square by up to 2 pixels along each axis; walls stop it. The reward is
    ``1 / (1 + (d / 5)^2)`` with ``d`` the distance in pixels between the centres after the move: 1 on the goal, 1/2
    five pixels away. It counts as success while the orange square lies wholly within the blue one.

    ``info["state"]``: x and y of agent and goal in pixels, float64 ``[4]``.
    """

    spec_name: ClassVar[str] = "Toy"
    action_dim: ClassVar[int] = 2

    @classmethod
    def bounds(cls) -> tuple[State, State]:
        """Both squares inside the walls."""
        low, high = np.array([_room(AGENT_SIZE), _room(GOAL_SIZE)]).repeat(2, axis=0).T
        return low, high

    def _sample_state(self) -> State:
        goal = self.np_random.uniform(*_room(GOAL_SIZE), 2)
        agent = self.np_random.uniform(*_room(AGENT_SIZE), 2)
        while math.dist(agent, goal) < START_DISTANCE:
            agent = self.np_random.uniform(*_room(AGENT_SIZE), 2)
        return np.concatenate([agent, goal])

    def _next_state(self, action: NDArray[np.float32]) -> State:
        return np.concatenate([np.clip(self._agent + SPEED * action, *_room(AGENT_SIZE)), self._goal])

    def _unbounded_expert_action(self) -> State:
        return (self._goal - self._agent) / SPEED

    def _reward(self) -> float:
        return 1.0 / (1.0 + (math.dist(self._agent, self._goal) / HALF_REWARD_DISTANCE) ** 2)

    def _succeeds(self) -> bool:
        return bool(np.abs(self._goal - self._agent).max() <= (GOAL_SIZE - AGENT_SIZE) / 2)

    def _canvas(self) -> Canvas:
        goal = _painted(_EMPTY_ROOM, self._goal, GOAL_SIZE, GOAL_COLOUR)
        return _painted(goal, self._agent, AGENT_SIZE, AGENT_COLOUR)

    @property
    def _agent(self) -> Point:
        return self.state[:2]

    @property
    def _goal(self) -> Point:
        return self.state[2:]


def _room(size: float) -> tuple[float, float]:
    """Bounds of the centre of a square, in each direction."""
    margin = WALL + size / 2
    return margin, RESOLUTION - margin


def _painted(canvas: Canvas, centre: Point, size: float, colour: tuple[int, int, int]) -> Canvas:
    """The canvas with a square on it; every pixel takes on the colour by the covered share of it."""
    columns, rows = (np.diff(_PIXEL_EDGES.clip(place - size / 2, place + size / 2)) for place in centre.tolist())
    covered = np.outer(rows, columns).astype(np.float32)[:, :, None]
    return canvas + covered * (np.array(colour, np.float32) - canvas)


_EMPTY_ROOM = _painted(
    np.full((RESOLUTION, RESOLUTION, 3), WALL_COLOUR, np.float32),
    np.full(2, RESOLUTION / 2),
    RESOLUTION - 2 * WALL,
    FLOOR_COLOUR,
)


SPEC = SimulatorToy.make_spec(("dx", "dy"), directions=((1.0, 0.0), (0.0, -1.0)))
