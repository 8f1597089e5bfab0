"""On a machine without Meta-World, or without OpenGL, the error names what to install; imagination needs neither."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_METAWORLD = """
import sys
sys.modules["metaworld"] = sys.modules["mujoco"] = None  # importing them raises ImportError
import os
os.environ["MUJOCO_GL"] = "egl"
import gymnasium as gym
import worldgym
from worldgym.errors import DependencyNotInstalled
env = gym.make("WorldModel-MetaWorld-v0", checkpoint={checkpoint!r})
env.reset(seed=0)
env.step(env.action_space.sample())
try:
    gym.make("Simulator-MetaWorld-v0")
except DependencyNotInstalled as error:
    assert isinstance(error, gym.error.DependencyNotInstalled)
    print(error)
"""

WITHOUT_OPENGL = """
import ctypes.util, os, sys
os.environ.pop("MUJOCO_GL", None), os.environ.pop("DISPLAY", None)
ctypes.util.find_library = lambda name: None
sys.platform = "linux"
import gymnasium as gym
import worldgym
from worldgym.errors import DependencyNotInstalled
try:
    gym.make("Simulator-MetaWorld-v0")
except DependencyNotInstalled as error:
    print(error)
"""

BROKEN_OPENGL = """
import os
os.environ["MUJOCO_GL"] = "bogus"
import gymnasium as gym
import worldgym
from worldgym.errors import RenderingError
try:
    gym.make("Simulator-MetaWorld-v0")
except RenderingError as error:
    print(error)
"""


def said_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def test_the_missing_simulator_names_its_extra(tiny_checkpoint: Path) -> None:
    assert "pip install worldgym[metaworld]" in said_by(WITHOUT_METAWORLD.format(checkpoint=str(tiny_checkpoint)))


def test_missing_opengl_names_its_packages() -> None:
    said = said_by(WITHOUT_OPENGL)
    assert "libegl1" in said
    assert "libosmesa6" in said


@pytest.mark.simulator
def test_broken_opengl_is_not_called_a_missing_simulator() -> None:
    said = said_by(BROKEN_OPENGL)
    assert "MUJOCO_GL='bogus'" in said
    assert "libegl1" in said
    assert "not installed" not in said
