"""Who acts in recordings, where the environment cannot be acted in so."""

import numpy as np
import pytest

from worldgym.envs.behaviours import find_behaviour
from worldgym.envs.simulators.gymnasium import GymnasiumEnv
from worldgym.errors import InvalidOption


@pytest.mark.parametrize("name", ["expert", "noisy", "clumsy", "straying"])
def test_environments_without_an_expert_say_so(name: str) -> None:
    env = GymnasiumEnv("CartPole-v1")
    with pytest.raises(InvalidOption, match=r"CartPole-v1 has no scripted expert.*random, sticky"):
        find_behaviour(name)(env, np.random.default_rng(0))
    env.close()
