"""``worldgym returns`` on a twin, whose environment has no scripted expert."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.cli import main
from worldgym.data.recordings import Recordings
from worldgym.envs.collect import collect
from worldgym.reports.returns import recorded_returns
from worldgym.world_model import WorldModel


def test_without_an_expert_random_and_sticky_actions_are_compared(cartpole_twin: Path, tmp_path: Path) -> None:
    options = f"--checkpoint {cartpole_twin} --episodes 1 --out {tmp_path}/returns.json --device cpu"
    assert main(["returns", *options.split()]) in (0, None)
    figures = json.loads((tmp_path / "returns.json").read_text(encoding="utf-8"))["returns"]
    assert list(figures["CartPole-v1"]) == ["random", "sticky"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    collect(folder, ["CartPole-v1"], {"random": 4, "sticky": 2}, workers=1)
    return folder


def test_recorded_episodes_need_no_simulator(cartpole_twin: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "returns.json"
    options = f"returns --checkpoint {cartpole_twin} --data {data} --episodes 3 --out {out} --device cpu"
    assert main(options.split()) in (0, None)
    found = json.loads(out.read_text(encoding="utf-8"))["returns"]["CartPole-v1"]
    assert {behaviour: figures["episodes"] for behaviour, figures in found.items()} == {"random": 3, "sticky": 2}
    recorded = [episode for episode in Recordings(data).episodes if episode.info.behaviour == "random"][:3]
    assert found["random"]["real"] == pytest.approx(np.mean([len(episode.actions) for episode in recorded]))


def test_what_is_imagined_behind_an_end_counts_by_its_probability(cartpole_twin: Path, data: Path) -> None:
    model, episode = WorldModel.from_pretrained(cartpole_twin), Recordings(data).episodes[0]
    assert model.config.termination
    frames, actions = episode.frames_at([0] * model.config.context_length)[None], episode.actions[None]
    sampling, generator = model.config.sampling, torch.Generator().manual_seed(0)
    imagined = model.rollout(frames, actions, sampling.temperature, sampling.top_k, generator)
    expected, going = 0.0, 1.0
    for reward, ended in zip(imagined.rewards[0].tolist(), imagined.termination_probability[0].tolist(), strict=True):
        expected, going = expected + going * reward, going * (1 - ended)
    assert recorded_returns(model, [episode]).imagined == pytest.approx(expected, abs=1e-5)


def test_recordings_without_the_behaviour_are_named(
    cartpole_twin: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"returns --checkpoint {cartpole_twin} --data {data} --behaviours expert --out {tmp_path}/x.json"
    assert main(options.split()) == 2
    assert "it has CartPole-v1 (random), CartPole-v1 (sticky)" in capsys.readouterr().err


def test_an_agent_is_compared_where_it_acts_in_either_world(
    cartpole_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaning.py").write_text("def right(frame):\n    assert frame.shape == (64, 64, 3)\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = f"returns --checkpoint {cartpole_twin} --policy leaning:right --episodes 2 --out {tmp_path}/r.json"
    assert main([*options.split(), "--device", "cpu"]) in (0, None)
    figures = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["returns"]["CartPole-v1"]
    assert list(figures) == ["acting in the simulator", "acting in the learned environment"]
    assert figures["acting in the simulator"]["real"] < 15  # always to the right, the pole falls at once
    capsys.readouterr()
    for more in ("--behaviours random", f"--data {tmp_path}"):
        assert main([*options.split(), *more.split()]) == 2
        assert "policy: " in capsys.readouterr().err
