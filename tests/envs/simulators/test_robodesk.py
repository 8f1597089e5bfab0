"""What RoboDesk adds to the contract: its own pictures, rewards, and blocks that fall off the table."""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from worldgym.envs.simulators.robodesk import SimulatorRoboDesk
from worldgym.errors import InvalidOption

pytestmark = pytest.mark.other_simulator
IDLE = np.zeros(5, np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[SimulatorRoboDesk]:
    env = SimulatorRoboDesk("upright_block_off_table")
    yield env
    env.close()


def test_the_reference_look_is_robodesks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "ANTIALIAS", Image.Resampling.LANCZOS, raising=False)  # of an older Pillow
    env = SimulatorRoboDesk("push_red", look="reference")
    np.testing.assert_array_equal(env.reset(seed=0)[0], env.simulator.render())
    env.close()


def test_reward_is_the_sum_over_the_repeat(env: SimulatorRoboDesk) -> None:
    twin = SimulatorRoboDesk("upright_block_off_table")
    env.reset(seed=0)
    twin.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype(np.float32):
        parts = [twin.simulator.step(action)[1] for _ in range(5)]
        assert env.step(action)[1] == pytest.approx(sum(parts))
    twin.close()


def test_a_block_off_the_table_counts_if_no_other_one_moves(env: SimulatorRoboDesk) -> None:
    env.reset(seed=0)
    before = env.step(IDLE)[1]
    positions = env.simulator.physics.named.data.qpos
    positions["upright_block"][:3] = 0.9, 0.5, 0.3
    _, after, _, _, info = env.step(IDLE)
    assert after > before + 0.5
    assert info["success"]
    env.simulator.physics.named.data.qpos["flat_block"][0] += 0.1
    assert not env.step(IDLE)[4]["success"]


@pytest.mark.parametrize("task", ["push_green", "push_blue", "flat_block_off_table"])
def test_the_experts_succeed(task: str) -> None:
    """That of push_red is tested with the contract."""
    env = SimulatorRoboDesk(task)
    env.reset(seed=0)
    assert any(env.advance(env.expert_action())[1] for _ in range(100))
    env.close()


def test_a_task_without_an_expert_is_named() -> None:
    env = SimulatorRoboDesk("open_drawer")
    env.reset(seed=0)
    with pytest.raises(InvalidOption, match="open_drawer has no scripted expert; tasks that have one: push_red"):
        env.expert_action()
    env.close()
