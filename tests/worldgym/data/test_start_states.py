"""The bank of start states: what is written is what was recorded, and what is damaged is refused by name."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldgym.data.episode import Episode, EpisodeFile
from worldgym.data.start_states import StartStates, build_start_states, write_start_states
from worldgym.errors import CheckpointError, DataError, InvalidOption, UnknownTask


@pytest.fixture
def bank(synthetic_recordings: Path, tmp_path: Path) -> StartStates:
    build_start_states(synthetic_recordings, tmp_path, start_frames=(0, 3))
    return StartStates(tmp_path)


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_frames_and_what_followed_are_the_recorded_ones(
    bank: StartStates, synthetic_recordings: Path, context_length: int
) -> None:
    assert bank.tasks == ("hammer", "plate-slide")
    assert bank.count("hammer") == 12
    for index in range(bank.count("hammer")):
        start = bank.get("hammer", index, context_length)
        episode = EpisodeFile(
            synthetic_recordings / "hammer" / f"{start.behaviour}-{start.seed:08d}.safetensors"
        ).load()
        first, last = start.first_frame, start.first_frame + context_length - 1
        assert (start.task, start.index) == ("hammer", index)
        np.testing.assert_array_equal(start.frames, episode.frames[first : last + 1])
        np.testing.assert_array_equal(start.future_frames, episode.frames[last + 1 :])
        np.testing.assert_array_equal(start.actions, episode.actions[last:])
        np.testing.assert_array_equal(start.rewards, episode.rewards[last:])
        np.testing.assert_array_equal(start.successes, episode.successes[last:])
        assert len(start.future_frames) == len(start.actions) == len(start.rewards) == len(start.successes)


def test_every_behaviour_is_in_a_bank_of_few_episodes(synthetic_recordings: Path, tmp_path: Path) -> None:
    build_start_states(synthetic_recordings, tmp_path, start_frames=(0,), episodes=2)
    bank = StartStates(tmp_path)
    assert {bank.get("hammer", index, 2).behaviour for index in range(2)} == {"expert", "random"}
    assert bank.count("hammer") == 2


def test_equal_recordings_give_equal_files(synthetic_recordings: Path, tmp_path: Path) -> None:
    one = build_start_states(synthetic_recordings, tmp_path / "one", start_frames=(0, 3))
    two = build_start_states(synthetic_recordings, tmp_path / "two", start_frames=(0, 3))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["hammer.npz", "plate-slide.npz"]


def test_a_start_state_cannot_change_the_bank(bank: StartStates) -> None:
    bank.get("hammer", 0, 2).frames[:] = 0
    assert bank.get("hammer", 0, 2).frames.any()


def test_unknown_task_and_index(bank: StartStates) -> None:
    with pytest.raises(UnknownTask, match="did you mean 'hammer'"):
        bank.count("hamer")
    for index in (-1, 12):
        with pytest.raises(InvalidOption, match=f"0 to 11, got {index}"):
            bank.get("hammer", index, 2)


def test_a_context_longer_than_the_episode(bank: StartStates) -> None:
    with pytest.raises(CheckpointError, match=r"hammer\.npz.*leaves no step"):
        bank.get("hammer", 1, 10)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        StartStates(tmp_path / "missing")


def test_damaged_files_are_named(bank: StartStates) -> None:
    path = bank.folder / "hammer.npz"
    whole = path.read_bytes()
    np.save(array := io.BytesIO(), np.zeros(3))
    halved, holed = whole[: len(whole) // 2], whole[:400] + bytes(200) + whole[600:]
    for damage in (b"", halved, holed, b"nothing of the kind", array.getvalue()):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"hammer\.npz: not a readable file of start states.*download"):
            StartStates(bank.folder).get("hammer", 0, 2)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"hammer\.npz"):
        bank.get("hammer", 0, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deltas", np.zeros((6, 13, 64, 64, 3), np.float32)),
        ("deltas", np.zeros((6, 12, 64, 64, 3), np.uint8)),
        ("deltas", np.zeros(6, np.uint8)),
        ("actions", np.zeros((6, 11, 4), np.float32)),
        ("rewards", np.zeros(6, np.float32)),
        ("seeds", np.zeros(5, np.int64)),
        ("starts", np.zeros((0, 2), np.int64)),
        ("starts", np.array(3)),
        ("starts", np.array([[6, 0]])),
        ("starts", np.array([[0, -1]])),
        ("behaviours", np.array([object()] * 6)),
    ],
)
def test_contents_that_do_not_fit_are_named(bank: StartStates, name: str, value: np.ndarray) -> None:
    path = bank.folder / "hammer.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **{**arrays, name: value}, allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"hammer\.npz"):
        StartStates(bank.folder).get("hammer", 0, 2)


def test_recordings_that_make_no_bank(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    with pytest.raises(DataError, match="expected episodes"):
        build_start_states(tmp_path / "missing", tmp_path / "out")
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "in" / "a.safetensors")
    with pytest.raises(DataError, match="12 steps: start frames \\(0, 12\\) do not fit"):
        build_start_states(tmp_path / "in", tmp_path / "out", start_frames=(0, 12))
    assert not list(tmp_path.rglob("*.npz"))
    uneven = [episode, make_episode("hammer", "expert", 1, steps=14)]
    with pytest.raises(DataError, match=r"one length, got lengths \[12, 14\]"):
        write_start_states(tmp_path / "out", uneven, start_frames=(0,))


def test_episodes_of_different_lengths_are_cut(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    for seed, steps in enumerate((4, 14, 13, 12)):
        make_episode("hammer", "expert", seed, steps=steps).save(tmp_path / "in" / f"{seed}.safetensors")
    build_start_states(tmp_path / "in", tmp_path / "out", start_frames=(0, 5), episodes=3)
    starts = StartStates(tmp_path / "out")
    assert starts.count("hammer") == 6
    assert starts.episode_steps("hammer") == 12
    assert {starts.get("hammer", index, 2).seed for index in range(6)} == {1, 2, 3}


def test_start_frames_fit_the_episodes_of_each_task(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    """Every start state has a whole context, and short episodes of one task change nothing for another."""
    lengths = {"short": (12, 12), "uneven": (41, 60), "long": (60, 60)}
    for task, steps in lengths.items():
        for seed, count in enumerate(steps):
            make_episode(task, "expert", seed, steps=count).save(tmp_path / "in" / f"{task}-{seed}.safetensors")
    build_start_states(tmp_path / "in", tmp_path / "out", context_length=2)
    bank = StartStates(tmp_path / "out")
    assert {task: bank.count(task) for task in lengths} == {"short": 2, "uneven": 4, "long": 6}
    for task in lengths:
        for index in range(bank.count(task)):
            assert bank.get(task, index, 2).frames.shape[0] == 2


def test_task_names_are_not_paths(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    tasks = ("pick/place", "", ".", "../x", "a" * 300, "hammer")
    folder = tmp_path / "in" / "start_states"
    paths = write_start_states(folder, [make_episode(task, "expert", 0) for task in tasks], start_frames=(0,))
    assert {path.parent for path in paths} == {folder}
    assert paths[-1].name == "hammer.npz"
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    bank = StartStates(folder)
    assert set(bank.tasks) == set(tasks)
    for task in tasks:
        np.testing.assert_array_equal(bank.get(task, 0, 2).frames, make_episode(task, "expert", 0).frames[:2])


def test_files_without_a_stored_task_are_named_by_it(bank: StartStates) -> None:
    """As those of checkpoints that were written before names were stored."""
    path = bank.folder / "hammer.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "task"}
    np.savez_compressed(path, **arrays)
    again = StartStates(bank.folder)
    assert again.tasks == bank.tasks
    np.testing.assert_array_equal(again.get("hammer", 1, 2).frames, bank.get("hammer", 1, 2).frames)


def test_episodes_in_memory_make_the_files_that_recordings_make(synthetic_recordings: Path, tmp_path: Path) -> None:
    files = build_start_states(synthetic_recordings, tmp_path / "one", start_frames=(0, 3))
    bank, episodes = StartStates(tmp_path / "one"), []
    for task in bank.tasks:
        for index in range(0, bank.count(task), 2):
            start = bank.get(task, index, 2)
            name = f"{start.behaviour}-{start.seed:08d}.safetensors"
            episodes.append(EpisodeFile(synthetic_recordings / task / name).load())
    again = write_start_states(tmp_path / "two", episodes, start_frames=(0, 3))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    with pytest.raises(DataError, match="at least one episode"):
        write_start_states(tmp_path / "three", [])
