from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.data.episode import Episode
from worldgym.data.names import file_name
from worldgym.data.recordings import (
    Batch,
    Recordings,
    check_batch,
    fixed_segments,
    sample_segments,
    to_batch,
    to_uint8,
    to_unit,
)
from worldgym.errors import DataError

MakeEpisode = Callable[..., Episode]


def test_all_episodes_below_a_folder_are_found(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    assert len(recordings.episodes) == 12
    assert recordings.tasks == ("hammer", "plate-slide")
    assert recordings.frame_shape == (64, 64, 3)
    assert recordings.action_dim == 4


def test_a_segment_is_a_part_of_its_episode(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    whole = recordings.episodes[5].load()
    segment = recordings.segment(5, start=4, length=6)
    np.testing.assert_array_equal(segment.frames, whole.frames[4:10])
    np.testing.assert_array_equal(segment.actions, whole.actions[4:9])
    np.testing.assert_array_equal(segment.rewards, whole.rewards[4:9])


def test_samples_are_segments_and_depend_only_on_the_generator(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    first, again, other = (recordings.sample(np.random.default_rng(seed), 8, 5) for seed in (0, 0, 1))
    assert first.frames.shape == (8, 5, 64, 64, 3)
    assert first.frames.dtype == torch.uint8
    assert first.actions.shape == (8, 4, 4)
    assert first.rewards.shape == (8, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.actions, other.actions)


def test_samples_reach_every_start(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "a.safetensors")
    batch = Recordings(tmp_path).sample(np.random.default_rng(0), 200, len(episode) - 1)
    assert {tuple(actions[0].tolist()) for actions in batch.actions} == {
        tuple(row) for row in episode.actions[:3].tolist()
    }


def test_episodes_added_later_are_found_and_half_written_ones_are_not(
    make_episode: MakeEpisode, tmp_path: Path
) -> None:
    make_episode("hammer", "expert", 0).save(tmp_path / "hammer" / "a.safetensors")
    assert len(Recordings(tmp_path).episodes) == 1
    make_episode("plate-slide", "expert", 0).save(tmp_path / "plate-slide" / "a.safetensors")
    (tmp_path / "hammer" / ".b.safetensors.x1y2.safetensors").write_bytes(b"a writer was killed here")
    assert Recordings(tmp_path).tasks == ("hammer", "plate-slide")


def test_the_error_for_an_empty_folder_names_the_command_that_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="worldgym collect"):
        Recordings(tmp_path)


def test_episodes_of_another_size_are_named(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "a.safetensors")
    replace(episode, frames=episode.frames[:, ::2, ::2]).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"b\.safetensors: expected frames \(64, 64, 3\).*got frames \(32, 32, 3\)"):
        Recordings(tmp_path)
    replace(episode, actions=episode.actions[:, :3]).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"b\.safetensors.*actions of length 4.*actions of length 3;"):
        Recordings(tmp_path)


def test_an_episode_too_short_for_a_segment_is_named(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match=r"expected at least 50 frames.*got 13; choose a shorter"):
        Recordings(synthetic_recordings).sample(np.random.default_rng(0), 2, 50)


