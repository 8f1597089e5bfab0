"""The simulator beside the learned environment, after rewinds."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worldgym.envs.actions import ActionCodec
from worldgym.play.simulator import SAVE_EVERY, Follower

ACTIONS = list(np.random.default_rng(0).uniform(-1, 1, (3 * SAVE_EVERY, 2)).astype(np.float32))


@pytest.fixture
def follower() -> Any:
    from worldgym.envs.registry import find_task

    spec, task = find_task("toy")
    env = spec.make(task)
    codec = ActionCodec(env.action_space)
    resolution = env.observation_space.shape[0]  # type: ignore[index]
    env.close()
    config: Any = SimpleNamespace(resolution=resolution, training_data={}, frame_skip=1)
    found = Follower("toy", config, codec)
    yield found
    found.close()


@pytest.mark.parametrize("steps", [0, 4, SAVE_EVERY, 2 * SAVE_EVERY + 3])
def test_a_rewound_episode_goes_on_exactly_from_the_newest_state(follower: Follower, steps: int) -> None:
    follower.reset(3)
    frames = [follower.follow(ACTIONS[: count + 1]) for count in range(len(ACTIONS))]
    taken = 0
    step, reset = follower.env.step, follower.env.reset

    def counted(action: Any) -> Any:
        nonlocal taken
        taken += 1
        return step(action)

    follower.env.step = counted
    follower.rewind(steps)
    other = [*ACTIONS[:steps], np.zeros(2, np.float32)]
    follower.follow(other)
    assert taken == steps % SAVE_EVERY + 1
    follower.rewind(steps)
    for count in range(steps, len(ACTIONS)):
        found, expected = follower.follow(ACTIONS[: count + 1]), frames[count]
        assert found is not None
        assert expected is not None
        np.testing.assert_array_equal(found.frame, expected.frame)
        assert found[1:] == expected[1:]
    assert follower.env.reset == reset
