"""The single learned environment: Gymnasium's contract, start states, seeds, and every bad input by its own error."""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

import worldgym
from worldgym.data.first_frames import write_first_frames
from worldgym.data.start_states import StartStates
from worldgym.envs import contract
from worldgym.envs.contract import Frame
from worldgym.envs.learned.env import WorldModelEnv
from worldgym.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentClosed,
    InvalidAction,
    InvalidFrames,
    InvalidOption,
    ResetNeeded,
    UnknownTask,
)
from worldgym.pretrained import FIRST_FRAMES, START_STATES

ID = "WorldModel-MetaWorld-v0"
WINDOW = 4
PARITY = Path(__file__).parents[2] / "parity" / "ctx2-64px"


@pytest.fixture
def env(tiny_checkpoint: Path) -> gym.Env[Any, Any]:
    return gym.make(ID, checkpoint=tiny_checkpoint)


def episode(env: gym.Env[Any, Any], steps: int, **reset: Any) -> list[Any]:
    """Everything an episode returns, under actions that are the same each time."""
    rng = np.random.default_rng(0)
    first: list[Any] = [env.reset(**reset)]
    return first + [env.step(rng.uniform(-1, 1, 4).astype(np.float32)) for _ in range(steps)]


@pytest.mark.filterwarnings("ignore:render_mode='human' shows no window")
def test_gymnasium_finds_nothing_wrong(tiny_checkpoint: Path) -> None:
    """Without a display too: the checker makes the environment anew in every render mode."""
    check_env(WorldModelEnv(checkpoint=tiny_checkpoint), skip_render_check=True)
    check_env(gym.make(ID, checkpoint=tiny_checkpoint).unwrapped)


