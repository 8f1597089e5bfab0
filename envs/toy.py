"""A toy world of 32 x 32 pixels with exact dynamics: an orange square has to be steered onto a blue one.

It is for trying agents out: one picture shows everything there is to know, an episode takes 25 steps and a step some
tens of microseconds. Squares stand at real numbers, not at whole pixels; a pixel that one covers in part takes on its
colour in part, so a picture tells where a square is to a small fraction of a pixel.
"""

import math
from typing import Any

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
from worldgym.errors import InvalidOption, ResetNeeded

TASK = "toy"
ACTION_NAMES = ("dx", "dy")
EPISODE_STEPS = 25
RESOLUTION = 32

# All lengths are in pixels; x grows to the right, y downwards.
WALL = 2.0
AGENT_SIZE = 5.0
GOAL_SIZE = 9.0
SPEED = 2.0  # of action 1, a step
START_DISTANCE = 10.0  # at least, from centre to centre
HALF_REWARD_DISTANCE = 5.0

WALL_COLOUR = (80, 80, 80)
FLOOR_COLOUR = (128, 128, 128)  # mid-grey: 0 to agents that centre pixels, so that the squares alone stand out
GOAL_COLOUR = (40, 110, 230)
AGENT_COLOUR = (250, 140, 30)

TOY_METADATA: dict[str, Any] = {**METADATA, "render_fps": 10}

Point = NDArray[np.float64]
"""x and y of a square's centre, float64 ``[2]``."""
Canvas = NDArray[np.float32]
"""A picture before it is rounded, float32 ``[32, 32, 3]`` in [0, 255]."""

_PIXEL_EDGES = np.arange(RESOLUTION + 1, dtype=np.float64)


class SimulatorToy(gym.Env[Frame, NDArray[np.float32]]):
    """The toy world.

    The action ``(dx, dy)`` moves the orange square by up to 2 pixels along each axis; walls stop it. The reward is
    ``1 / (1 + (d / 5)^2)`` with ``d`` the distance in pixels between the centres after the move: 1 on the goal, 1/2
    five pixels away. It counts as success while the orange square lies wholly within the blue one. Nothing terminates
    an episode; ``gym.make`` truncates it after 25 steps.

    Args:
        render_mode: ``rgb_array``, ``human`` or None.
    """

    metadata = TOY_METADATA
    action_space: ActionSpace
    task = TASK

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array", "human"):
            raise InvalidOption(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = frame_space(RESOLUTION)
        self.action_space = action_space(len(ACTION_NAMES))
        self._agent: Point = np.zeros(2)
        self._goal: Point = np.zeros(2)
        self._ground: Canvas = _EMPTY_ROOM  # the picture without the agent
        self._frame: Frame | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Start an episode at random places; equal seeds give equal episodes.

        ``options={"state": ...}`` starts it where ``info["state"]`` of another one stood.

        Returns:
            The frame, uint8 ``[32, 32, 3]``, and ``info`` with ``success``, ``task`` and ``state`` (x and y of agent
            and goal in pixels, float64 ``[4]``).

        Raises:
            InvalidOption: for another option, or a state that no episode can be in.
        """
        super().reset(seed=seed)
        if set(options or {}) - {"state"}:
            raise InvalidOption(f"Simulator-Toy-v0 takes the reset option 'state' only, got {sorted(options or {})}")
        self._agent, self._goal = _places(options["state"]) if options else self._draw_places()
        self._ground = _painted(_EMPTY_ROOM, self._goal, GOAL_SIZE, GOAL_COLOUR)
        return self._observe(), self._info()

    def _draw_places(self) -> tuple[Point, Point]:
        goal = self.np_random.uniform(*_room(GOAL_SIZE), 2)
        agent = self.np_random.uniform(*_room(AGENT_SIZE), 2)
        while math.dist(agent, goal) < START_DISTANCE:
            agent = self.np_random.uniform(*_room(AGENT_SIZE), 2)
        return agent, goal

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Move the agent.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._check_reset("step")
        moved = self._agent + SPEED * checked_action(action, self.action_space)
        self._agent = np.clip(moved, *_room(AGENT_SIZE))
        reward = 1.0 / (1.0 + (self._distance() / HALF_REWARD_DISTANCE) ** 2)
        return self._observe(), reward, False, False, self._info()

    def expert_action(self) -> NDArray[np.float32]:
        """Straight towards the goal along each axis, float32 ``[2]`` in [-1, 1]: no policy earns more."""
        self._check_reset("expert_action")
        return np.clip((self._goal - self._agent) / SPEED, -1.0, 1.0).astype(np.float32)

    def render(self) -> Frame | None:
        """The current frame in mode ``rgb_array``; in mode ``human`` it is shown in a window."""
        frame = self._check_reset("render")
        return frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one."""
        self._frame = None
        if self.render_mode == "human":
            close_window(_TITLE)

    def _check_reset(self, call: str) -> Frame:
        if self._frame is None:
            raise ResetNeeded(f"{call}() came before reset(); call env.reset() first")
        return self._frame

    def _observe(self) -> Frame:
        self._frame = np.rint(_painted(self._ground, self._agent, AGENT_SIZE, AGENT_COLOUR)).astype(np.uint8)
        if self.render_mode == "human":
            show_frame(self._frame, _TITLE)
        return self._frame.copy()

    def _distance(self) -> float:
        return math.dist(self._agent, self._goal)

    def _info(self) -> dict[str, Any]:
        within = np.abs(self._goal - self._agent).max() <= (GOAL_SIZE - AGENT_SIZE) / 2
        return {"success": bool(within), "task": self.task, "state": np.concatenate([self._agent, self._goal])}


_TITLE = "Toy"


def _places(state: Any) -> tuple[Point, Point]:
    """Where agent and goal stand in a state; raises :class:`InvalidOption` unless both are inside the walls."""
    rooms = np.array([_room(AGENT_SIZE), _room(GOAL_SIZE)]).repeat(2, axis=0)
    try:
        values = np.array(state, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.all((values >= rooms[:, 0]) & (values <= rooms[:, 1])):
        raise InvalidOption(
            f"the reset option 'state' takes x and y of agent and goal, inside the walls, as info['state'] gives them: "
            f"got {state!r}"
        )
    return values[:2], values[2:]


def _room(size: float) -> tuple[float, float]:
    """How far left and right, or up and down, the centre of a square may be."""
    margin = WALL + size / 2
    return margin, RESOLUTION - margin


def _painted(canvas: Canvas, centre: Point, size: float, colour: tuple[int, int, int]) -> Canvas:
    """The canvas with a square on it: every pixel takes on the colour by the share of it that is covered."""
    columns, rows = (np.diff(_PIXEL_EDGES.clip(place - size / 2, place + size / 2)) for place in centre.tolist())
    covered = np.outer(rows, columns).astype(np.float32)[:, :, None]
    return canvas + covered * (np.array(colour, np.float32) - canvas)


_EMPTY_ROOM = _painted(
    np.full((RESOLUTION, RESOLUTION, 3), WALL_COLOUR, np.float32),
    np.full(2, RESOLUTION / 2),
    RESOLUTION - 2 * WALL,
    FLOOR_COLOUR,
)
