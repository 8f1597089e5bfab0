"""Any Gymnasium environment as a simulator."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import worldgym  # noqa: F401  # registers the ids
from worldgym.envs.simulators.gymnasium import GymnasiumEnv
from worldgym.errors import DependencyNotInstalled, InvalidAction, InvalidOption, ResetNeeded, UnknownTask

REAL = [
    ("CartPole-v1", (400, 600), 500),
    ("LunarLander-v3", (400, 600), 1000),
    ("CarRacing-v3", (96, 96), 1000),
    ("ale_py:ALE/Pong-v5", (210, 160), None),
    ("minigrid:MiniGrid-Empty-5x5-v0", (160, 160), None),
]


class Pictures(gym.Env[Any, Any]):
    """Shows its step as a grey picture inside a dictionary; the episode ends at step 3."""

    observation_space = gym.spaces.Dict(
        state=gym.spaces.Box(-1, 1, (2,)), image=gym.spaces.Box(0, 255, (20, 30, 1), np.uint8)
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert type(action) is int
        self.taken += 1
        return self._observe(), np.float64(2), np.bool_(self.taken == 3), False, {"is_success": np.bool_(action)}

    def _observe(self) -> dict[str, Any]:
        return {"state": np.zeros(2, np.float32), "image": np.full((20, 30, 1), 10 * self.taken, np.uint8)}


class Blind(Pictures):
    """Shows nothing."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}


gym.register("Pictures-v0", Pictures, max_episode_steps=9)
gym.register("Blind-v0", Blind)


@pytest.mark.simulator
@pytest.mark.parametrize(("name", "size", "steps"), REAL)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_real_environments(name: str, size: tuple[int, int], steps: int | None) -> None:
    env = gym.make("Simulator-v0", env=name)
    own = env.unwrapped
    assert isinstance(own, GymnasiumEnv)
    check_env(own, skip_render_check=True)
    frames = [env.reset(seed=3)[0] for _ in range(2)]
    assert frames[0].shape == (64, 64, 3)
    np.testing.assert_array_equal(*frames)
    assert own.original_size == size
    assert own.episode_steps == steps
    env.action_space.seed(0)
    moved = [env.step(env.action_space.sample())[0] for _ in range(5)]
    assert any(not np.array_equal(frame, frames[0]) for frame in moved)
    env.close()


def test_the_image_of_a_dictionary_is_shown_in_colour() -> None:
    env = GymnasiumEnv("Pictures-v0", resolution=16)
    frame, info = env.reset(seed=0)
    assert info["success"] is False
    frame, reward, terminated, truncated, info = env.step(np.int64(1))
    assert frame.shape == (16, 16, 3)
    assert (frame == 10).all()
    assert (type(reward), reward) == (float, 2.0)
    assert (terminated, truncated) == (False, False)
    assert info["success"] is True
    assert env.episode_steps == 9


def test_frames_are_skipped_until_the_episode_ends() -> None:
    env = GymnasiumEnv("Pictures-v0", frame_skip=2)
    env.reset()
    assert env.step(0)[1:3] == (4.0, False)
    assert env.step(0)[1:3] == (2.0, True)
    assert env.episode_steps == 5


def test_environments_own_keys_have_a_browsers_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GymnasiumEnv("MountainCar-v0").keys()[("ArrowRight",)] == 2  # numbers of pygame 1
    assert GymnasiumEnv("Pictures-v0").keys() == {}
    own = {("w", " "): 1, 1073741904: 0, (ord("e"),): 0}
    monkeypatch.setattr(Pictures, "get_keys_to_action", lambda self: own, raising=False)
    assert GymnasiumEnv("Pictures-v0").keys() == {("w", " "): 1, ("ArrowLeft",): 0, ("e",): 0}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InvalidOption, "expected the id"),
        ({"env": "CartPol-v1"}, UnknownTask, "CartPole-v1"),
        ({"env": "CartPole-v77"}, UnknownTask, "CartPole-v1"),
        ({"env": "no_such_package:Env-v0"}, DependencyNotInstalled, "pip install no_such_package"),
        ({"env": "Blind-v0"}, InvalidOption, "shows no picture"),
        ({"env": "Pictures-v0", "resolution": 0}, InvalidOption, "at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gym.make("Simulator-v0", **arguments)


def test_bad_actions_and_calls_out_of_order_are_named() -> None:
    env = GymnasiumEnv("Pictures-v0")
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    with pytest.raises(InvalidAction, match="outside"):
        env.step(2)