def test_gymnasium_finds_nothing_wrong_with_windows(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # a backend with windows in name only, for render_mode="human"
    check_env(gym.make(ID, checkpoint=tiny_checkpoint, render_mode="rgb_array").unwrapped)
    mpl.use(before)


def test_make_without_import_and_without_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys, gymnasium as gym\n"
        f"env = gym.make('worldgym:{ID}', checkpoint={str(tiny_checkpoint)!r})\n"
        "assert env.reset(seed=0)[0].shape == (64, 64, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    code = "import sys, worldgym; assert not {'torch', 'matplotlib', 'mujoco'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_step_returns(env: gym.Env[Any, Any]) -> None:
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert set(info) == {"task", "start", "simulator_seed", "uncertainty", "reanchored"}
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert type(reward) is float
    assert (terminated, truncated) == (False, False)
    assert set(info) == {"task", "start", "simulator_seed", "uncertainty", "reanchored"}
    assert 0 < info["uncertainty"] <= np.log(16)


def test_equal_seeds_give_equal_episodes(tiny_checkpoint: Path, env: gym.Env[Any, Any]) -> None:
    once = episode(env, 6, seed=3)
    torch.rand(1)  # nothing hangs on global generators
    np.random.default_rng().random()
    second = episode(env, 6)
    assert data_equivalence(once, episode(env, 6, seed=3), exact=True)
    assert data_equivalence(second, episode(env, 6), exact=True)
    assert data_equivalence(once, episode(gym.make(ID, checkpoint=tiny_checkpoint), 6, seed=3), exact=True)
    assert not data_equivalence(once, second)
    assert not data_equivalence(once, episode(env, 6, seed=4))


def test_actions_beyond_the_space_are_clipped(env: gym.Env[Any, Any]) -> None:
    def after(action: list[float]) -> Any:
        env.reset(seed=0)
        return env.step(np.array(action, np.float32))

    assert data_equivalence(after([5, -5, 1, 0]), after([1, -1, 1, 0]), exact=True)
    assert not data_equivalence(after([1, -1, 1, 0]), after([-1, 1, 1, 0]))


def test_episodes_start_at_first_frames(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Those of the start states' episodes, unless the checkpoint has more."""
    bank = StartStates(tiny_checkpoint / START_STATES)
    first = [bank.get("hammer", index, 2) for index in range(bank.count("hammer"))]
    known = {state.frames[0].tobytes() for state in first if state.first_frame == 0}
    env = gym.make(ID, checkpoint=tiny_checkpoint, task="hammer")
    shown = [env.reset(seed=seed) for seed in range(20)]
    assert {frame.tobytes() for frame, _ in shown} <= known
    assert len({frame.tobytes() for frame, _ in shown}) > 2
    assert {(info["start"], info["simulator_seed"]) for _, info in shown} == {(-1, -1)}

    folder = tmp_path / "with-first-frames"
    shutil.copytree(tiny_checkpoint, folder)
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    write_first_frames(folder / FIRST_FRAMES, "hammer", frames, np.arange(5) + 70)
    env = gym.make(ID, checkpoint=folder, task="hammer")
    for frame, info in (env.reset(seed=seed) for seed in range(10)):
        np.testing.assert_array_equal(frame, frames[info["simulator_seed"] - 70])
    expected = env.unwrapped.world_model.start(np.stack([frame, frame])[None])
    np.testing.assert_array_equal(env.unwrapped.get_state().model.frames, expected.frames)


def test_starts_anywhere_come_from_the_bank(tiny_checkpoint: Path) -> None:
    bank = StartStates(tiny_checkpoint / START_STATES)
    env = gym.make(ID, checkpoint=tiny_checkpoint, starts="anywhere")
    drawn = [env.reset(seed=seed) for seed in range(20)]
    assert {info["task"] for _, info in drawn} == {"hammer", "plate-slide"}
    assert len({info["start"] for _, info in drawn}) > 5
    for observation, info in drawn:
        np.testing.assert_array_equal(observation, bank.get(info["task"], info["start"], 2).frames[-1])


@pytest.mark.parametrize("name", ["plate-slide", "plate-slide-v3"])
def test_a_task_by_name(tiny_checkpoint: Path, name: str) -> None:
    env = gym.make(ID, checkpoint=tiny_checkpoint, task=name)
    assert {env.reset()[1]["task"] for _ in range(5)} == {"plate-slide"}
    observation, info = env.reset(options={"start": 4})
    assert (info["task"], info["start"]) == ("plate-slide", 4)
    bank = StartStates(tiny_checkpoint / START_STATES)
    np.testing.assert_array_equal(observation, bank.get("plate-slide", 4, 2).frames[-1])
    assert env.step(env.action_space.sample())[4]["task"] == "plate-slide"


def test_start_from_given_frames(env: gym.Env[Any, Any], real_frames: Frame) -> None:
    real_frames.setflags(write=False)
    observation, info = env.reset(seed=0, options={"frames": real_frames})
    np.testing.assert_array_equal(observation, real_frames[-1])
    assert info == {"task": "", "start": -1, "simulator_seed": -1, "uncertainty": 0.0, "reanchored": False}
    again = env.reset(seed=0, options={"frames": torch.tensor(real_frames)})
    assert data_equivalence((observation, info), again, exact=True)
    assert env.step(env.action_space.sample())[4]["task"] == ""


def test_full_window_is_reported_and_the_episode_continues(env: gym.Env[Any, Any]) -> None:
    reported = [step[4]["reanchored"] for step in episode(env, 3 * WINDOW, seed=0)[1:]]
    assert reported == [step > 0 and step % WINDOW == 0 for step in range(3 * WINDOW)]


def test_greedy_and_sampled(tiny_checkpoint: Path) -> None:
    def imagined(**sampling: Any) -> list[Any]:
        env = gym.make(ID, checkpoint=tiny_checkpoint, task="hammer", **sampling)
        episodes = [episode(env, 3, seed=seed, options={"start": 0}) for seed in range(2)]
        return [[reward for _, reward, *_ in steps[1:]] for steps in episodes]

    one, two = imagined(top_k=1)
    assert one == two
    one, two = imagined(temperature=3.0)
    assert one != two


def test_checkpoint_is_loaded_once_and_freed(tiny_checkpoint: Path) -> None:
    from worldgym.envs.learned import session

    gc.collect()  # environments of other tests that wait in a cycle, as gymnasium's checker makes them, share it too
    one, two = WorldModelEnv(checkpoint=tiny_checkpoint), WorldModelEnv(checkpoint=str(tiny_checkpoint))
    assert one.world_model is two.world_model
    other = WorldModelEnv(checkpoint=tiny_checkpoint, dtype="bfloat16")
    assert other.world_model is not one.world_model
    assert other.world_model.dtype is torch.bfloat16
    mine = [key for key in session._SHARED if key[0] == tiny_checkpoint.resolve()]
    assert len(mine) == 2
    del one, two, other
    assert not [key for key in session._SHARED if key[0] == tiny_checkpoint.resolve()]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_checkpoint_has_to_be_named(make: Any) -> None:
    with pytest.raises(InvalidOption, match=r"checkpoint: expected a name, a folder, a Hub id .*, got None"):
        make("WorldModel-v0")


def test_model_in_memory(tiny_checkpoint: Path, real_frames: Frame) -> None:
    model = worldgym.WorldModel.from_pretrained(tiny_checkpoint)
    env = gym.make(ID, checkpoint=model, task="hammer")
    assert env.unwrapped.world_model is model
    with pytest.raises(InvalidOption, match=r"a WorldModel in memory.*options.*or make the environment"):
        env.reset()
    assert env.reset(options={"frames": real_frames})[1]["task"] == "hammer"
    with pytest.raises(InvalidOption, match="leave both arguments out"):
        WorldModelEnv(checkpoint=model, dtype="bfloat16")


def test_published_checkpoint_starts_from_given_frames(real_frames: Frame) -> None:
    env = gym.make(ID, checkpoint=PARITY)
    with pytest.raises(CheckpointError, match=r"no start states.*\[2, 64, 64, 3\]"):
        env.reset(seed=0)
    with pytest.raises(UnknownTask, match="'hammer'"):
        gym.make(ID, checkpoint=PARITY, task="hammer")
    observation, _ = env.reset(seed=0, options={"frames": real_frames})
    observation, reward, *_ = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert np.isfinite(reward)


def test_render(tiny_checkpoint: Path) -> None:
    env = gym.make(ID, checkpoint=tiny_checkpoint, render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="reset"):
        env.render()
    env.reset(seed=0)
    observation, *_ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.render(), observation)
    env.close()
    env.close()


def test_human_rendering_without_a_display_warns_once(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpl, "get_backend", lambda: "agg")
    contract._warn_of_no_window.cache_clear()
    env = gym.make(ID, checkpoint=tiny_checkpoint, render_mode="human")
    with pytest.warns(UserWarning, match="pip install pyqt6"):
        env.reset()
    env.step(env.action_space.sample())  # no second warning, which would be an error here


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "hamer"}, UnknownTask, "'hamer'; did you mean 'hammer'"),
        ({"checkpoint": "metaworld-46"}, CheckpointError, "metaworld-46"),
        ({"temperature": 0.0}, ConfigError, "expected temperature above 0"),
        ({"top_k": 0}, ConfigError, "top_k .*at least 1"),
        ({"task": 3}, InvalidOption, "task: expected a name or None, got 3; known names: hammer"),
        ({"checkpoint": None}, InvalidOption, "checkpoint: expected a name.*got None"),
        ({"checkpoint": 3}, InvalidOption, "checkpoint: expected a name.*got 3"),
        ({"device": "gpu"}, ConfigError, "device 'gpu' cannot be used here"),
        ({"device": "cuda:99"}, ConfigError, "device 'cuda:99' cannot be used here"),
        ({"device": 3.5}, ConfigError, "device '3.5' cannot be used here"),
        ({"dtype": "int8"}, InvalidOption, "bfloat16.*'int8'"),
        ({"dtype": "float23"}, InvalidOption, "'float23'"),
        ({"starts": "middle"}, InvalidOption, "'reset' or 'anywhere', got 'middle'"),
    ],
)
def test_bad_arguments(tiny_checkpoint: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gym.make(ID, **{"checkpoint": tiny_checkpoint, **arguments})


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_worlds_of_other_simulators_are_refused(make: Any) -> None:
    with pytest.raises(InvalidOption, match="a world of Simulator-MetaWorld-v0, got one of Simulator-v0"):
        make(ID, checkpoint="cartpole-64")


def test_tasks_are_those_of_the_first_frames_where_nothing_else_names_them(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Of a published checkpoint, for which a user recorded first frames."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    shutil.rmtree(folder / START_STATES)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tasks": []}))
    write_first_frames(folder / FIRST_FRAMES, "hammer", np.full((1, 64, 64, 3), 7, np.uint8), np.array([5]))
    for task in (None, "hammer"):
        frame, info = gym.make("WorldModel-v0", checkpoint=folder, task=task).reset(seed=0)
        assert (frame == 7).all()
        assert (info["task"], info["simulator_seed"]) == ("hammer", 5)
    shutil.rmtree(folder / FIRST_FRAMES)
    with pytest.raises(CheckpointError, match="has no start states"):
        gym.make("WorldModel-v0", checkpoint=folder).reset(seed=0)


