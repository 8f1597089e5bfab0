"""MBPO and model-free DrQ-v2 on the toy world, with networks so small that a run takes seconds."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from worldgym.agents.common.evaluation import FIRST_SEED, Evaluation, evaluate
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.rewards import ClippedRewards, HeadRewards, PixelRewards
from worldgym.agents.common.rollouts import imagine_rollouts
from worldgym.agents.common.schedules import Linear
from worldgym.agents.common.transitions import Transitions
from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.mbpo.collector import Env
from worldgym.agents.mbpo.run import time_table, train
from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig, WorldModelConfig
from worldgym.envs.collect import record
from worldgym.envs.simulators.metaworld import SimulatorMetaWorld
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import CheckpointError, ConfigError, DataError, OutOfMemory, StorageError, TrainingError
from worldgym.runs.checkpoint import checkpoints
from worldgym.runs.log import Metrics
from worldgym.training.initial import fresh_world_model
from worldgym.training.online import OnlineConfig
from worldgym.world_model import WorldModel

STEPS, EPISODE, SEED_STEPS = 40, 25, 13
AGENT = DrQv2Config(channels=4, features=8, hidden=16, batch_size=8, stddev_steps=50, precision="float32")
TOKENIZER = CompactTokenizerConfig(
    resolution=32,
    width=8,
    depth=1,
    context_grid=4,
    frame_grid=2,
    latent_channels=4,
    context_codes=16,
    dynamics_codes=16,
)
TRANSFORMER = TransformerConfig(
    layers=1, heads=2, key_value_heads=1, hidden_size=16, mlp_size=32, max_positions=TOKENIZER.layout.length(6)
)
At = dict[int, Callable[[], Any]]
WITH_A_MODEL, WITHOUT_A_MODEL = (
    pytest.mark.parametrize("model_based", [value], ids=[name], scope="module", indirect=True)
    for value, name in ((True, "mbpo"), (False, "drqv2"))
)


class Killed(BaseException):
    """Ends a run wherever it stands, without its being able to tidy up."""


class Hooked(gym.Wrapper[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]):
    """``at[count]()`` follows the step of that number, and may give another result."""

    def __init__(self, env: Env, at: At) -> None:
        super().__init__(env)
        self.at, self.count, self.seeds = at, 0, list[int | None]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Any:
        self.count += 1
        result = super().step(action)
        return self.at.get(self.count, lambda: None)() or result


def make_env(at: At | None = None) -> Hooked:
    return Hooked(gym.wrappers.TimeLimit(SimulatorToy(), EPISODE), at or {})


def settings(**changes: Any) -> MBPOConfig:
    """Everything happens several times within :data:`STEPS` steps, and seldom at the same one."""
    return MBPOConfig(
        **{
            "steps": STEPS,
            "seed_steps": SEED_STEPS,
            "updates_per_step": 1,
            "warmup_model_updates": 2,
            "tokenizer_every": 10,
            "transformer_every": 5,
            "model_batch_size": 2,
            "segment_length": 6,
            "warmup_rollouts": 8,
            "warmup_agent_updates": 10,
            "rollout_every": 7,
            "rollouts": 4,
            "horizon": 3,
            "keep_rollouts": 3,
            "model": OnlineConfig(future_frames=2, precision="float32"),
            "log_every": 5,
            "precision": "float32",
            "evaluate_every": 20,
            "evaluation_episodes": 2,
            "save_every": 15,
            **changes,
        }
    )


def make_world_model(**changes: Any) -> WorldModel:
    options = {"tokenizer": TOKENIZER, "transformer": TRANSFORMER, "action_dim": 2, "reward": True, **changes}
    return fresh_world_model(WorldModelConfig(**options), seed=0)


def make_agent(frame_stack: int = 3, action_dim: int = 2) -> DrQv2:
    return DrQv2((32, 32, 3), frame_stack, action_dim, AGENT, seed=0)


def make_learner(model_based: bool = True, env: Env | None = None, **changes: Any) -> MBPO:
    world_model = make_world_model() if model_based else None
    return MBPO(env or make_env(), world_model, make_agent(), settings(**changes))


def updates(learner: MBPO) -> tuple[int, int]:
    """Of tokenizer and transformer."""
    assert learner.world.trainer is not None
    return learner.world.trainer.updates["tokenizer"], learner.world.trainer.updates["transformer"]


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


@pytest.fixture(scope="module", autouse=True)
def _few_frames_to_solve_for_rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldgym.agents.mbpo.world.REWARD_HEAD_FRAMES", 60)
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["mbpo", "drqv2"])
def model_based(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture(scope="module")
def unbroken(model_based: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed; not to be written to."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(make_learner(model_based), make_env(), folder)
    return folder


# ---------------------------------------------------------------------------------------------------------- resuming


def test_equal_seeds_make_equal_runs(model_based: bool, unbroken: Path, tmp_path: Path) -> None:
    train(make_learner(model_based), make_env(), tmp_path)
    assert_equal_runs(unbroken, tmp_path)


@pytest.mark.parametrize("count", [SEED_STEPS, 33])
def test_interrupted_run_resumes_exactly(count: int, model_based: bool, unbroken: Path, tmp_path: Path) -> None:
    learner = make_learner(model_based, make_env({count: interrupt}))
    assert not train(learner, make_env(), tmp_path)
    assert learner.step == count
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_interrupted_pixel_reward_model_resumes_exactly(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(make_learner(pixel_reward_updates=2), make_env(), whole)
    assert not train(make_learner(env=make_env({33: interrupt}), pixel_reward_updates=2), make_env(), parts)
    assert train(make_learner(pixel_reward_updates=2), make_env(), parts, resume=True)
    assert_equal_runs(whole, parts)
    assert any(name.startswith("pixel_rewards.optimizer.") for name in stored(parts, "state"))


@pytest.mark.parametrize("left", [1, 2, 5, 8])  # warm-up units before its end
def test_interrupted_warmup_resumes_exactly(
    left: int, model_based: bool, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
def test_interrupted_evaluation_is_repeated_on_resume(model_based: bool, unbroken: Path, tmp_path: Path) -> None:
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
    place: str, model_based: bool, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, after the first checkpoint, where it stands: in an update, an evaluation, a checkpoint, ..."""
    with monkeypatch.context() as patch:

        def armed() -> None:
            patch.setattr(place, kill)

        with pytest.raises(Killed):
            train(make_learner(model_based, make_env({28: armed})), make_env(), tmp_path)
    assert checkpoints(tmp_path)
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


