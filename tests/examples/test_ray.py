"""The examples that run on Ray, each on a local cluster of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worldgym.runs.checkpoint import checkpoints

pytestmark = pytest.mark.other_simulator  # a minute, for starting clusters

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 600
SMALL = (
    "--steps 12 --seed-steps 4 --evaluate-every 6 --evaluation-episodes 1 --save-every 3 --log-every 6 --demos 1 "
    "--agent.channels 4 --agent.features 8 --agent.hidden 16 --agent.batch-size 8 --device cpu --threads 1"
)


def command(example: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / example), "--ray", "local", *map(str, arguments)]


def test_sweep_continues_the_runs_of_killed_workers(tmp_path: Path) -> None:
    seeds = [tmp_path / "sweep" / f"seed-{seed}" for seed in (3, 4)]
    call = command("ray_sweep.py", "--seeds", "3", "4", "--out", tmp_path / "sweep", "--", "drqv2", "--task", "toy")
    with subprocess.Popen([*call, *SMALL.split()], stdout=subprocess.PIPE, text=True) as sweep:
        while sweep.poll() is None and not any(checkpoints(seed) for seed in seeds):
            time.sleep(0.01)
        workers = [child for child in psutil.Process(sweep.pid).children(recursive=True) if is_run(child)]
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        shown, _ = sweep.communicate(timeout=SECONDS)
    assert workers
    assert sweep.returncode == 0
    told = [line for line in shown.splitlines() if line.startswith(str(tmp_path))]  # between Ray's words on the deaths
    assert sorted(told) == [f"{seed}: finished" for seed in seeds]
    assert all((seed / "summary.json").exists() for seed in seeds)


def is_run(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] == ["ray::train"]
    except psutil.NoSuchProcess:
        return False


def test_sweep_tells_which_runs_failed(tmp_path: Path) -> None:
    call = command("ray_sweep.py", "--seeds", "0", "--out", tmp_path, "--", "drqv2", "--task", "tyo")
    sweep = subprocess.run(call, stdout=subprocess.PIPE, text=True, timeout=SECONDS)
    assert sweep.returncode == 1
    assert sweep.stdout == f"{tmp_path}/seed-0: failed, see output.txt there\n"
    assert "did you mean 'toy'" in (tmp_path / "seed-0" / "output.txt").read_text()


def test_rllib_trains_ppo_in_a_learned_environment(cartpole_twin: Path) -> None:
    sizes = ["--envs", "3", "--horizon", "8", "--steps", "48", "--episodes", "1"]
    call = command("rllib_ppo_in_imagination.py", "--checkpoint", cartpole_twin, "--env", "CartPole-v1", *sizes)
    done = subprocess.run(call, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    *trained, last = done.stdout.splitlines()
    steps = [int(line.partition(" steps: imagined return ")[0]) for line in trained]
    assert len(steps) == 2
    assert 24 <= steps[0] <= steps[1] - 24  # a batch has a few steps more where episodes end
    assert 1 <= float(last.removeprefix("Simulator-v0: return ")) <= 500
