"""`worldgym mbpo`, `drqv2` and `curves`, as a user runs them; the toy world needs no simulator."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldgym.agents.mbpo.run import checkpoints
from worldgym.cli import build_parser, main
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.world_model import WorldModel

SMALL = (
    "--set steps=24 seed_steps=8 initial_model_updates=2 initial_rollouts=4 rollouts=4 horizon=2 rollout_every=5 "
    "model_batch_size=24 evaluate_every=12 evaluation_episodes=1 save_every=6 log_every=6 "
    "--set agent.channels=4 agent.features=8 agent.hidden=16 agent.batch_size=8 --device cpu --threads 1"
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("command", ["mbpo", "drqv2", "curves"])
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    example = capsys.readouterr().out.partition("example:\n")[2].split()
    assert example[:2] == ["worldgym", command]
    assert callable(build_parser().parse_args(example[1:]).run)


def test_from_nothing_to_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed and resumed run equals one that was not; demonstrations from the expert, from a folder."""
    killed, unbroken, baseline = (tmp_path / name for name in ("killed", "unbroken", "baseline"))
    command = ["mbpo", "--task", "toy", "--demos", "2", *SMALL.split()]
    process = subprocess.Popen(
        [sys.executable, "-m", "worldgym", *command, "--out", str(killed)], stderr=subprocess.DEVNULL
    )
    with process:
        while process.poll() is None and not checkpoints(killed):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert main([*command, "--out", str(killed), "--resume"]) == 0
    assert "| collect |" in capsys.readouterr().out
    demonstrations = f"--demos 2 --demos-from {killed}/demonstrations"
    assert main(f"mbpo --task toy {demonstrations} {SMALL} --out {unbroken}".split()) == 0
    for name in ("learner", "replay", "imagined"):
        one, other = (load_file(checkpoints(run)[-1] / f"{name}.safetensors") for run in (killed, unbroken))
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert main(f"drqv2 --task toy {demonstrations} {SMALL} --out {baseline}".split()) == 0
    capsys.readouterr()
    assert main(f"curves {killed} {unbroken} {baseline} --out {tmp_path}/curves.png".split()) == 0
    assert capsys.readouterr().out.split() == [f"{tmp_path}/curves.png", f"{tmp_path}/curves.json"]
    found = json.loads((tmp_path / "curves.json").read_text())["toy"]
    assert set(found) == {"MBPO (scratch)", "DrQ-v2"}
    assert found["DrQ-v2"]["steps"] == [12, 24]
    about = json.loads((killed / "config.json").read_text())
    assert (about["world_model"], about["demonstrations"], about["task"]) == ("scratch", 2, "toy")


def test_the_dials_have_a_preset_of_their_own(tmp_path: Path) -> None:
    assert main(f"mbpo --task dials --demos 1 {SMALL} --out {tmp_path}/run".split()) == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (about["task"], about["world_model"], about["training"]["updates_per_step"]) == ("dials", "scratch", 12)
    assert about["training"]["reader_updates"] > 0
    assert WorldModel.from_pretrained(tmp_path / "run" / "world_model").config.action_dim == 8


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mbpo --task toy --preset large --out {out}", "unknown preset 'large'; did you mean 'paper'?"),
        ("mbpo --task toy --set rolouts=3 --out {out}", "there is no setting 'rolouts'; did you mean 'rollouts'"),
        ("mbpo --task toy --set rollouts=many --out {out}", "rollouts: expected int, got 'many'"),
        ("mbpo --task toy --set precision=half --out {out}", "precision must be 'auto', 'float32' or 'bfloat16'"),
        ("drqv2 --task toy --set seed=3 --out {out}", "seed has an option of its own: give --seed instead"),
        ("drqv2 --task toy --steps 9 --set steps=3 --out {out}", "steps has an option of its own"),
        ("mbpo --task toy --world-model nothing --out {out}", "no checkpoint 'nothing'"),
        ("mbpo --task toy --world-model {checkpoint} --out {out}", "world model takes 4 actions, the environment 2"),
        ("drqv2 --task toy --demos-from {out} --out {out}", "no demonstrations"),
        ("drqv2 --task toy --demos 3 --demos-from {demos} --out {out}", "holds 1 demonstrations of toy, 3 were asked"),
        ("drqv2 --task toy --demos-from {data} --out {out}", "demonstrates something else"),
        ("drqv2 --task toy --resume --out {out}", "nothing to resume"),
        ("drqv2 --task toy --out {held}", "already holds a run; add --resume"),
        ("drqv2 --task toy --out {held}/config.json/x", "could not write"),
        ("drqv2 --task toy --device tpu9 --out {out}", "device 'tpu9' cannot be used here"),
        ("curves {out} --out {out}/x.png", "holds no run of `worldgym mbpo`"),
    ],
)
def test_errors_are_one_line_without_a_traceback(
    command: str,
    said: str,
    tiny_checkpoint: Path,
    synthetic_recordings: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, held, demos = (tmp_path / name for name in ("out", "held", "demos"))
    held.mkdir()
    (held / "config.json").write_text("{}")
    record(SimulatorToy(), "expert", 0).save(demos / "expert.safetensors")
    filled = command.format(checkpoint=tiny_checkpoint, data=synthetic_recordings, out=out, held=held, demos=demos)
    assert main(filled.split()) == 2
    shown = capfd.readouterr().err.strip()
    assert shown.startswith("worldgym: ")
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not out.exists()


@pytest.mark.simulator
def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"drqv2 --task plate-slid --out {tmp_path}/run".split()) == 2
    told = capsys.readouterr().err
    assert "did you mean 'plate-slide'" in told
    assert "(toy worlds: toy, dials)" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["rollouts", "rollouts=", "rollouts=3 4", "=3 4"])
def test_settings_are_names_and_values(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["mbpo", "--task", "toy", "--out", "nowhere", "--set", setting])
    assert "expected NAME=VALUE" in capsys.readouterr().err
