"""Runs of MBPO and of model-free DrQ-v2: resuming, files in the folder, failures."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldgym.agents.common.evaluation import Evaluation
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.mbpo.run import time_table, train
from worldgym.envs.simulators.metaworld import SimulatorMetaWorld
from worldgym.errors import CheckpointError, ConfigError, DataError, OutOfMemory, StorageError, TrainingError
from worldgym.runs.checkpoint import checkpoints
from worldgym.runs.log import Metrics
from worldgym.world_model import WorldModel

STEPS, EPISODE, SEED_STEPS = 40, 25, 13  # of the toys in conftest.py
WITH_A_MODEL, WITHOUT_A_MODEL = (
    pytest.mark.parametrize("model_based", [value], ids=[name], scope="module", indirect=True)
    for value, name in ((True, "mbpo"), (False, "drqv2"))
)


class Killed(BaseException):
    """Ends a run at once, like a kill signal: nothing catches it to tidy up."""


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill(*_: object, **__: object) -> None:
    raise Killed


def lines(folder: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in found]


def stored(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """A file of a run's only checkpoint."""
    (path,) = checkpoints(folder)
    return load_file(path / f"{name}.safetensors")


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights, optimizers, counters, replays, figures."""
    for name in ("state", "replay", "imagined"):
        one, other = stored(first, name), stored(second, name)
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert lines(first) == lines(second)


@pytest.fixture(scope="module", params=[True, False], ids=["mbpo", "drqv2"])
def model_based(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture(scope="module")
def unbroken(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    model_based: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a run that nothing disturbed; not to be written to."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(make_learner(model_based), make_env(), folder)
    return folder


def test_equal_seeds_make_equal_runs(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, unbroken: Path, tmp_path: Path
) -> None:
    train(make_learner(model_based), make_env(), tmp_path)
    assert_equal_runs(unbroken, tmp_path)


@pytest.mark.parametrize("count", [SEED_STEPS, 33])
def test_interrupted_run_resumes_exactly(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    count: int,
    model_based: bool,
    unbroken: Path,
    tmp_path: Path,
) -> None:
    learner = make_learner(model_based, make_env({count: interrupt}))
    assert not train(learner, make_env(), tmp_path)
    assert learner.step == count
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_interrupted_pixel_reward_model_resumes_exactly(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(make_learner(pixel_reward_updates=2), make_env(), whole)
    assert not train(make_learner(env=make_env({33: interrupt}), pixel_reward_updates=2), make_env(), parts)
    assert train(make_learner(pixel_reward_updates=2), make_env(), parts, resume=True)
    assert_equal_runs(whole, parts)
    assert any(name.startswith("pixel_rewards.optimizer.") for name in stored(parts, "state"))


@pytest.mark.parametrize("left", [1, 2, 5, 8])  # warm-up units before its end
def test_interrupted_warmup_resumes_exactly(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    left: int,
    model_based: bool,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner, warm_up = make_learner(model_based), MBPO.warm_up
    number = max(0, learner.warmup_units - left)

    def interrupted(self: MBPO) -> Metrics:
        if self.warmup_done == number:
            interrupt()
        return warm_up(self)

    with monkeypatch.context() as patch:
        patch.setattr(MBPO, "warm_up", interrupted)
        assert not train(learner, make_env(), tmp_path)
    assert (learner.step, learner.warmup_done) == (SEED_STEPS, number + 1)
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


@WITHOUT_A_MODEL
def test_interrupted_evaluation_is_repeated_on_resume(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, unbroken: Path, tmp_path: Path
) -> None:
    learner = make_learner(model_based)
    assert not train(learner, make_env({3: interrupt}), tmp_path)
    assert learner.step == 20
    assert not [line for line in lines(tmp_path) if "evaluation/success" in line]
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


@WITH_A_MODEL
@pytest.mark.parametrize(
    "place",
    [
        "worldgym.agents.drqv2.DrQv2.update",
        "worldgym.agents.mbpo.run.evaluate",
        "worldgym.agents.common.replay.ReplayBuffer.save",
        "shutil.rmtree",
    ],
)
def test_killed_run_resumes_exactly(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    place: str,
    model_based: bool,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is killed after its first checkpoint: in an update, an evaluation or the next checkpoint."""
    with monkeypatch.context() as patch:

        def armed() -> None:
            patch.setattr(place, kill)

        with pytest.raises(Killed):
            train(make_learner(model_based, make_env({28: armed})), make_env(), tmp_path)
    assert checkpoints(tmp_path)
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


