"""The trust report: policies in both worlds, optimised actions, and the page."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldgym.cli import main
from worldgym.envs.behaviours import mixed
from worldgym.envs.collect import collect
from worldgym.reports.returns import compare_returns
from worldgym.reports.trust import measure_optimism, rank_policies
from worldgym.world_model import WorldModel

SEEDS = (5, 6, 7)


def test_policies_are_ranked_by_their_mean_returns(toy_checkpoint: Path) -> None:
    simulator = gym.make("Simulator-Toy-v0")
    learned: Any = gym.make_vec("WorldModel-v0", 3, checkpoint=str(toy_checkpoint), task="toy", max_episode_steps=-1)
    policies = {f"{share}": mixed(share) for share in (0.0, 0.5, 1.0)}
    found = rank_policies(learned, simulator, policies, SEEDS)
    real = [found["policies"][name]["real"] for name in policies]
    assert real == sorted(real, reverse=True)  # the less random, the better
    alone = compare_returns(learned, simulator, SEEDS, mixed(0.5))
    assert found["policies"]["0.5"]["imagined"] == pytest.approx(alone.imagined.mean())
    value, low, high = found["spearman"]
    assert -1 <= low <= high <= 1
    assert -1 <= value <= 1


def test_optimised_actions_are_replayed_in_the_simulator(toy_checkpoint: Path) -> None:
    model, simulator = WorldModel.from_pretrained(toy_checkpoint), gym.make("Simulator-Toy-v0")
    found = measure_optimism(model, simulator, SEEDS, candidates=8, horizon=10)
    again = measure_optimism(model, simulator, SEEDS, candidates=8, horizon=10)
    assert found == again
    assert all(len(values) == 3 for values in found.values())
    assert np.all(np.array(found["promised"]) >= np.array(found["mean_promised"]))
    assert all(0 < total <= 10 for total in found["real"])  # the toy pays up to 1 a step


def test_the_report_is_one_page(toy_checkpoint: Path, tmp_path: Path) -> None:
    collect(tmp_path / "data", ["toy"], {"expert": 2, "random": 1}, seed=7, workers=1)
    command = ["evaluate", "--checkpoint", str(toy_checkpoint), "--data", str(tmp_path / "data"), "--starts", "1"]
    command += ["--horizon", "4", "--out", str(tmp_path / "figures.json"), "--report", str(tmp_path / "report")]
    assert main([*command, "--policies", "3", "--episodes", "2"]) == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(figures["trust"]["toy"]["ranking"]["policies"]) == 3
    assert len(figures["trust"]["toy"]["optimism"]["real"]) == 2


def test_without_the_simulator_the_report_says_what_is_missing(
    toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldgym.envs.simulators.toy import SimulatorToy

    monkeypatch.delattr("worldgym.envs.simulators.toy_world.ToyWorld.expert_action")
    assert not hasattr(SimulatorToy, "expert_action")
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    from worldgym.envs.collect import record

    for seed in range(2):
        record(SimulatorToy(), "random", seed).save(data / f"{seed}.safetensors")
    command = ["evaluate", "--checkpoint", str(toy_checkpoint), "--data", str(data), "--starts", "1", "--horizon", "4"]
    assert main([*command, "--report", "report"]) == 0
    assert "has no scripted expert" in Path("report/report.html").read_text()
