"""Sessions: starts, steps beside the simulator, rewinding, futures, recordings, policies, bad input."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from stable_baselines3 import PPO

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.policies import find_policy
from worldgym.agents.sb3 import make_vec_env
from worldgym.data.recordings import Recordings
from worldgym.envs.actions import ActionCodec
from worldgym.envs.registry import find_task
from worldgym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidAction,
    InvalidFrames,
    InvalidOption,
    ResetNeeded,
    StorageError,
    UnknownTask,
)
from worldgym.play import imagination, pictures
from worldgym.play.recorder import video
from worldgym.play.session import PlaySession, Settings
from worldgym.play.spaces import FUTURES, four_actions

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (12, 2)).tolist()
MakeSession = Callable[..., PlaySession]


@pytest.fixture
def session(make_session: MakeSession) -> PlaySession:
    """A session at the start of an episode."""
    made = make_session()
    made.reset(seed=3)
    return made


def play(session: PlaySession, actions: list[Any]) -> list[np.ndarray[Any, Any]]:
    """The pictures after each action, stacked."""
    shown = []
    for action in actions:
        session.step(action)
        shown.append(np.stack(list(session.view().pictures.values())))
    return shown


def equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), (10, 200, 30), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_both_worlds_start_at_the_simulators_first_frame_and_take_the_same_actions(session: PlaySession) -> None:
    spec, task = find_task("toy")
    simulator = spec.make(task)
    first = session.view()
    assert list(first.pictures) == ["simulator", "imagined", "difference"]
    np.testing.assert_array_equal(first.pictures["imagined"], simulator.reset(seed=3)[0])
    assert not first.pictures["difference"].any()
    session.step(ACTIONS[0])
    frame, reward, *_ = simulator.step(np.array(ACTIONS[0], np.float32))
    view = session.view()
    np.testing.assert_array_equal(view.pictures["simulator"], frame)
    (plotted,) = view.values["plotted"]
    assert plotted["real_reward"] == view.values["real_return"] == pytest.approx(reward)
    assert plotted["uncertainty"] > 0
    assert 0 <= plotted["success_probability"] <= 1
    assert view.values["step"] == 1


def test_equal_seeds_and_actions_show_equal_frames(make_session: MakeSession) -> None:
    shown = []
    for seed in (3, 3, 4):
        session = make_session()
        session.reset(seed=seed)
        shown.append(play(session, ACTIONS))
    assert equal(shown[0], shown[1])
    assert not equal(shown[0], shown[2])


def test_without_the_simulator_episodes_start_at_stored_frames(make_session: MakeSession) -> None:
    session = make_session(simulator=False)
    session.reset(seed=0)
    session.step(ACTIONS[0])
    view = session.view()
    assert list(view.pictures) == ["imagined"]
    assert view.values["simulator"] == "Switched off by --no-simulator."
    assert [driver["name"] for driver in view.values["drivers"]] == ["planner"]
    assert view.values["real_return"] is None


def test_a_start_state_is_in_the_middle_of_an_episode(session: PlaySession) -> None:
    assert session.describe()["starts"] == {"toy": 2}
    session.reset(start=1)
    session.step(ACTIONS[0])
    assert list(session.view().pictures) == ["imagined"]
    assert "middle of a recorded episode" in session.view().values["simulator"]
    assert session.view().values["start"] == 1
    session.reset()
    assert len(session.view().pictures) == 3


@pytest.mark.parametrize("stride_bytes", [1, 2**40])
def test_a_rewound_episode_goes_on_as_before(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, stride_bytes: int
) -> None:
    """With one kept state for the whole episode, and with one for each step."""
    monkeypatch.setattr(imagination, "SNAPSHOT_BYTES", stride_bytes)
    session = make_session()
    session.reset(seed=3)
    before = play(session, ACTIONS)
    values = session.view().values
    session.rewind(7)
    assert session.view().values["step"] == 5
    np.testing.assert_array_equal(np.stack(list(session.view().pictures.values())), before[4])
    assert equal(play(session, ACTIONS[5:]), before[5:])
    assert session.view().values == values
    session.rewind(100)
    assert session.view().values["step"] == 0
    assert equal(play(session, ACTIONS), before)


def test_kept_states_are_bounded(session: PlaySession) -> None:
    play(session, ACTIONS)
    episode = session._episode
    assert episode is not None
    kept = list(episode._snapshots.values())
    assert sum(state.nbytes for state in kept[1:]) <= imagination.SNAPSHOT_BYTES
    most = session.limit / episode._stride * kept[0].nbytes
    assert most <= imagination.SNAPSHOT_BYTES


def test_futures_by_luck_differ_and_the_first_is_what_would_have_come(make_session: MakeSession) -> None:
    alone, forked = make_session(), make_session()
    for session in (alone, forked):
        session.reset(seed=3)
        play(session, ACTIONS[:4])
    expected = play(alone, ACTIONS[4:8])
    forked.fork("luck")
    assert forked.view().values["labels"] == ["luck 1", "luck 2", "luck 3", "luck 4"]
    play(forked, ACTIONS[4:8])
    view = forked.view()
    assert list(view.pictures) == ["future 0", "future 1", "future 2", "future 3"]
    assert view.values["step"] == 8
    assert len({plotted["reward"] for plotted in view.values["plotted"]}) > 1
    np.testing.assert_array_equal(view.pictures["future 0"], expected[-1][1])
    forked.choose(0)
    assert equal(play(forked, ACTIONS[8:]), play(alone, ACTIONS[8:]))  # the simulator has caught up too


def test_futures_by_actions_take_opposite_actions(session: PlaySession) -> None:
    session.fork("actions")
    assert session.view().values["labels"] == ["left", "right", "up", "down"]
    session.step(None)
    session.step(None)
    session.choose(3)
    moments = session._moments
    assert [list(moment.action) for moment in moments[1:]] == [[0, 1], [0, 1]]
    assert moments[-1].real is not None
    assert len(session.history()) == 2


def test_futures_without_directions_take_opposite_actions_of_the_first_dimensions() -> None:
    space = gym.spaces.Box(np.float32([0, -1, 4]), np.float32([2, 1, 8]))
    expected = [("x -", [0, 0, 6]), ("x +", [2, 0, 6]), ("y -", [1, -1, 6]), ("y +", [1, 1, 6])]
    found = four_actions(space, ("x", "y", "z"), 0)
    assert [(label, action.tolist()) for label, action in found] == expected


def test_futures_can_be_left(session: PlaySession) -> None:
    play(session, ACTIONS[:3])
    before = session.view()
    for leave in (lambda: session.choose(None), lambda: session.rewind(1)):
        session.fork("luck")
        session.step(ACTIONS[3])
        leave()
        assert session.view().values == before.values
        np.testing.assert_array_equal(session.view().pictures["imagined"], before.pictures["imagined"])
    with pytest.raises(InvalidOption, match="fork first"):
        session.choose(1)


def test_a_recording_becomes_episodes_and_a_video(session: PlaySession, tmp_path: Path) -> None:
    play(session, ACTIONS[:2])
    session.record(True)
    shown = play(session, ACTIONS[2:8])
    assert session.view().values["recording"] == 6
    session.rewind(1)
    assert session.view().values["recording"] == 5
    files = session.record(False)
    assert session.view().values["recording"] is None
    names = ["imagined/toy/played-00000000.safetensors", "simulated/toy/played-00000000.safetensors"]
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == [*names, "videos/toy/played-00000000.mp4"]
    (imagined,) = Recordings(tmp_path / "out" / "imagined").episodes
    (simulated,) = Recordings(tmp_path / "out" / "simulated").episodes
    assert (imagined.info.environment, simulated.info.environment) == ("WorldModel-v0", "Simulator-Toy-v0")
    assert imagined.info.behaviour == simulated.info.behaviour == "played"
    np.testing.assert_array_equal(imagined.actions, np.array(ACTIONS[2:7], np.float32))
    np.testing.assert_array_equal(imagined.frames(1), [pictures[1] for pictures in shown[:5]])
    np.testing.assert_array_equal(simulated.frames(1), [pictures[0] for pictures in shown[:5]])
    assert imageio_ffmpeg.count_frames_and_secs(str(files[-1]))[0] == 6
    clip = video(session._moments[2:])
    assert clip.shape == (6, 256, 8 * (3 * 32 + 4), 3)
    np.testing.assert_array_equal(clip[1, ::8, : 8 * 32 : 8], shown[0][0])
    session.record(True)
    session.step(ACTIONS[8])
    assert session.reset()[0].name == "played-00000001.safetensors"  # a new episode saves it too


def test_a_recording_without_steps_is_no_file(session: PlaySession, tmp_path: Path) -> None:
    session.record(True)
    assert session.close() == []
    assert not (tmp_path / "out").exists()


def test_a_recording_that_cannot_be_written_is_kept(session: PlaySession, tmp_path: Path) -> None:
    session.record(True)
    play(session, ACTIONS[:2])
    (tmp_path / "out").touch()  # a file in place of the folder
    with pytest.raises(StorageError):
        session.save()
    (tmp_path / "out").unlink()
    assert len(session.save()) == 3


@pytest.mark.parametrize(("width", "height", "kind"), [(32, 32, "PNG"), (300, 100, "PNG"), (9, 20, "JPEG")])
def test_an_episode_starts_from_a_picture_of_any_size(session: PlaySession, width: int, height: int, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), (10, 200, 30), np.uint8)).save(file, kind)
    session.picture(file.getvalue())
    assert abs(session.view().pictures["imagined"].astype(int) - [10, 200, 30]).max() <= 2
    session.step(ACTIONS[0])
    assert list(session.view().pictures) == ["imagined"]
    assert session.view().values["simulator"] == "The simulator cannot begin at a picture."


def test_a_picture_is_cut_to_its_central_square() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    assert (pictures.read_picture(file.getvalue(), 5) == 255).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "another type"),
        (b"GIF89a and so on", "another type"),
        (png(20, 20)[:60], "damaged"),
        (png(8000, 6000), "million pixels"),
        (b"x" * (pictures.MAX_BYTES + 1), "MiB"),
    ],
    ids=["nothing", "gif", "damaged", "wide", "long"],
)
def test_other_pictures_are_refused_and_the_episode_goes_on(session: PlaySession, data: bytes, message: str) -> None:
    with pytest.raises(InvalidFrames, match=message):
        session.picture(data)
    session.step(ACTIONS[0])


def test_the_expert_and_an_agent_can_drive(make_session: MakeSession) -> None:
    session = make_session(policy=lambda env, rng: lambda: [0.5, env.frame.shape[0] / 64], policy_name="half")
    session.reset()
    assert session.view().values["drivers"] == [
        {"name": "expert", "label": "Scripted expert"},
        {"name": "policy", "label": "half"},
        {"name": "planner", "label": "Planner"},
    ]
    session.step(None, "policy")
    assert session._moments[-1].action == [0.5, 0.5]
    for _ in range(30):
        session.step(None, "expert")
    assert session.view().values["plotted"][0]["real_success"]
    with pytest.raises(InvalidOption, match="did you mean 'expert'"):
        session.step(None, "experts")
    session.fork("luck")
    session.step(None, "policy")
    with pytest.raises(InvalidOption, match="no futures"):
        session.step(None, "expert")


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of stable-baselines3
def test_trained_agents_drive(make_session: MakeSession, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"agent.{kind}"
    if kind == "zip":
        PPO("MlpPolicy", make_vec_env("Simulator-Toy-v0", seed=0), n_steps=8, batch_size=8).save(path)
    else:
        DrQv2((32, 32, 3), 3, 2).save(path)
    session = make_session(policy=find_policy(str(path)), policy_name=path.name)
    session.reset()
    for _ in range(4):
        session.step(None, "policy")
    assert session.view().values["acted"]["driver"] == "policy"
    assert len({tuple(moment.action) for moment in session._moments[1:]}) > 1


def test_an_agent_that_does_not_fit_is_named_at_once(make_session: MakeSession, tmp_path: Path) -> None:
    DrQv2((32, 32, 3), 3, 5).save(tmp_path / "agent.safetensors")
    with pytest.raises(ConfigError, match=r"takes frames .* and 5 actions"):
        make_session(policy=find_policy(str(tmp_path / "agent.safetensors")))


def test_an_agent_that_fails_is_named_and_the_person_goes_on(make_session: MakeSession) -> None:
    session = make_session(policy=lambda env, rng: lambda: 1 / 0, policy_name="broken")
    session.reset()
    with pytest.raises(DataError, match=r"broken failed: ZeroDivisionError: .*; drive yourself"):
        session.step(None, "policy")
    session.step(ACTIONS[0])


def test_an_agent_that_comes_back_begins_anew(make_session: MakeSession) -> None:
    begun: list[Any] = []

    def agent(env: Any, rng: np.random.Generator) -> Callable[[], Any]:
        begun.append(env)
        return lambda: [0, 0]

    session = make_session(policy=agent, policy_name="agent")
    begun.clear()  # it was tried once
    session.reset()
    for driver in ("policy", "policy", None, "policy"):
        session.step([1, 0], driver)
    assert len(begun) == 2


def test_the_page_learns_where_actions_move_things(session: PlaySession) -> None:
    assert session.describe()["actions"]["directions"] == [[1, 0], [0, -1]]


def test_the_page_learns_the_keys_of_the_simulator(make_checkpoint: Any, tmp_path: Path) -> None:
    space = ActionCodec(gym.spaces.Discrete(3)).describe()
    folder = make_checkpoint(action_dim=3, tasks=("MountainCar-v0",), action_space=space)
    session = PlaySession(Settings(str(folder), tmp_path))
    assert session.describe()["actions"]["keys"] == []
    session.reset()
    expected = [[[], 1], [["ArrowLeft"], 0], [["ArrowRight"], 2], [["ArrowRight", "ArrowLeft"], 1]]
    assert session.describe()["actions"]["keys"] == expected
    session.close()


def test_the_model_has_the_precision_that_was_asked_for(make_session: MakeSession) -> None:
    session = make_session(device="cpu", dtype="bfloat16")
    assert session._session.model.dtype is torch.bfloat16
    session.reset()
    session.step(ACTIONS[0])


def test_an_episode_has_a_longest_length(session: PlaySession) -> None:
    session.limit = 2
    play(session, ACTIONS[:2])
    with pytest.raises(InvalidOption, match="at most 2 steps"):
        session.step(ACTIONS[2])
    session.rewind(1)
    session.step(ACTIONS[2])


@pytest.mark.parametrize("action", [None, [1], [0, float("nan")], "left", [[0, 0]], {}, ["a", "b"]])
def test_a_wrong_action_changes_nothing(session: PlaySession, action: Any) -> None:
    with pytest.raises(InvalidAction):
        session.step(action)
    assert session.view().values["step"] == 0


def test_unknown_tasks_and_starts_are_refused(make_session: MakeSession, session: PlaySession) -> None:
    with pytest.raises(UnknownTask, match="toy"):
        make_session(task="tow")
    with pytest.raises(UnknownTask, match="toy"):
        session.reset(task="tow")
    with pytest.raises(InvalidOption, match="start states 0 to 1"):
        session.reset(start=2)
    session.step(ACTIONS[0])
    assert len(session.view().pictures) == 3  # the episode before goes on, with its simulator


def test_a_checkpoint_without_start_states(discrete_checkpoint: Path, tmp_path: Path) -> None:
    """With its simulator there are first frames; without, only pictures. Discrete actions."""
    session = PlaySession(Settings(str(discrete_checkpoint), tmp_path, simulator=False))
    with pytest.raises(CheckpointError, match=r"no start states.*: drop a picture"):
        session.reset()
    assert session.view().pictures == {}
    with pytest.raises(ResetNeeded, match="drop a picture"):
        session.step(0)
    session.picture(png(40, 40))
    session.step(1)
    with pytest.raises(InvalidAction):
        session.step(2)
    session.fork("actions")
    session.step(None)
    assert len(session.view().values["plotted"]) == FUTURES


def test_discrete_actions_beside_the_simulator_until_it_ends(discrete_checkpoint: Path, tmp_path: Path) -> None:
    session = PlaySession(Settings(str(discrete_checkpoint), tmp_path))
    session.reset(seed=0)
    session.record(True)
    ended = False
    while not ended:
        session.step(1)
        ended = session.view().values["plotted"][0]["real_ended"]
    session.step(1)
    assert list(session.view().pictures) == ["imagined"]
    assert len(session.close()) == 3
    (simulated,) = Recordings(tmp_path / "simulated").episodes
    (imagined,) = Recordings(tmp_path / "imagined").episodes
    assert simulated.info.terminated
    assert len(imagined) == len(simulated) + 1
    assert simulated.info.action_space == {"kind": "Discrete", "n": 2, "start": 0}


def test_a_task_without_a_simulator_says_so(make_checkpoint: Any, tmp_path: Path) -> None:
    session = PlaySession(Settings(str(make_checkpoint(tasks=("fold-the-laundry",))), tmp_path))
    with pytest.raises(CheckpointError):
        session.reset()
    assert "fold-the-laundry" in session.view().values["simulator"]