@WITHOUT_A_MODEL
def test_run_killed_before_its_first_checkpoint_restarts(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(make_learner(model_based, make_env({11: kill})), make_env(), tmp_path)
    assert not checkpoints(tmp_path)
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_incomplete_checkpoints_are_removed_on_resume(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    train(make_learner(False, make_env({20: interrupt})), make_env(), tmp_path)
    (newest,) = checkpoints(tmp_path)
    shutil.copytree(newest, tmp_path / ".checkpoint-000007.abcd")
    shutil.copytree(newest, tmp_path / "checkpoint-000001")
    (tmp_path / "checkpoint-000001" / "state.safetensors").write_bytes(b"half")
    assert train(make_learner(False), make_env(), tmp_path, resume=True)
    assert len(checkpoints(tmp_path)) == 1
    assert not list(tmp_path.glob(".checkpoint*"))


def test_resuming_a_finished_run_changes_nothing(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, unbroken: Path, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    assert train(make_learner(model_based), make_env(), tmp_path / "run", resume=True)
    assert_equal_runs(unbroken, tmp_path / "run")


def test_environment_that_does_not_repeat_an_episode_raises(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    train(make_learner(False, make_env({31: interrupt})), make_env(), tmp_path)
    elsewhere: Any = np.zeros((32, 32, 3), np.uint8), 0.0, False, False, {}
    with pytest.raises(TrainingError, match="did not repeat episode 1: after step 6"):
        train(make_learner(False, make_env({6: lambda: elsewhere})), make_env(), tmp_path, resume=True)


@pytest.mark.simulator
def test_metaworld_run_resumes(
    make_env: Callable[..., Any],
    make_agent: Callable[..., DrQv2],
    settings: Callable[..., MBPOConfig],
    tmp_path: Path,
) -> None:
    def run(at: dict[int, Callable[[], Any]], resume: bool = False) -> bool:
        envs = [gym.wrappers.TimeLimit(SimulatorMetaWorld("plate-slide"), 6) for _ in range(2)]
        config = settings(steps=12, seed_steps=7, evaluate_every=12, evaluation_episodes=1)
        learner = MBPO(make_env(at, envs[0]), None, make_agent(action_dim=4, side=64), config)
        try:
            return train(learner, envs[1], tmp_path, resume=resume)
        finally:
            for env in envs:
                env.close()

    assert not run(at={9: interrupt})
    assert run(at={}, resume=True)  # a frame that differed would have been an error


def test_finished_run_writes_its_results(
    make_world_model: Callable[..., WorldModel], model_based: bool, unbroken: Path
) -> None:
    assert {path.stem for path in (unbroken / "videos").glob("*.mp4")} == {"0000020", "0000040"}
    assert all(path.stat().st_size for path in (unbroken / "videos").iterdir())
    assert list(unbroken.glob("events.out.tfevents.*"))
    agent = DrQv2.from_file(unbroken / "agent.safetensors")
    held = stored(unbroken, "state")
    assert all(torch.equal(value, held[f"agent.{name}"]) for name, value in agent.state_dict().items())
    assert (unbroken / "world_model").exists() == model_based
    if model_based:
        model = WorldModel.from_pretrained(unbroken / "world_model")
        start = make_world_model().transformer.llm.lm_head.weight
        assert not torch.equal(model.transformer.llm.lm_head.weight, start)
    about = json.loads((unbroken / "config.json").read_text())
    assert (about["method"], about["task"]) == ("MBPO" if model_based else "DrQ-v2", "toy")
    assert about["training"]["steps"] == STEPS
    assert about["agent"]["batch_size"] == 8
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary.keys() >= {"steps", "success", "return", "seconds", "machine", "commit", "date", "command"}


def test_metrics_are_logged(model_based: bool, unbroken: Path) -> None:
    found = lines(unbroken)
    logged = [line for line in found if not any(name.startswith("evaluation") for name in line)]
    warmup = [13, 13] if model_based else [13]
    assert [line["step"] for line in logged] == [5, 10, *warmup, 15, 20, 25, 30, 35, 40]
    evaluations = [line for line in found if "evaluation/success" in line]
    assert [line["step"] for line in evaluations] == [20, 40]
    assert all(0 <= line["evaluation/success"] <= 1 and line["evaluation/return"] > 0 for line in evaluations)
    names = set().union(*logged)
    assert names >= {"agent/critic_loss", "episode/return", "episode/success", "episode/length"}
    modelled = {
        "tokenizer/loss",
        "transformer/loss",
        "imagination/length",
        "imagination/reward",
        "imagination/uncertainty",
        "model_eval/psnr",
        "model_eval/reward",
        "model_eval/real_reward",
        "model_eval/reward_error",
    }
    assert names & modelled == (modelled if model_based else set())


def test_time_table_lists_every_phase(model_based: bool, unbroken: Path) -> None:
    rows = [line.split("|")[1:-1] for line in time_table(unbroken).splitlines()[2:]]
    seconds = json.loads((unbroken / "summary.json").read_text())["seconds"]
    assert [row[0].strip() for row in rows] == ["collect", "fit", "imagine", "update", "evaluate", "all"]
    assert [bool(seconds[name]) for name in ("fit", "imagine")] == [model_based] * 2
    assert all(seconds[name] > 0 for name in ("collect", "update", "evaluate"))
    assert int(rows[-1][1]) == round(sum(seconds.values()))


def test_last_metrics_are_logged_at_any_number_of_steps(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    assert train(make_learner(False, steps=17), make_env(), tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "agent/q" in line] == [15, 17]


def test_folder_of_another_run_is_refused(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    learner = make_learner(False, make_env({5: interrupt}))
    train(learner, make_env(), tmp_path)
    with pytest.raises(TrainingError, match="already holds a run: add --resume"):
        train(make_learner(False), make_env(), tmp_path)
    with pytest.raises(TrainingError, match=r"other settings: training.seed: saved 0, requested 1. Repeat"):
        train(make_learner(False, seed=1), make_env(), tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"method: saved 'DrQ-v2', requested 'MBPO'"):
        train(make_learner(True), make_env(), tmp_path, resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(make_learner(False), make_env(), tmp_path / "elsewhere", resume=True)


@pytest.mark.parametrize("name", ["state", "replay", "imagined"])
def test_truncated_checkpoint_raises_with_its_name(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], name: str, tmp_path: Path
) -> None:
    train(make_learner(False, make_env({5: interrupt})), make_env(), tmp_path)
    (newest,) = checkpoints(tmp_path)
    content = (newest / f"{name}.safetensors").read_bytes()
    (newest / f"{name}.safetensors").write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=rf"checkpoint-000001/{name}\.safetensors"):
        train(make_learner(False), make_env(), tmp_path, resume=True)


def test_full_disk_keeps_the_last_checkpoint(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ReplayBuffer, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    train(make_learner(False, make_env({18: interrupt})), make_env(), tmp_path)
    before = stored(tmp_path, "replay")
    with monkeypatch.context() as patch:
        patch.setattr(ReplayBuffer, "save", full)
        with pytest.raises(StorageError, match=r"No space left.*earlier files are kept"):
            train(make_learner(False), make_env(), tmp_path, resume=True)
    assert not list(tmp_path.glob(".checkpoint*"))
    after = stored(tmp_path, "replay")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_unwritable_folder_raises_with_its_name(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        train(make_learner(False), make_env(), tmp_path / "file" / "run")


@WITHOUT_A_MODEL
@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (float("nan"), DataError, "finite in float32, got nan"),
        (RuntimeError("the simulator is gone"), RuntimeError, "gone"),
    ],
)
def test_failing_environment_step_keeps_what_was_collected(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    reward: Any,
    error: type[Exception],
    message: str,
    unbroken: Path,
    model_based: bool,
    tmp_path: Path,
) -> None:
    def fail() -> Any:
        if isinstance(reward, Exception):
            raise reward
        return np.zeros((32, 32, 3), np.uint8), reward, False, False, {}

    with pytest.raises(error, match=message):
        train(make_learner(model_based, make_env({29: fail})), make_env(), tmp_path)
    learner = make_learner(model_based)
    assert train(learner, make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


@WITH_A_MODEL
def test_failing_first_step_of_an_episode_keeps_the_episodes_before(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], unbroken: Path, model_based: bool, tmp_path: Path
) -> None:
    def fail() -> Any:
        raise RuntimeError("the simulator is gone")

    with pytest.raises(RuntimeError, match="the simulator is gone"):
        train(make_learner(model_based, make_env({EPISODE + 1: fail})), make_env(), tmp_path)
    learner = make_learner(model_based)
    assert train(learner, make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_evaluation_follows_the_warmup_of_its_step(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, tmp_path: Path
) -> None:
    changes = {"evaluate_every": SEED_STEPS, "steps": SEED_STEPS + 1, "evaluation_episodes": 1}
    learner, seen = make_learner(model_based, **changes), []

    def looked(*_: Any) -> Evaluation:
        seen.append((learner.step, learner.agent.updates))
        return Evaluation(0.0, 0.0, np.zeros((2, 32, 32, 3), np.uint8))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldgym.agents.mbpo.run.evaluate", looked)
        assert train(learner, make_env(), tmp_path)
    assert seen == [(SEED_STEPS, 10), (SEED_STEPS + 1, 11)]


def test_run_that_ends_with_its_seed_steps_still_warms_up(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO], model_based: bool, tmp_path: Path
) -> None:
    learner = make_learner(model_based, steps=SEED_STEPS, evaluation_episodes=1)
    assert train(learner, make_env(), tmp_path)
    assert (learner.warming_up, learner.agent.updates) == (False, 10)


@WITH_A_MODEL
def test_failure_after_a_step_leaves_a_run_that_resumes_exactly(
    make_env: Callable[..., Any],
    make_learner: Callable[..., MBPO],
    model_based: bool,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step is counted when an episode is measured: what is saved then must not lack what follows from it."""

    def out_of_memory(*_: Any) -> None:
        raise OutOfMemory("so many frames do not fit")

    with monkeypatch.context() as patch:
        learner = make_learner(env=make_env({EPISODE: lambda: patch.setattr(WorldModel, "rollout", out_of_memory)}))
        with pytest.raises(OutOfMemory):
            train(learner, make_env(), tmp_path)
    assert train(make_learner(), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_evaluation_environment_must_match(make_learner: Callable[..., MBPO], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="uint8"):
        train(make_learner(False), gym.make("CartPole-v1"), tmp_path)
    assert not list(tmp_path.iterdir())