@WITHOUT_A_MODEL
def test_run_killed_before_its_first_checkpoint_restarts(model_based: bool, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(make_learner(model_based, make_env({11: kill})), make_env(), tmp_path)
    assert not checkpoints(tmp_path)
    assert train(make_learner(model_based), make_env(), tmp_path, resume=True)
    assert_equal_runs(unbroken, tmp_path)


def test_incomplete_checkpoints_are_removed_on_resume(tmp_path: Path) -> None:
    train(make_learner(False, make_env({20: interrupt})), make_env(), tmp_path)
    (newest,) = checkpoints(tmp_path)
    shutil.copytree(newest, tmp_path / ".checkpoint-000007.abcd")
    shutil.copytree(newest, tmp_path / "checkpoint-000001")
    (tmp_path / "checkpoint-000001" / "state.safetensors").write_bytes(b"half")
    assert train(make_learner(False), make_env(), tmp_path, resume=True)
    assert len(checkpoints(tmp_path)) == 1
    assert not list(tmp_path.glob(".checkpoint*"))


def test_resuming_a_finished_run_changes_nothing(model_based: bool, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    assert train(make_learner(model_based), make_env(), tmp_path / "run", resume=True)
    assert_equal_runs(unbroken, tmp_path / "run")


def test_environment_that_does_not_repeat_an_episode_raises(tmp_path: Path) -> None:
    train(make_learner(False, make_env({31: interrupt})), make_env(), tmp_path)
    elsewhere: Any = np.zeros((32, 32, 3), np.uint8), 0.0, False, False, {}
    with pytest.raises(TrainingError, match="did not repeat episode 1: after step 6"):
        train(make_learner(False, make_env({6: lambda: elsewhere})), make_env(), tmp_path, resume=True)


@pytest.mark.simulator
def test_metaworld_run_resumes(tmp_path: Path) -> None:
    def run(at: At, resume: bool = False) -> bool:
        envs = [gym.wrappers.TimeLimit(SimulatorMetaWorld("plate-slide"), 6) for _ in range(2)]
        config = settings(steps=12, seed_steps=7, evaluate_every=12, evaluation_episodes=1)
        learner = MBPO(Hooked(envs[0], at), None, DrQv2((64, 64, 3), 3, 4, AGENT), config)
        try:
            return train(learner, envs[1], tmp_path, resume=resume)
        finally:
            for env in envs:
                env.close()

    assert not run(at={9: interrupt})
    assert run(at={}, resume=True)  # a frame that differed would have been an error


# ---------------------------------------------------------------------------------------------------------- the folder


def test_finished_run_writes_its_results(model_based: bool, unbroken: Path) -> None:
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
    assert about["agent"]["batch_size"] == AGENT.batch_size
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary.keys() >= {"steps", "success", "return", "seconds", "machine", "commit", "date", "command"}


def test_metrics_are_logged(model_based: bool, unbroken: Path) -> None:
    found = lines(unbroken)
    logged = [line for line in found if not any(name.startswith("evaluation") for name in line)]
    prepared = [13, 13] if model_based else [13]
    assert [line["step"] for line in logged] == [5, 10, *prepared, 15, 20, 25, 30, 35, 40]
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


def test_last_metrics_are_logged_at_any_number_of_steps(tmp_path: Path) -> None:
    assert train(make_learner(False, steps=17), make_env(), tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "agent/q" in line] == [15, 17]


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
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
def test_truncated_checkpoint_raises_with_its_name(name: str, tmp_path: Path) -> None:
    train(make_learner(False, make_env({5: interrupt})), make_env(), tmp_path)
    (newest,) = checkpoints(tmp_path)
    content = (newest / f"{name}.safetensors").read_bytes()
    (newest / f"{name}.safetensors").write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=rf"checkpoint-000001/{name}\.safetensors"):
        train(make_learner(False), make_env(), tmp_path, resume=True)


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_unwritable_folder_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        train(make_learner(False), make_env(), tmp_path / "file" / "run")


@WITHOUT_A_MODEL
@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (float("nan"), DataError, "finite rewards, got nan"),
        (RuntimeError("the simulator is gone"), RuntimeError, "gone"),
    ],
)
def test_failing_environment_step_keeps_what_was_collected(
    reward: Any, error: type[Exception], message: str, unbroken: Path, model_based: bool, tmp_path: Path
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


# ------------------------------------------------------------------------------------------------------ the algorithm


def test_schedule_of_all_updates() -> None:
    learner, config = make_learner(), settings()
    while learner.step < SEED_STEPS:
        learner.advance()
    assert (learner.agent.updates, learner.world.rollout_batches, updates(learner)) == (0, 0, (0, 0))
    assert learner.warming_up
    while learner.warming_up:
        assert learner.agent.updates == (7 if learner.warmup_done == 2 + 2 + 2 + 1 else 0)
        learner.warm_up()
    assert learner.warmup_done == learner.warmup_units == 2 + 2 + 2 + 2  # 7 agent updates after each of the last
    assert updates(learner) == (2, 2)
    assert learner.agent.updates == config.warmup_agent_updates == 10
    assert learner.world.rollout_batches == 2 + 2
    while learner.step < STEPS:
        learner.advance()
    assert learner.agent.updates == 10 + STEPS - SEED_STEPS
    assert updates(learner) == (2 + 3, 2 + 6)  # at 20, 30, 40; at 15, 20, 25, 30, 35, 40
    assert learner.world.rollout_batches == 4 + 4  # at 14, 21, 28, 35
    assert len(learner.imagined) == config.keep_rollouts * config.rollouts * config.horizon
    assert len(learner.replay) == STEPS


@pytest.mark.parametrize(("count", "units"), [(0, 0), (6, 1), (7, 1), (8, 2), (14, 2)])
def test_warmup_updates_of_an_agent_without_a_world_model(count: int, units: int) -> None:
    for learner in (make_learner(False, warmup_agent_updates=count), make_learner(warmup_agent_updates=count)):
        while learner.step < SEED_STEPS or learner.warming_up:
            learner.advance()
        assert learner.agent.updates == count
        assert learner.warmup_done == units + (0 if learner.world is None else 6)


def test_evaluation_follows_the_warmup_of_its_step(model_based: bool, tmp_path: Path) -> None:
    changes = {"evaluate_every": SEED_STEPS, "steps": SEED_STEPS + 1, "evaluation_episodes": 1}
    learner, seen = make_learner(model_based, **changes), []

    def looked(*_: Any) -> Evaluation:
        seen.append((learner.step, learner.agent.updates))
        return Evaluation(0.0, 0.0, np.zeros((2, 32, 32, 3), np.uint8))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldgym.agents.mbpo.run.evaluate", looked)
        assert train(learner, make_env(), tmp_path)
    assert seen == [(SEED_STEPS, 10), (SEED_STEPS + 1, 11)]


def test_run_that_ends_with_its_seed_steps_still_warms_up(model_based: bool, tmp_path: Path) -> None:
    learner = make_learner(model_based, steps=SEED_STEPS, evaluation_episodes=1)
    assert train(learner, make_env(), tmp_path)
    assert (learner.warming_up, learner.agent.updates) == (False, 10)


@WITH_A_MODEL
def test_failure_after_a_step_leaves_a_run_that_resumes_exactly(
    model_based: bool, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_no_rollouts_once_batches_are_all_real() -> None:
    learner = make_learner(real_ratio=Linear(0.5, 1.0, 25))
    while learner.step < STEPS:
        learner.advance()
    assert learner.world.rollout_batches == 4 + 2  # at 14 and 21, not at 28 and 35
    learner = make_learner(real_ratio=Linear(1.0, 1.0, 1))
    while learner.step < STEPS:
        learner.advance()
    assert not learner.world.rollout_batches
    assert updates(learner) == (2 + 3, 2 + 6)  # the world model learns all the same


def test_schedule_of_reward_head_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    config, solved = settings(reward_head_every=10, warmup_model_updates=0), list[int]()
    learner = MBPO(make_env(), random_world_model(), make_agent(), config)
    trainer = learner.world.trainer
    assert trainer is not None
    solve = trainer.refit_rewards
    monkeypatch.setattr(trainer, "refit_rewards", lambda batches: (solved.append(learner.step), solve(batches)))
    while learner.step < STEPS:
        before, times = trainer.world_model.transformer.reward_linear.bias.clone(), len(solved)
        learner.advance()
        after = trainer.world_model.transformer.reward_linear.bias
        assert len(solved) == times or not torch.equal(before, after)
    assert solved == [SEED_STEPS, 20, 30, 40]  # the first time before the first rollouts


def test_seed_steps_are_uniform_and_later_actions_the_agents() -> None:
    """Two agents, of which one has learned to go to a corner: they differ from the end of the ``seed_steps`` on."""
    taken = []
    for biased in (False, True):
        learner = make_learner(False)
        if biased:
            with torch.no_grad():
                list(learner.agent.actor.parameters())[-1].fill_(9.0)
        for _ in range(EPISODE - 1):
            learner.collect()
        assert learner.agent.step == learner.step == EPISODE - 1
        taken.append(learner.state_dict()["episode.actions"])
    first, later = (torch.stack(taken)[:, part] for part in (slice(SEED_STEPS), slice(SEED_STEPS, None)))
    assert torch.equal(*first)
    assert len(set(first.flatten().tolist())) == 2 * SEED_STEPS
    assert later[1].mean() > 0.5 > later[0].mean()


def test_demonstrations_are_in_the_replay_at_the_start() -> None:
    demonstrations = [record(SimulatorToy(), "expert", seed) for seed in range(2)]
    learner = MBPO(make_env(), make_world_model(), make_agent(), settings(seed_steps=0), demonstrations)
    assert len(learner.replay) == 2 * EPISODE
    batch = learner.replay.segments(np.random.default_rng(0), 1, EPISODE + 1)
    assert any(np.array_equal(batch.frames[0], episode.frames) for episode in demonstrations)
    assert learner.warming_up  # there is something to learn from at once


@pytest.mark.parametrize(("ratio", "share"), [(Linear(1.0, 0.0, 2 * STEPS), 0.5), (Linear(0.25, 0.25, 1), 0.25)])
def test_share_of_real_steps_follows_its_schedule(ratio: Linear, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(real_ratio=ratio, updates_per_step=50)
    while learner.step < SEED_STEPS:
        learner.advance()
    frames = np.zeros((1, 6, 32, 32, 3), np.uint8)
    learner.imagined.add_episodes(frames, np.zeros((1, 3, 2)), np.full((1, 3), 100.0), context=3)
    learner._streams.step, real = STEPS, list[float]()

    def update(batch: Transitions) -> Metrics:
        real.append(float((batch.rewards < 50).float().mean()))
        return {}

    monkeypatch.setattr(learner.agent, "update", update)
    learner.update()
    assert len(real) == 50
    assert np.mean(real) == pytest.approx(share, abs=0.02)


def greedy(world_model: WorldModel) -> WorldModel:
    config = dataclasses.replace(world_model.config, sampling=Sampling(top_k=1))
    return WorldModel(config, world_model.tokenizer, world_model.transformer)


@pytest.fixture(scope="module")
def stacks() -> torch.Tensor:
    """Where rollouts begin, uint8 ``[6, 3, 32, 32, 3]``."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4, 3), np.uint8)
    return torch.from_numpy(blocks.repeat(8, axis=2).repeat(8, axis=3))


def random_world_model() -> WorldModel:
    """Random weights whose outputs depend strongly on the inputs."""
    world_model = make_world_model()
    torch.manual_seed(0)
    for weight in world_model.transformer.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return greedy(world_model)


def policy(seen: torch.Tensor) -> NDArray[np.float32]:
    """Any function of all that is seen."""
    means = seen.float().mean(dim=(1, 2, 3, 4)) / 255
    return torch.stack([means, 1 - means], dim=1).numpy()


def test_world_model_is_evaluated_on_every_episode() -> None:
    learner = make_learner(seed_steps=STEPS)
    learner.world.world_model = learner.world.trainer.world_model = random_world_model()  # type: ignore[union-attr]
    found = [learner.collect() and learner.learn() for _ in range(EPISODE)]  # figures of a step end an episode
    assert not any(found[:-1])
    frames, actions, rewards = learner.replay.newest(5)
    made = learner.world.world_model.rollout(frames[:, :2], actions[:, 1:], top_k=1)
    mse = (made.frames.float() - frames[:, 2:].float()).square().mean() / 255**2
    assert len(frames) == 6
    assert found[-1]["model_eval/psnr"] == pytest.approx(-10 * float(mse.log10()), abs=1e-3)
    assert found[-1]["model_eval/reward"] == pytest.approx(float(made.rewards.mean()), rel=1e-4)
    assert found[-1]["model_eval/real_reward"] == pytest.approx(float(rewards[:, 1:].mean()))
    error = (made.rewards - rewards[:, 1:]).square().mean().sqrt()
    assert found[-1]["model_eval/reward_error"] == pytest.approx(float(error), rel=1e-4)


def test_untrained_world_model_is_not_evaluated() -> None:
    learner = make_learner(seed_steps=STEPS)
    figures = [learner.advance() for _ in range(EPISODE)][-1]
    assert "episode/return" in figures
    assert "model_eval/psnr" not in figures


def test_rollouts_equal_the_world_models_own(stacks: torch.Tensor) -> None:
    world_model = random_world_model()
    made = imagine_rollouts(world_model, policy, stacks, 5)
    assert made.frames.shape == (6, 3 + 5, 32, 32, 3)
    assert np.array_equal(made.frames[:, :3], stacks.numpy())
    assert (made.lengths == 5).all()
    same = world_model.rollout(stacks[:, -2:], made.actions, top_k=1)
    assert np.array_equal(made.frames[:, 3:], same.frames.numpy())
    assert np.allclose(made.rewards, same.rewards.numpy(), atol=1e-6)
    assert np.allclose(made.uncertainty, same.uncertainty.numpy(), atol=1e-6)
    seen = torch.from_numpy(made.frames)
    for step in range(5):
        assert np.allclose(made.actions[:, step], policy(seen[:, step : step + 3]), atol=1e-6)


def test_rollouts_end_before_uncertain_frames(stacks: torch.Tensor) -> None:
    world_model = random_world_model()
    full = imagine_rollouts(world_model, policy, stacks, 5)
    unsure = full.uncertainty
    limit = float(np.median(unsure[:, 2:]))
    made = imagine_rollouts(world_model, policy, stacks, 5, max_uncertainty=limit)
    first = np.where((unsure > limit).any(1), (unsure > limit).argmax(1), 5)
    assert np.array_equal(made.lengths, first)
    assert len(set(first)) > 1
    replay = ReplayBuffer((32, 32, 3), 2, 100)
    made.store(replay, made_at=1)
    assert len(replay) == first.sum()
    for row, length in enumerate(first):
        assert np.array_equal(made.frames[row, : 3 + length], full.frames[row, : 3 + length])
        assert np.array_equal(made.actions[row, :length], full.actions[row, :length])
        assert np.allclose(made.rewards[row, :length], full.rewards[row, :length], atol=1e-6)
        assert (made.uncertainty[row] <= limit).all()
    nothing = imagine_rollouts(world_model, policy, stacks, 5, max_uncertainty=1e-9)
    nothing.store(replay, made_at=2)
    assert not nothing.lengths.any()
    assert len(replay) == first.sum()


def test_clipped_rewards(stacks: torch.Tensor) -> None:
    world_model = random_world_model()
    full = imagine_rollouts(world_model, policy, stacks, 5).rewards
    low, high = np.quantile(full, [0.3, 0.7]).tolist()
    made = imagine_rollouts(world_model, policy, stacks, 5, rewards=ClippedRewards(HeadRewards(), low, high))
    assert np.array_equal(made.rewards, full.clip(np.float32(low), np.float32(high)))


def test_pixel_rewards_replace_the_world_models_own(stacks: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(pixel_reward_updates=2)
    while learner.step < 20:
        learner.advance()
    assert learner.world.pixel_rewards is not None
    made = imagine_rollouts(random_world_model(), policy, stacks, 5, rewards=PixelRewards(learner.world.pixel_rewards))
    wanted = learner.world.pixel_rewards.predict(torch.from_numpy(made.frames[:, 3:])).numpy()
    assert np.allclose(made.rewards, wanted, atol=1e-6)

    def red_of_a_pixel(frames: torch.Tensor) -> torch.Tensor:
        return frames[..., 9, 9, 0] / 255

    learner.imagined = learner.imagined.__class__((32, 32, 3), 2, 100, frame_stack=3)
    monkeypatch.setattr(learner.world.pixel_rewards, "predict", red_of_a_pixel)
    monkeypatch.setattr(learner.replay, "reward_range", lambda: (-1.0, 1.0))
    learner._streams.step = 21
    learner.imagine()
    held = learner.imagined.segments(np.random.default_rng(0), 50, 2)
    assert torch.equal(held.rewards[:, 0], red_of_a_pixel(held.frames[:, 1]))


def test_pixel_reward_model_is_trained_before_the_first_rollouts() -> None:
    config = settings(pixel_reward_updates=1, warmup_model_updates=0)
    learner = MBPO(make_env(), random_world_model(), make_agent(), config)
    while learner.step < SEED_STEPS:
        learner.advance()
    learner.warm_up()
    assert learner.world.pixel_rewards is not None
    real = learner.replay.segments(np.random.default_rng(0), 12, 2)
    errors = learner.world.pixel_rewards.predict(real.frames[:, 1]) - real.rewards[:, 0]
    assert errors.square().mean() < 0.1 * real.rewards.square().mean()
    drawn = learner.imagined.segments(np.random.default_rng(0), 20, 2).rewards
    assert drawn.std() > 0


def test_untrained_world_model_imagines_nothing() -> None:
    learner = make_learner(warmup_model_updates=0, reward_head_every=1)
    while learner.step < 14 or learner.warming_up:
        learner.advance()
    assert (learner.world.rollout_batches, len(learner.imagined)) == (0, 0)
    assert learner.agent.updates == 10 + 1
    while learner.step < 21:
        learner.advance()
    assert learner.world.rollout_batches == 1  # the transformer learned at 15 and 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_length": 3}, "needs segments of 4 to 8 frames, got 3"),
        ({"segment_length": 9}, "needs segments of 4 to 8 frames, got 9"),
        ({"seed_steps": 4}, "got 6 frames, but the longest episode after seed_steps has 5"),
        ({"seed_steps": 40, "segment_length": 8}, "got 8 frames, but the longest episode after seed_steps has 6"),
    ],
)
def test_segments_that_the_replay_cannot_hold_are_refused(changes: dict[str, int], message: str) -> None:
    env = gym.make("Simulator-Toy-v0", max_episode_steps=5)
    with pytest.raises(ConfigError, match=message):
        MBPO(env, make_world_model(), make_agent(), settings(**changes))
    MBPO(env, None, make_agent(), settings(**changes))  # an agent by itself needs no segments


def test_imagined_rewards_are_clipped_to_the_real_range() -> None:
    learner = MBPO(make_env(), random_world_model(), make_agent(), settings())
    for _ in range(SEED_STEPS):
        learner.collect()
    met = learner.replay.newest(2).rewards.flatten().tolist()
    assert learner.replay.reward_range() == (min(met), max(met))
    assert learner.world.world_model is not None
    torch.nn.init.constant_(learner.world.world_model.transformer.reward_linear.bias, 100.0)  # type: ignore[union-attr]
    learner._streams.step = 14
    learner.imagine()
    drawn = learner.imagined.segments(np.random.default_rng(0), 20, 2).rewards
    assert (drawn == max(met)).all()


def test_agent_is_trained_on_real_steps_while_all_rollouts_are_cut() -> None:
    learner = make_learner(max_uncertainty=1e-9, warmup_agent_updates=0)
    while learner.step < SEED_STEPS + 2:
        learner.advance()
    assert not len(learner.imagined)
    assert learner.agent.updates == 2


def test_old_rollouts_are_removed() -> None:
    learner = MBPO(make_env(), random_world_model(), make_agent(), settings(keep_rollouts=2))
    for _ in range(SEED_STEPS):
        learner.collect()
    held = []
    for _ in range(4):
        learner._streams.step = 14
        learner.imagine()
        held.append(len(learner.imagined))
    assert held == [12, 24, 24, 24]


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_is_greedy_repeatable_and_counts_successful_episodes() -> None:
    agent = make_agent()

    def succeeding() -> Any:
        return np.zeros((32, 32, 3), np.uint8), 1.0, False, False, {"success": True}

    env = make_env({EPISODE + 7: succeeding})
    found = evaluate(env, agent, 4)
    assert found is not None
    assert found.success == 0.25
    assert found.frames.shape == (EPISODE + 1, 32, 32, 3)
    assert env.seeds == [FIRST_SEED + index for index in range(4)]
    again = evaluate(make_env(), agent, 4)
    assert again is not None
    assert np.array_equal(found.frames, again.frames)
    assert again.mean_return == evaluate(make_env(), agent, 4).mean_return  # type: ignore[union-attr]


def test_training_episodes_have_different_seeds() -> None:
    env = make_env()
    learner = make_learner(False, env)
    for _ in range(3 * EPISODE):
        learner.collect()
    other = make_env()
    learner = make_learner(False, other, seed=1)
    learner.collect()
    assert len(set(env.seeds)) == 3
    assert not {*env.seeds} & {*other.seeds}


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MBPO(make_env(), make_world_model(action_dim=4), make_agent()), "model takes 4 actions, the env.* 2"),
        (lambda: MBPO(make_env(), make_world_model(action_dim=0), make_agent()), "model takes 0 actions, the env.* 2"),
        (
            lambda: MBPO(
                make_env(),
                make_world_model(
                    tokenizer=dataclasses.replace(TOKENIZER, resolution=64, context_grid=4),
                ),
                make_agent(),
            ),
            "imagines frames of 64 x 64 pixels, the environment has",
        ),
        (lambda: MBPO(make_env(), make_world_model(reward=False), make_agent()), "predicts no rewards"),
        (lambda: MBPO(make_env(), make_world_model(goal_conditioned=True), make_agent()), "is goal-conditioned"),
        (
            lambda: MBPO(make_env(), make_world_model(), make_agent(frame_stack=1)),
            "needs 2 frames of context",
        ),
        (
            lambda: MBPO(make_env(), None, make_agent(action_dim=4)),
            "agent takes .* 4 actions",
        ),
        (
            lambda: MBPO(make_env(), None, make_agent(), settings(seed_steps=0)),
            "seed_steps: without demonstrations",
        ),
        (lambda: MBPO(gym.make("CartPole-v1"), None, make_agent()), "frames uint8 .height, width, 3."),
        (
            lambda: MBPO(gym.wrappers.RescaleAction(make_env(), np.float32(-2), np.float32(2)), None, make_agent()),
            r"actions in \[-1, 1\], got Box\(-2.0, 2.0",
        ),
        (
            lambda: MBPO(gym.wrappers.RescaleAction(make_env(), np.float32(0), np.float32(1)), None, make_agent()),
            r"actions in \[-1, 1\], got Box\(0.0, 1.0",
        ),
        (lambda: settings(horizon=0), "horizon: expected a number above 0, got 0"),
        (lambda: settings(seed=-1), "seed: expected a number of at least 0, got -1"),
        (lambda: settings(max_uncertainty=0.0), "max_uncertainty: expected a number above 0"),
        (lambda: settings(real_ratio=Linear(0.5, 1.5, 10)), r"real_ratio: expected shares in \[0, 1\]"),
    ],
)
def test_mismatched_parts_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_evaluation_environment_must_match(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="uint8"):
        train(make_learner(False), gym.make("CartPole-v1"), tmp_path)
    assert not list(tmp_path.iterdir())
