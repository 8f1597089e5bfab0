"""Settings of all tests of MBPO."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_frames_for_the_reward_head() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldgym.agents.mbpo.world.REWARD_HEAD_FRAMES", 60)
        yield
