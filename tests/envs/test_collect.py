"""Recording from the simulator: behaviours, seeds, and what a second or a killed run leaves."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest

from worldgym.data.episode import EpisodeFile
from worldgym.data.recordings import Recordings
from worldgym.envs.behaviours import BEHAVIOURS, find_behaviour
from worldgym.envs.collect import Job, _record_to, collect, record
from worldgym.envs.registry import SimulatorSpec
from worldgym.envs.simulators.gymnasium import GymnasiumEnv
from worldgym.envs.simulators.metaworld import SimulatorMetaWorld
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import DataError, InvalidOption, UnknownTask, WorldGymError

pytestmark = pytest.mark.simulator

KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from worldgym.data import episode
from worldgym.envs import collect
from worldgym.envs.behaviours import random

def save_half(tensors, path, metadata):
    Path(path).write_bytes(b"half an episode")
    os._exit(9)

collect._record_to(collect.Job("Toy", "toy", "random", 0, random, {}, None), Path(sys.argv[1]))
episode.save_file = save_half
collect._record_to(collect.Job("Toy", "toy", "random", 1, random, {}, None), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_equal_seeds_record_equal_episodes(behaviour: str) -> None:
    env = SimulatorMetaWorld("hammer")
    once, other, again = (record(env, behaviour, seed, steps=4) for seed in (3, 4, 3))
    env.close()
    for name in ("frames", "actions", "rewards", "successes"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert not np.array_equal(once.actions, other.actions)
    assert once.frames.shape == (5, 64, 64, 3)
    assert np.abs(once.actions).max() <= 1
    assert (once.info.task, once.info.behaviour, once.info.seed, once.info.frame_skip) == ("hammer", behaviour, 3, 2)


def test_behaviours_of_one_seed_start_differently() -> None:
    env = SimulatorMetaWorld("hammer")
    starts = [record(env, behaviour, 0, steps=1).frames[0] for behaviour in BEHAVIOURS]
    env.close()
    assert len({start.tobytes() for start in starts}) == len(BEHAVIOURS)


def test_an_environment_is_made_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SimulatorToy] = []

    def make(spec: SimulatorSpec, task: str, **options: Any) -> SimulatorToy:
        made.append(SimulatorToy(**options))
        return made[-1]

    monkeypatch.setattr(SimulatorSpec, "make", make)
    jobs = [Job("Toy", "toy", "random", seed, find_behaviour("random"), {}, None) for seed in range(3)]
    for job in jobs:
        _record_to(job, tmp_path)
    assert len(made) == 1
    for job in jobs:
        fresh = record(SimulatorToy(), "random", job.seed)
        np.testing.assert_array_equal(EpisodeFile(job.path(tmp_path)).load().frames, fresh.frames)
    other = jobs[0]._replace(seed=9, options={"render_mode": "rgb_array"})
    _record_to(other, tmp_path)
    assert len(made) == 2
    failing = other._replace(seed=10, policy=lambda env, rng: lambda: np.full(2, np.nan, np.float32))
    with pytest.raises(WorldGymError):
        _record_to(failing, tmp_path)
    _record_to(other._replace(seed=11), tmp_path)
    assert len(made) == 3  # one that failed is not used again


def test_second_run_adds_what_is_missing(tmp_path: Path) -> None:
    first = collect(tmp_path, ["toy"], {"expert": 1}, workers=1)
    assert first == [tmp_path / "toy" / "expert-00000000.safetensors"]
    before = first[0].stat()
    files = collect(tmp_path, ["toy", "plate-slide-v3"], {"expert": 1}, workers=1)
    assert files == [*first, tmp_path / "plate-slide" / "expert-00000000.safetensors"]
    after = first[0].stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)
    recorded = Recordings(tmp_path / "plate-slide").episodes[0]
    assert len(recorded) == 100
    assert recorded.successes.any()  # the expert's


def test_kill_while_writing_keeps_finished_episodes(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], check=False, timeout=300)
    assert killed.returncode == 9
    recordings = Recordings(tmp_path)
    assert [episode.path.name for episode in recordings.episodes] == ["random-00000000.safetensors"]
    assert recordings.episodes[0].load().frames.shape == (26, 32, 32, 3)


def test_unknown_names_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UnknownTask, match=r"'hamer'; did you mean 'hammer'"):
        collect(tmp_path, ["hamer"], {"expert": 1})
    with pytest.raises(InvalidOption, match=r"'export'; did you mean 'expert'"):
        collect(tmp_path, ["hammer"], {"export": 1})
    assert not list(tmp_path.iterdir())


def test_recording_processes_end_with_a_killed_main_process(tmp_path: Path) -> None:
    command = f"-m worldgym collect --env Simulator-Toy-v0 --out {tmp_path} --episodes random=100000 --workers 2"
    process = subprocess.Popen([sys.executable, *command.split()], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.rglob("*.safetensors")) and time.monotonic() < until:
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_kept_episodes_of_other_options_are_refused(tmp_path: Path) -> None:
    collect(tmp_path, ["CartPole-v1"], {"random": 1}, workers=1, options={"resolution": 32})
    with pytest.raises(DataError, match="was recorded with resolution 32: choose another folder"):
        collect(tmp_path, ["CartPole-v1"], {"random": 2}, workers=1, options={"resolution": 48})


def test_an_episode_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgym.envs.collect.MOST_STEPS", 5)
    env = GymnasiumEnv("CartPole-v1")
    assert len(record(env, "random", 0, steps=6)) == 6
    with pytest.raises(DataError, match=r"no end within 5 steps.*--max-steps"):
        record(env, "random", 0)
    env.close()


def test_environments_of_others_are_refused() -> None:
    with pytest.raises(InvalidOption, match="a simulator of worldgym without wrappers"):
        record(gym.make("CartPole-v1"), "random", 0)


def test_unknown_look_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"Simulator-Toy-v0 has no look 'reference'"):
        collect(tmp_path, ["toy"], {"expert": 1}, look="reference")


def test_task_names_are_not_paths(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for task in ("../x", "a/b", ".", ""):
        path = Job("Toy", task, "random", 0, BEHAVIOURS["random"], {}, None).path(folder)
        assert path.resolve().parent.parent == folder.resolve()


def test_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom worldgym.envs.collect import collect\n"
        f"collect(Path({str(tmp_path / 'data')!r}), ['toy'], {{'random': 1}}, workers=1)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert 'below if __name__ == "__main__"' in done.stderr.splitlines()[-1]
    assert "out of memory" not in done.stderr
