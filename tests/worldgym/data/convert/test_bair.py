from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Example = dict[str, Any]


def actions_of(count: int, length: int = 4) -> Any:
    return np.random.default_rng(count).uniform(-0.1, 0.1, (count, length)).astype(np.float32)


def example_of(clip: Any, aux: Any = None, actions: Any = None) -> Example:
    """A record as softmotion30_44k has it: features of every frame under its number."""
    features: Example = {}
    for index, picture in enumerate(clip):
        features[f"{index}/image_main/encoded"] = [picture.tobytes()]
        if aux is not None:
            features[f"{index}/image_aux1/encoded"] = [aux[index].tobytes()]
        features[f"{index}/action"] = (actions_of(len(clip)) if actions is None else actions)[index]
        features[f"{index}/endeffector_pos"] = np.zeros(3, np.float32)
    return features


@pytest.fixture
def write_files(
    tmp_path: Path, make_example: Callable[..., bytes], write_records: Callable[..., Any]
) -> Callable[..., Path]:
    def write(*files: list[Example]) -> Path:
        for index, examples in enumerate(files):
            path = tmp_path / "bair" / "train" / f"traj_{256 * index}_to_{256 * index + 255}.tfrecords"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, [make_example(example) for example in examples])
        return tmp_path / "bair"

    return write


def test_episodes(write_files: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = [make_clip(12), make_clip(3, seed=1), make_clip(4, seed=2)]  # 12: the order is that of numbers
    folder = write_files([example_of(clips[0]), example_of(clips[1])], [example_of(clips[2])])
    assert conversion.run("bair", folder).written == 3
    for episode, clip in zip(conversion.episodes, clips, strict=True):
        conversion.check_frames(episode, clip)
        np.testing.assert_array_equal(episode.actions, actions_of(len(clip))[:-1])
        assert not episode.rewards.any()
    assert episode.info.task == "robot pushing"
    assert episode.path == conversion.out / "train" / "traj_256_to_511.tfrecords" / "000000.safetensors"


def test_a_camera_is_chosen_among_several(
    write_files: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    clips = {"main": make_clip(3), "aux1": make_clip(3, seed=1)}
    conversion.check_cameras("bair", write_files([example_of(clips["main"], clips["aux1"])]), clips)


def test_a_record_without_actions(
    write_files: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    example = {name: values for name, values in example_of(make_clip(4)).items() if not name.endswith("action")}
    conversion.run("bair", write_files([example]))
    assert conversion.episodes[0].actions.shape == (3, 0)


def test_bad_members_are_named_and_left_out(
    write_files: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(4)
    gap, cut, ragged = example_of(clip), example_of(clip), example_of(clip)
    del gap["2/image_main/encoded"]
    cut["1/image_main/encoded"] = [clip[1].tobytes()[:-1]]
    ragged["1/action"] = np.zeros(3, np.float32)
    infinite = example_of(clip, actions=np.full((4, 4), np.inf, np.float32))
    examples = [example_of(clip), gap, cut, ragged, infinite, example_of(clip[:1]), {"other": [1]}, example_of(clip)]
    folder = write_files(examples)
    (path,) = folder.rglob("*.tfrecords")
    path.write_bytes(path.read_bytes()[:-50])
    reasons = {
        1: "expected frames 0 to 3, got none with the numbers [2]",
        2: "expected the raw pixels of a square picture, such as 64 x 64 x 3 bytes, got 3071 bytes",
        3: "expected an action of one length for each of 3 steps, got lengths [3, 4]",
        4: "got inf at step 0",
        5: "expected at least 2 frames, got 1",
        6: "expected pictures, found none",
        7: "is damaged or cut",
    }
    named = {f"train/{path.name}/{index:06d}": reason for index, reason in reasons.items()}
    conversion.check_left_out(conversion.run("bair", folder), named)
    assert len(conversion.episodes) == 1
