from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.data.episode import Episode
from worldgym.data.recordings import (
    Recordings,
    drawn_segments,
    fixed_segments,
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


def test_a_segment_is_a_piece_of_its_episode(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    whole = recordings.episodes[5].load()
    segment = recordings.segment(5, start=4, length=6)
    np.testing.assert_array_equal(segment.frames, whole.frames[4:10])
    np.testing.assert_array_equal(segment.actions, whole.actions[4:9])
    np.testing.assert_array_equal(segment.rewards, whole.rewards[4:9])


def test_samples_are_segments_and_depend_on_the_generator_alone(synthetic_recordings: Path) -> None:
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


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="worldgym collect"):
        Recordings(tmp_path)


def test_episodes_of_another_size_are_named(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "a.safetensors")
    replace(episode, frames=episode.frames[:, ::2, ::2]).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"b\.safetensors.*\(32, 32, 3\)"):
        Recordings(tmp_path)
    replace(episode, actions=episode.actions[:, :3]).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"b\.safetensors.*3 actions"):
        Recordings(tmp_path)


def test_an_episode_too_short_for_a_segment_is_named(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match="shorter than a segment of 50 frames"):
        Recordings(synthetic_recordings).sample(np.random.default_rng(0), 2, 50)


def test_a_file_that_shrinks_after_it_was_opened_is_named(make_episode: MakeEpisode, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    make_episode("hammer", "expert", 0).save(path)
    recordings = Recordings(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"a\.safetensors"):
        recordings.segment(0, 0, 4)


def test_fixed_segments_begin_where_told(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    segments = fixed_segments(recordings, 8, starts=(0, 5, 6))
    assert len(segments.tasks) == 24  # a segment from frame 6 would not fit 13 frames
    expected = recordings.segment(1, 5, 8)
    np.testing.assert_array_equal(segments.batch.frames[3].numpy(), expected.frames)
    assert segments.tasks[3] == recordings.episodes[1].info.task


def test_fixed_segments_of_episodes_that_are_too_short_are_an_error(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match="holds 8 frames from frame 10 on"):
        fixed_segments(Recordings(synthetic_recordings), 8, starts=(10, 40))


def test_drawn_segments_stay_in_the_first_steps_and_differ(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    segments = drawn_segments(recordings, 4, count=3, steps=6, seed=0)
    again = drawn_segments(recordings, 4, count=3, steps=6, seed=0)
    assert torch.equal(segments.batch.frames, again.batch.frames)
    assert segments.tasks == [episode.info.task for episode in recordings.episodes for _ in range(3)]
    for index in range(len(recordings.episodes)):
        possible = [recordings.segment(index, start, 4).actions.tobytes() for start in range(4)]
        drawn = [actions.numpy().tobytes() for actions in segments.batch.actions[3 * index : 3 * index + 3]]
        assert len(set(drawn)) == 3
        assert set(drawn) <= set(possible)


def test_more_segments_than_there_are_is_an_error(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match="ask for fewer"):
        drawn_segments(Recordings(synthetic_recordings), 4, count=5, steps=6)


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=48, max_size=48))
def test_pixels_survive_the_way_to_floats_and_back(values: bytes) -> None:
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
