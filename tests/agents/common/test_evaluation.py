"""Evaluating an agent by whole episodes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from worldgym.agents.common.evaluation import FIRST_SEED, evaluate
from worldgym.agents.drqv2 import DrQv2

EPISODE = 25  # steps of an episode of the toys in conftest.py


def test_evaluation_is_greedy_repeatable_and_counts_successful_episodes(
    make_env: Callable[..., Any], make_agent: Callable[..., DrQv2]
) -> None:
    agent = make_agent()

    def succeeding() -> Any:
        return np.zeros((32, 32, 3), np.uint8), 1.0, False, False, {"success": True}

    env = make_env({EPISODE + 7: succeeding})
    found = evaluate(env, agent, 4)
    assert found is not None
    assert found.success == 0.25
    assert found.frames.shape == (EPISODE + 1, 32, 32, 3)
    assert env.seeds == [FIRST_SEED + index for index in range(4)]
    again = evaluate(make_env(), agent, 4)
    assert again is not None
    assert np.array_equal(found.frames, again.frames)
    assert again.mean_return == evaluate(make_env(), agent, 4).mean_return  # type: ignore[union-attr]
