"""The example that trains PPO in the twin of CartPole."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole_in_imagination.py"


@pytest.mark.parametrize("where", [[], ["--real"]])
def test_the_agent_is_evaluated_in_both_worlds(cartpole_twin: Path, where: list[str]) -> None:
    command = [sys.executable, str(EXAMPLE), "--checkpoint", str(cartpole_twin), "--steps", "256", "--episodes", "1"]
    result = subprocess.run([*command, *where], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["WorldModel-v0", "Simulator-v0"]
    assert 1 <= float(lines[1].split()[2]) <= 500