def test_a_file_that_shrinks_after_it_was_opened_is_named(make_episode: MakeEpisode, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    make_episode("hammer", "expert", 0).save(path)
    recordings = Recordings(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"a\.safetensors"):
        recordings.segment(0, 0, 4)


def test_fixed_segments_begin_at_the_given_frames(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    segments = fixed_segments(recordings, 8, starts=(0, 5, 6))
    assert len(segments.tasks) == 24  # a segment from frame 6 would not fit 13 frames
    expected = recordings.segment(1, 5, 8)
    np.testing.assert_array_equal(segments.batch.frames[3].numpy(), expected.frames)
    assert segments.tasks[3] == recordings.episodes[1].info.task


def test_fixed_segments_of_episodes_that_are_too_short_are_an_error(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match="expected an episode with 8 frames from frame 10 on, got 13 frames"):
        fixed_segments(Recordings(synthetic_recordings), 8, starts=(10, 40))


def test_sample_segments_stay_in_the_first_steps_and_differ(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    segments = sample_segments(recordings, 4, count=3, steps=6, seed=0)
    again = sample_segments(recordings, 4, count=3, steps=6, seed=0)
    assert torch.equal(segments.batch.frames, again.batch.frames)
    assert segments.tasks == [episode.info.task for episode in recordings.episodes for _ in range(3)]
    for index in range(len(recordings.episodes)):
        possible = [recordings.segment(index, start, 4).actions.tobytes() for start in range(4)]
        sampled = [actions.numpy().tobytes() for actions in segments.batch.actions[3 * index : 3 * index + 3]]
        assert len(set(sampled)) == 3
        assert set(sampled) <= set(possible)


def test_episodes_give_as_many_segments_as_they_have(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    assert len(sample_segments(recordings, 4, count=5, steps=6).tasks) == 4 * len(recordings.episodes)
    with pytest.raises(DataError, match="expected an episode with a segment of 8 frames in its first 6 steps"):
        sample_segments(recordings, 8, count=1, steps=6)


def test_segments_are_padded_at_both_ends(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    episode = recordings.episodes[0].load()
    steps = len(episode)
    before, after = recordings.segment(0, -2, 4), recordings.segment(0, steps - 1, 4)
    np.testing.assert_array_equal(before.frames, episode.frames[[0, 0, 0, 1]])
    np.testing.assert_array_equal(before.actions, [*np.zeros((2, 4)), episode.actions[0]])
    np.testing.assert_array_equal(after.frames, episode.frames[[steps - 1, steps, steps, steps]])
    np.testing.assert_array_equal(after.rewards, [episode.rewards[-1], 0, 0])


def test_a_window_leaves_frames_out(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    episode, window = recordings.episodes[0].load(), recordings.window(0, 1, 2, 2, 3)
    np.testing.assert_array_equal(window.frames, episode.frames[[1, 2, 5, 6, 7]])
    np.testing.assert_array_equal(window.actions, episode.actions[[1, 4, 5, 6]])
    assert window.successes is not None
    np.testing.assert_array_equal(window.successes, episode.successes[[1, 4, 5, 6]])


def test_a_termination_is_the_last_step(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    replace(episode, info=replace(episode.info, terminated=True)).save(tmp_path / "e.safetensors")
    found = Recordings(tmp_path).segment(0, 0, len(episode) + 1).terminations
    assert found is not None
    assert np.flatnonzero(found).tolist() == [len(episode) - 1]


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=48, max_size=48))
def test_converting_frames_to_floats_and_back_changes_nothing(values: bytes) -> None:
    frames = torch.frombuffer(bytearray(values), dtype=torch.uint8).view(1, 4, 4, 3)
    unit = to_unit(frames)
    assert unit.shape == (1, 3, 4, 4)
    assert unit.dtype == torch.float32
    assert 0 <= unit.min() <= unit.max() <= 1
    assert torch.equal(to_uint8(unit), frames)


def test_floats_outside_the_unit_range_are_clamped() -> None:
    frames = torch.tensor([-0.5, 0.0, 1.5]).view(1, 3, 1, 1)
    assert to_uint8(frames).flatten().tolist() == [0, 0, 255]


def test_batches_stack_segments_of_one_length(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    batch = to_batch([recordings.segment(0, 0, 3), recordings.segment(1, 2, 3)])
    np.testing.assert_array_equal(batch.rewards[1].numpy(), recordings.episodes[1].rewards[2:4])


def test_a_batch_of_recordings_is_well_formed(synthetic_recordings: Path) -> None:
    check_batch(Recordings(synthetic_recordings).sample(np.random.default_rng(0), 2, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": torch.zeros(2, 3, 1)},
        {"rewards": torch.zeros(2, 3, dtype=torch.float64)},
        {"rewards": torch.zeros(3)},
        {"rewards": torch.zeros(2, 4)},
        {"actions": torch.zeros(2, 4, 4)},
        {"actions": torch.zeros(2, 3)},
        {"frames": torch.zeros(2, 4, 8, 8, 3)},
        {"frames": torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8)},
        {"frames": torch.zeros(4, 8, 8, 3, dtype=torch.uint8)},
        {"frames": torch.tensor(0, dtype=torch.uint8)},
    ],
)
def test_a_batch_of_other_shapes_or_dtypes_is_refused(changes: dict[str, torch.Tensor]) -> None:
    batch = Batch(torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 3, 4), torch.zeros(2, 3))
    check_batch(batch)
    name, value = next(iter(changes.items()))
    shape = str(list(value.shape)).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(DataError, match=rf"expected frames uint8 .*got .*{name} \w+ {shape}"):
        check_batch(batch._replace(**changes))


def test_tasks_of_any_name_are_recorded_below_the_folder_and_read_back(
    make_episode: MakeEpisode, tmp_path: Path
) -> None:
    tasks = ("", ".", "..", "../x", "/tmp/x", "a/b", "put it\non the plate", ".hidden", "plate-slide", "é" * 200)
    folder = tmp_path / "recordings"
    for task in tasks:
        make_episode(task, "expert", 0, steps=2).save(folder / file_name(task) / "0.safetensors")
    recordings = Recordings(folder)
    assert recordings.tasks == tuple(sorted(tasks))
    assert {path.name for path in tmp_path.iterdir()} == {"recordings"}
    assert {episode.path.parent.parent for episode in recordings.episodes} == {folder}


def test_several_folders_are_one_set_of_recordings(synthetic_recordings: Path, tmp_path: Path) -> None:
    tasks = sorted(path for path in synthetic_recordings.iterdir())
    whole, parts = Recordings(synthetic_recordings), Recordings(*tasks)
    assert [episode.path for episode in parts.episodes] == [episode.path for episode in whole.episodes]
    with pytest.raises(DataError, match="expected episodes"):
        Recordings(synthetic_recordings, tmp_path)
