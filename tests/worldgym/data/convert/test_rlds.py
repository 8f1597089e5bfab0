import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.errors import ConfigError, DataError

JPEG_ERROR = 3  # of a flat colour


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding}}


def image(dtype: str = "uint8") -> dict[str, Any]:
    return {"image": {"shape": {"dimensions": ["32", "32", "3"]}, "dtype": dtype, "encodingFormat": "jpeg"}}


def features_of(**entries: Any) -> dict[str, Any]:
    return {"featuresDict": {"features": entries}}


OBSERVATION = features_of(image=image(), wrist=image(), depth=image("uint16"), state=tensor("float32", 8))
FLAGS = {name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
STEP = features_of(
    observation=OBSERVATION,
    action=tensor("float32", 7),
    reward=tensor("float64"),
    language_instruction={"text": {}},
    words={"sequence": {"feature": {"text": {}}, "length": "-1"}},
    **FLAGS,
)


def write_metadata(folder: Path, step: dict[str, Any] = STEP) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    steps = {"sequence": {"feature": step, "length": "-1"}}
    tree = features_of(steps=steps, episode_metadata=features_of(file_path={"text": {}}))
    (folder / "features.json").write_text(json.dumps(tree))
    (folder / "dataset_info.json").write_text(json.dumps({"name": "bridge", "fileFormat": "tfrecord"}))


def actions_of(count: int, length: int = 7) -> Any:
    return np.random.default_rng(count).uniform(-1, 1, (count, length)).astype(np.float32)


@pytest.fixture
def episode_of(encode: Callable[..., list[bytes]]) -> Callable[..., dict[str, Any]]:
    """The features of a record as TFDS flattens them: the values of all steps behind each other."""

    def make(clip: Any, **changes: Any) -> dict[str, Any]:
        count = len(clip)
        return {
            "steps/observation/image": encode(clip, "JPEG"),
            "steps/observation/wrist": encode(255 - clip),
            "steps/observation/state": np.zeros(8 * count, np.float32),
            "steps/action": actions_of(count).reshape(-1),
            "steps/reward": np.arange(count, dtype=np.float32),
            "steps/language_instruction": [b"pick up the cup"] * count,
            "steps/is_terminal": [0] * (count - 1) + [1],
            "episode_metadata/file_path": [b"/somewhere"],
            **changes,
        }

    return make


@pytest.fixture
def write_shards(make_example: Callable[..., bytes], write_records: Callable[..., Any]) -> Callable[..., None]:
    def write(folder: Path, *shards: list[dict[str, Any]], step: dict[str, Any] = STEP) -> None:
        write_metadata(folder, step)
        for index, shard in enumerate(shards):
            path = folder / f"bridge-train.tfrecord-{index:05d}-of-{len(shards):05d}"
            write_records(path, [make_example(episode) for episode in shard])

    return write


def test_episodes(
    tmp_path: Path, make_clip: Callable[..., Any], write_shards: Any, episode_of: Any, conversion: Any
) -> None:
    clips = [make_clip(count, seed=count) for count in (4, 6, 3)]
    cut = episode_of(clips[2], **{"steps/is_terminal": [0] * 3, "steps/language_instruction": [b""] * 3})
    write_shards(tmp_path / "bridge" / "1.0.0", [episode_of(clips[0]), episode_of(clips[1])], [cut])
    assert conversion.run("rlds", tmp_path / "bridge", "image").written == 3
    episodes = conversion.episodes
    for episode, clip in zip(episodes, clips, strict=True):
        steps = len(clip) - 1
        conversion.check_frames(episode, clip, JPEG_ERROR)
        np.testing.assert_array_equal(episode.actions, actions_of(steps + 1)[:-1])
        np.testing.assert_array_equal(episode.rewards, np.arange(steps))
    assert [episode.info.task for episode in episodes] == ["pick up the cup", "pick up the cup", "bridge"]
    assert [episode.info.terminated for episode in episodes] == [True, True, False]
    assert episodes[1].path == tmp_path / "out" / "bridge-train.tfrecord-00000-of-00002" / "000001.safetensors"


def test_a_camera_is_chosen_among_several(
    tmp_path: Path, make_clip: Callable[..., Any], write_shards: Any, episode_of: Any, conversion: Any
) -> None:
    clip = make_clip(3)
    write_shards(tmp_path / "bridge", [episode_of(clip)])
    conversion.check_cameras("rlds", tmp_path / "bridge", {"image": clip, "wrist": 255 - clip}, JPEG_ERROR)  # no depth


def test_an_action_in_parts(
    tmp_path: Path, make_clip: Callable[..., Any], write_shards: Any, encode: Any, conversion: Any
) -> None:
    action = features_of(world=tensor("float32", 3), gripper=tensor("bool"), note=tensor("string"))
    instruction = tensor("string")
    observation = features_of(image=image(), natural_language_instruction=instruction)
    episode = {
        "steps/observation/image": encode(make_clip(3)[..., 0]),  # grayscale
        "steps/observation/natural_language_instruction": [b"wipe"] * 3,
        "steps/action/world": np.arange(9, dtype=np.float32),
        "steps/action/gripper": [1, 0, 1],
        "steps/action/note": [b""] * 3,
    }
    step = features_of(observation=observation, action=action)
    write_shards(tmp_path / "fractal", [episode], step=step)
    conversion.run("rlds", tmp_path / "fractal")
    (found,) = conversion.episodes
    np.testing.assert_array_equal(found.actions, [[1, 0, 1, 2], [0, 3, 4, 5]])
    conversion.check_frames(found, make_clip(3)[..., :1])
    assert found.info.task == "wipe"
    assert not found.rewards.any()


def test_bad_members_are_named_and_left_out(
    tmp_path: Path, make_clip: Callable[..., Any], write_shards: Any, episode_of: Any, conversion: Any
) -> None:
    clip, folder = make_clip(4), tmp_path / "bridge"
    shards = [
        episode_of(clip),
        episode_of(clip[:0]),
        episode_of(clip, **{"steps/action": actions_of(4, 5).reshape(-1)}),
        episode_of(clip, **{"steps/action": np.zeros(13, np.float32)}),
        episode_of(clip, **{"steps/reward": np.array([0, np.nan, 0, 0], np.float32)}),
        episode_of(clip, **{"steps/observation/image": [b"no picture"] * 4}),
        {"other": [1]},
        episode_of(clip),
    ]
    write_shards(folder, shards)
    (shard,) = folder.glob("*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-100])
    outcome = conversion.run("rlds", folder, "image")
    reasons = {
        1: "expected at least 2 frames, got 0",
        2: "expected actions of length 7 as in the first episode, got length 5",
        3: "expected values of steps/action for each of 4 steps, got 13 numbers",
        4: "got nan at step 1",
        5: "cannot identify image file",
        6: "expected at least 2 frames, got 0",
        7: "is damaged or cut",
    }
    named = {f"{shard.name}/{index:06d}": reason for index, reason in reasons.items()}
    conversion.check_left_out(outcome, named)
    assert len(conversion.episodes) == 1


def test_folders_without_a_part(
    tmp_path: Path, make_clip: Callable[..., Any], write_shards: Any, episode_of: Any
) -> None:
    folder = tmp_path / "bridge"
    write_shards(folder / "1.0.0", [episode_of(make_clip(3))])
    write_shards(folder / "2.0.0")
    with pytest.raises(ConfigError, match=r"several datasets; choose one of them: .*1\.0\.0, .*2\.0\.0"):
        open_source("rlds", folder)
    with pytest.raises(DataError, match="expected TFRecord shards"):
        open_source("rlds", folder / "2.0.0", "image")
    (folder / "1.0.0" / "features.json").unlink()
    with pytest.raises(DataError, match=r"expected features\.json beside the TFRecord shards"):
        open_source("rlds", folder / "1.0.0")
    (folder / "1.0.0" / "features.json").write_text('{"featuresDict": {"features": {"label": {}}}}')
    with pytest.raises(DataError, match="expected the features of an RLDS dataset, with steps"):
        open_source("rlds", folder / "1.0.0")