def test_bad_render_mode(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidOption, match="'rgb_array' or 'human', got 'ansi'"):
        WorldModelEnv(checkpoint=tiny_checkpoint, render_mode="ansi")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"frame": 1}, InvalidOption, "unknown reset option 'frame'; did you mean 'frames'"),
        ({"start": 0, "frames": 0}, InvalidOption, "got both"),
        ({"start": 12}, InvalidOption, "0 to 11, got 12"),
        ({"start": 1.5}, InvalidOption, "an integer, got 1.5"),
        ({"frames": np.zeros((2, 64, 64, 3))}, InvalidFrames, "uint8.*got float64"),
        ({"frames": np.zeros((2, 32, 32, 3), np.uint8)}, InvalidFrames, r"got uint8 \(2, 32, 32, 3\)"),
        ({"frames": np.zeros((1, 64, 64, 3), np.uint8)}, InvalidFrames, r"\(2, 64, 64, 3\), got"),
        (5, InvalidOption, "expected a dictionary or None, got 5"),
        (["start"], InvalidOption, "expected a dictionary or None"),
        ({"frames": "video.mp4"}, InvalidFrames, "uint8"),
        ({"frames": [[0], [0, 0]]}, InvalidFrames, "uint8.*inhomogeneous"),
    ],
)
def test_bad_options(env: gym.Env[Any, Any], options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        env.reset(options=options)
    env.reset(seed=0, options={})  # and nothing is broken by it
    env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3, np.float32), r"shape \(4,\).*got shape \(3,\)"),
        (np.zeros((1, 4), np.float32), r"got shape \(1, 4\)"),
        (0.5, r"got shape \(\)"),
        (np.array([0, np.nan, 0, 0], np.float32), "finite"),
        (np.array([0, np.inf, 0, 0], np.float32), "finite"),
        (np.array([0, 1e300, 0, 0]), "finite"),
        ("up", "expected an action of Box"),
        (None, "expected"),
    ],
)
def test_bad_actions_change_nothing(env: gym.Env[Any, Any], action: Any, message: str) -> None:
    good = np.zeros(4, np.float32)
    env.reset(seed=0)
    expected = env.step(good)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        env.step(action)
    assert data_equivalence(env.step(good), expected, exact=True)


