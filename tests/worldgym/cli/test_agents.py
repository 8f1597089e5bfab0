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

from worldgym.cli import main
from worldgym.cli.agent import family, preset_of
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.runs.checkpoint import checkpoints
from worldgym.world_model import WorldModel

SMALL = (
    "--steps 24 --seed-steps 8 --warmup-model-updates 2 --warmup-rollouts 4 --warmup-agent-updates 8 --rollouts 4 "
    "--horizon 2 --rollout-every 5 "
    "--model-batch-size 24 --evaluate-every 12 --evaluation-episodes 1 --save-every 6 --log-every 6 "
    "--agent.channels 4 --agent.features 8 --agent.hidden 16 --agent.batch-size 8 --device cpu --threads 1"
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_from_nothing_to_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed and resumed run equals an uninterrupted one; demonstrations from the expert, and from a folder."""
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
    for name in ("state", "replay", "imagined"):
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
    assert (about["env"], about["evaluation_env"]) == ("Simulator-Toy-v0", "Simulator-Toy-v0")


def test_a_run_is_not_resumed_with_other_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        record(SimulatorToy(), "expert", seed).save(tmp_path / f"demos-{seed}" / "expert.safetensors")
    run = f"drqv2 --task toy {SMALL} --out {tmp_path}/run --demos-from {tmp_path}"
    assert main(f"{run}/demos-0".split()) == 0
    capsys.readouterr()
    assert main(f"{run}/demos-1 --resume".split()) == 2
    assert "demonstrated_actions" in capsys.readouterr().err


def test_dials_have_their_own_preset(tmp_path: Path) -> None:
    assert main(f"mbpo --task dials --demos 1 {SMALL} --out {tmp_path}/run".split()) == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (about["task"], about["world_model"], about["training"]["updates_per_step"]) == ("dials", "scratch", 12)
    assert about["training"]["pixel_reward_updates"] > 0
    assert WorldModel.from_pretrained(tmp_path / "run" / "world_model").config.action_dim == 8


def test_every_setting_has_an_option_with_the_presets_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["mbpo", "--task", "dials", "--help"])
    shown = capsys.readouterr().out
    for option in ("--rollouts", "--model.learning-rate", "--agent.batch-size", "--real-ratio.start", "--world-model"):
        assert option in shown
    assert "Updates of the agent after an environment step. (default: 12)" in " ".join(shown.replace("│", "").split())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("mbpo --task toy --preset large --out {out}", "unknown preset 'large'; did you mean 'paper'?"),
        ("mbpo --task toy --rollouts 0 --out {out}", "rollouts: expected a number above 0, got 0"),
        ("mbpo --task toy --world-model nothing --out {out}", "no checkpoint 'nothing'"),
        ("mbpo --task toy --world-model {checkpoint} --out {out}", "world model takes 4 actions, the environment 2"),
        ("drqv2 --task toy --demos-from {out} --out {out}", "expected demonstrations"),
        ("drqv2 --task toy --demos 3 --demos-from {demos} --out {out}", "expected 3 demonstrations of toy, found 1"),
        ("drqv2 --task toy --demos-from {data} --out {out}", "expected"),
        ("drqv2 --task toy --resume --out {out}", "nothing to resume"),
        ("drqv2 --task toy --out {held}", "already holds a run: add --resume"),
        ("drqv2 --task toy --out {held}/config.json/x", "could not write"),
        ("drqv2 --task toy --device tpu9 --out {out}", "device 'tpu9' cannot be used here"),
        ("drqv2 --task tyo --out {out}", "did you mean 'toy'"),
        ("drqv2 --task CartPole-v1 --out {out}", "expected continuous actions (Box [A])"),
        ("curves {out} --out {out}/x.png", "expected a run of `worldgym mbpo`"),
    ],
)
def test_errors_are_one_line_without_a_traceback(
    command: str,
    message: str,
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
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rolouts 3", "--rollouts"),
        ("--rollouts many", "invalid literal for int() with base 10: 'many'"),
        ("--agent.batchsize 8", "--agent.batch-size"),
        ("--demos -1", "expected a whole number from 0"),
        ("--precision half", "invalid choice 'half' for argument '--precision'"),
    ],
)
def test_invalid_options_name_the_option(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(f"mbpo --task toy --out nowhere {options}".split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "checkpoint", "reward_scale"),
    [
        ("hammer", "metaworld-64", 0.02),
        ("PickCube-v1", "maniskill-64", 0.12),
        ("push_red", "robodesk-64", 0.6),
        ("libero_spatial/3", None, 0.6),
        ("Lift", None, 0.3),
        ("toy", None, None),
    ],
)
def test_tasks_get_their_simulators_world_model_and_rewards_of_usual_size(
    task: str, checkpoint: str | None, reward_scale: float | None
) -> None:
    assert family(task).checkpoint == checkpoint
    if reward_scale is not None:
        assert preset_of(task, "cpu").agent.reward_scale == pytest.approx(reward_scale)
