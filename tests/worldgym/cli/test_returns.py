"""``worldgym returns`` on a twin, whose environment has no scripted expert."""

import json
from pathlib import Path

from worldgym.cli import main


def test_without_an_expert_random_and_sticky_actions_are_compared(cartpole_twin: Path, tmp_path: Path) -> None:
    options = f"--checkpoint {cartpole_twin} --episodes 1 --out {tmp_path}/returns.json --device cpu"
    assert main(["returns", *options.split()]) in (0, None)
    figures = json.loads((tmp_path / "returns.json").read_text(encoding="utf-8"))["returns"]
    assert list(figures["CartPole-v1"]) == ["random", "sticky"]
