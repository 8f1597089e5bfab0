"""Clones of demonstrations at several stages."""

from pathlib import Path

import numpy as np
import torch

from worldgym.agents.cloning import clone
from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy

CONFIG = DrQv2Config(channels=4, features=8, hidden=16, batch_size=8, precision="float32", learning_rate=3e-3)


def distance(file: Path, frames: torch.Tensor, actions: torch.Tensor) -> float:
    chosen = torch.from_numpy(DrQv2.from_file(file).act(frames, explore=False))
    return float((chosen - actions).square().sum(1).mean())


def test_later_stages_act_more_like_the_demonstrations(tmp_path: Path) -> None:
    demonstrations = [record(SimulatorToy(), "expert", seed) for seed in range(2)]
    files = [tmp_path / "clones" / f"{stage}.safetensors" for stage in range(2)]
    clone(demonstrations, files, (2, 250), CONFIG, seed=0)
    frames = torch.from_numpy(np.stack([demonstrations[0].frames[step : step + 3] for step in range(20)]))
    actions = torch.from_numpy(demonstrations[0].actions[2:22])
    early, late = (distance(file, frames, actions) for file in files)
    assert late < 0.5 * early


def test_finished_clones_are_kept(tmp_path: Path) -> None:
    demonstrations, file = [record(SimulatorToy(), "expert", 0)], tmp_path / "clone.safetensors"
    clone(demonstrations, [file], (3,), CONFIG, seed=0)
    before = file.stat().st_mtime_ns
    clone(demonstrations, [file], (3,), CONFIG, seed=0)
    assert file.stat().st_mtime_ns == before