def test_step_before_reset_and_after_close(env: gym.Env[Any, Any]) -> None:
    with pytest.raises(ResetNeeded, match=r"called before reset\(\)"):
        env.step(env.action_space.sample())
    env.reset()
    env.close()
    calls = (env.reset, env.unwrapped.render, lambda: env.step(env.action_space.sample()), env.unwrapped.get_state)
    for call in calls:
        with pytest.raises(EnvironmentClosed, match=r"after close\(\): make a new environment"):
            call()


def test_minaris_option_is_ignored(env: gym.Env[Any, Any]) -> None:
    plain = env.reset(seed=4)
    assert data_equivalence(plain, env.reset(seed=4, options={"minari_autoseed": True}), exact=True)


def test_infos_have_the_same_entries_and_types_at_reset_and_step(env: gym.Env[Any, Any], real_frames: Frame) -> None:
    for options in ({}, {"frames": real_frames}):
        _, first = env.reset(seed=0, options=options)
        *_, second = env.step(env.action_space.sample())
        assert {name: type(value) for name, value in first.items()} == {
            "task": str,
            "start": int,
            "simulator_seed": int,
            "uncertainty": float,
            "reanchored": bool,
        }
        assert {name: type(value) for name, value in second.items()} == {
            name: type(value) for name, value in first.items()
        }


def test_specification_is_json_and_makes_the_same_environment(tiny_checkpoint: Path) -> None:
    env = gym.make(ID, checkpoint=tiny_checkpoint, dtype=torch.float32, device=torch.device("cpu"), task="hammer")
    text = env.spec.to_json()
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert data_equivalence(env.reset(seed=0), again.reset(seed=0), exact=True)
    envs = gym.make_vec(ID, 2, checkpoint=tiny_checkpoint)
    assert str(tiny_checkpoint) in envs.spec.to_json()


def with_episode_steps(checkpoint: Path, folder: Path, steps: int | None) -> Path:
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_episode_steps": steps}))
    return folder


def steps_until_truncated(env: gym.Env[Any, Any], most: int = 12) -> int | None:
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(most)]
    return ends.index(True) + 1 if any(ends) else None


def test_episodes_are_as_long_as_the_checkpoint_says(tiny_checkpoint: Path, tmp_path: Path) -> None:
    short = with_episode_steps(tiny_checkpoint, tmp_path / "short", 5)
    endless = with_episode_steps(tiny_checkpoint, tmp_path / "endless", None)
    for env_id in (ID, "WorldModel-v0"):
        env = gym.make(env_id, checkpoint=short)
        assert env.spec.max_episode_steps == env.unwrapped.max_episode_steps == steps_until_truncated(env) == 5
        assert steps_until_truncated(gym.make(env_id, checkpoint=short, max_episode_steps=3)) == 3
        assert steps_until_truncated(gym.make(env_id, checkpoint=short, episode_steps=7)) == 7
        assert steps_until_truncated(gym.make(env_id, checkpoint=short, episode_steps=-1)) is None
        assert steps_until_truncated(gym.make(env_id, checkpoint=endless)) is None
    for given, expected in ((None, 5), (3, 3), (8, 8), (-1, None)):
        envs = gym.make_vec(ID, 2, checkpoint=short, max_episode_steps=given)
        assert envs.unwrapped.max_episode_steps == expected
        envs.reset(seed=0)
        ends = [envs.step(envs.action_space.sample())[3].all() for _ in range(10)]
        assert (ends.index(True) + 1 if any(ends) else None) == expected


@pytest.mark.parametrize("change", ["dtype", "device", "autocast", "grad", "inference", "deterministic"])
def test_results_do_not_depend_on_torch_settings(change: str, tiny_checkpoint: Path) -> None:
    def episodes() -> list[Any]:
        env = gym.make(ID, checkpoint=tiny_checkpoint)
        envs = gym.make_vec(ID, 2, checkpoint=tiny_checkpoint)
        moves = np.zeros((2, 4), np.float32)
        return [*episode(env, 2 * WINDOW, seed=0), envs.reset(seed=0), *(envs.step(moves) for _ in range(3))]

    expected = episodes()
    with torch_setting(change):
        assert data_equivalence(episodes(), expected, exact=True)


@contextmanager
def torch_setting(name: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    contexts: dict[str, Any] = {
        "device": torch.device("meta"),
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "grad": torch.enable_grad(),
        "inference": torch.inference_mode(),
    }
    if name == "dtype":
        torch.set_default_dtype(torch.float64)
    if name == "deterministic":
        torch.use_deterministic_algorithms(True)
    try:
        with contexts.get(name, nullcontext()):
            yield
    finally:
        torch.set_default_dtype(before)
        torch.use_deterministic_algorithms(False)


def test_start_states_without_a_task_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / START_STATES / "hammer.npz").unlink()
    with pytest.raises(CheckpointError, match=r"no start states of \['hammer'\]"):
        gym.make(ID, checkpoint=folder)
