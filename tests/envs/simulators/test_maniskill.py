"""What ManiSkill adds to the contract: rewards, tasks of other robots, missing files and drivers."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from worldgym.envs.simulators.maniskill import SimulatorManiSkill
from worldgym.errors import DependencyNotInstalled, InvalidOption

pytestmark = pytest.mark.other_simulator


@pytest.fixture(scope="module")
def env() -> Iterator[SimulatorManiSkill]:
    env = SimulatorManiSkill("PickCube-v1")
    yield env
    env.close()


def test_success_gives_the_greatest_reward_and_does_not_end_the_episode(env: SimulatorManiSkill) -> None:
    env.reset(seed=0)
    steps = [env.step(env.expert_action()) for _ in range(30)]
    assert not any(terminated or truncated for _, _, terminated, truncated, _ in steps)
    rewards = {reward for _, reward, _, _, info in steps if info["success"]}
    assert rewards == {5.0}
    assert max(reward for _, reward, _, _, info in steps if not info["success"]) < 5


def test_frames_show_the_goal(env: SimulatorManiSkill) -> None:
    shown = 0
    for seed in range(4):  # the hand hides it in some of them
        red, green, blue = env.reset(seed=seed)[0].astype(int).transpose(2, 0, 1)
        shown += bool(((green > red + 60) & (green > blue + 60)).any())
    assert shown >= 2


def test_a_robot_without_a_gripper_ignores_its_value() -> None:
    env = SimulatorManiSkill("PushT-v1")
    env.reset(seed=0)
    opened = env.step(np.array([0.5, 0, 0, 0, 0, 0, 1], np.float32))
    env.reset(seed=0)
    assert data_equivalence(env.step(np.array([0.5, 0, 0, 0, 0, 0, -1], np.float32)), opened, exact=True)
    env.close()


@pytest.mark.parametrize("task", ["StackCube-v1", "PushCube-v1", "LiftPegUpright-v1"])
def test_further_experts_succeed(task: str) -> None:
    env = SimulatorManiSkill(task)
    env.reset(seed=0)
    assert any(env.step(env.expert_action())[4]["success"] for _ in range(50))
    env.close()


def test_an_expert_pushes_the_t_nearly_to_its_goal() -> None:
    env = SimulatorManiSkill("PushT-v1")
    env.reset(seed=3)
    distance, angle = _pose_left(env)
    for _ in range(100):
        env.step(env.expert_action())
    last_distance, last_angle = _pose_left(env)
    assert last_distance < distance / 3
    assert last_angle < angle / 3
    env.close()


def _pose_left(env: SimulatorManiSkill) -> tuple[float, float]:
    """How far the T is from its goal, in metres and radians."""
    tee, goal = (
        thing.pose.to_transformation_matrix()[0].numpy() for thing in (env.simulator.tee, env.simulator.goal_tee)
    )
    distance = float(np.linalg.norm((tee - goal)[:2, 3]))
    return distance, float(np.arccos(np.clip(tee[:2, 0] @ goal[:2, 0], -1, 1)))


def test_a_task_without_an_expert_names_those_with_one() -> None:
    env = SimulatorManiSkill("PegInsertionSide-v1")
    env.reset(seed=0)
    with pytest.raises(InvalidOption, match=r"PegInsertionSide-v1 has no scripted expert.*PickCube-v1, StackCube-v1"):
        env.expert_action()
    env.close()


@pytest.mark.parametrize(
    ("task", "got"),
    [("TwoRobotPickCube-v1", "got actions Dict"), ("PickCubeSO100-v1", "not in supported modes.*pd_joint_delta_pos")],
)
def test_robots_that_take_no_end_effector_deltas(task: str, got: str) -> None:
    with pytest.raises(InvalidOption, match=f"{task}: expected a robot of one arm.*{got}"):
        SimulatorManiSkill(task)


@pytest.mark.parametrize(("task", "files"), [("PickSingleYCB-v1", "ycb"), ("OpenCabinetDoor-v1", "partnet_mobility")])
def test_missing_files_name_the_command(task: str, files: str) -> None:
    with pytest.raises(DependencyNotInstalled, match=f"python -m mani_skill.utils.download_asset {files}"):
        SimulatorManiSkill(task)


WITHOUT_VULKAN = """
import os
os.environ["VK_ICD_FILENAMES"] = "/no/such/driver.json"
import gymnasium as gym
import worldgym
from worldgym.errors import RenderingError
try:
    gym.make("Simulator-ManiSkill-v0", task="PickCube-v1")
except RenderingError as error:
    print(error)
"""


def test_a_missing_vulkan_driver_names_its_packages() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_VULKAN], capture_output=True, text=True, timeout=300)
    assert "mesa-vulkan-drivers" in done.stdout, done.stderr
    assert "bookworm-backports" in done.stdout


OTHER_SIMULATOR_AFTERWARDS = """
import os
os.environ.pop("MUJOCO_GL", None)
import gymnasium as gym, worldgym
for name, task in (("ManiSkill", "PickCube-v1"), ("MetaWorld", "plate-slide")):
    env = gym.make(f"Simulator-{name}-v0", task=task)
    print(env.reset(seed=0)[0].std() > 10)
    env.close()
"""


def test_simulators_that_draw_by_mujoco_work_beside_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_SIMULATOR_AFTERWARDS], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr
