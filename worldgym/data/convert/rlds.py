"""RLDS datasets, such as those of Open X-Embodiment: TFRecord shards beside ``features.json``; no TensorFlow.

A step holds what the robot saw, and the action and the reward that followed. Those of the last step have no meaning in
RLDS and are left out, although some datasets store their only reward there. ``is_terminal`` of the last step says
whether the episode ended other than by a time limit. Where the action has several parts, they are joined in the order
of their names. Actions are taken as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, read_picture
from worldgym.data.convert.tfrecord import list_records, parse_example, read_record, to_bytes, to_numbers
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import read_json

FEATURES, DATASET_INFO = "features.json", "dataset_info.json"
STEPS, OBSERVATION, ACTION = "steps/", "steps/observation/", "steps/action"
REWARD, TERMINAL = "steps/reward", "steps/is_terminal"
INSTRUCTIONS = ("language_instruction", "natural_language_instruction", "instruction")


class Feature(NamedTuple):
    """What one step stores under a name.

    Attributes:
        kind: ``image``, ``text`` or ``tensor``.
        dtype: of its values.
        encoded: whether a tensor is stored as bytes.
    """

    kind: str
    dtype: str
    encoded: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it is an array of numbers."""
        return self.kind == "tensor" and self.dtype != "string" and not self.encoded


@dataclass(frozen=True)
class RldsSource:
    """A folder with ``features.json``.

    Attributes:
        folder: the folder.
        features: of a step, by their names in the records.
        camera: name of the pictures in the records.
    """

    folder: Path
    features: dict[str, Feature]
    camera: str

    def members(self) -> list[Member]:
        """The records of all shards."""
        shards = sorted(path for path in self.folder.glob("*.tfrecord*") if path.is_file())
        return [
            Member(f"{shard.name}/{index:06d}", (shard, offset))
            for shard in shards
            for index, offset in enumerate(list_records(shard))
        ]

    def read(self, member: Member) -> RawEpisode:
        """Read a record."""
        shard, offset = member.place
        example = parse_example(read_record(shard, offset))
        pictures = to_bytes(example.get(self.camera, memoryview(b"")))
        count = len(pictures)
        parts = sorted(
            name
            for name, feature in self.features.items()
            if feature.numeric and (name == ACTION or name.startswith(f"{ACTION}/"))
        )
        actions = [_per_step(example, name, count) for name in parts]
        rewards = _per_step(example, REWARD, count)[:-1, 0] if REWARD in self.features else None
        ended = TERMINAL in self.features and bool(_per_step(example, TERMINAL, count)[-1:].any())
        joined = np.concatenate(actions, axis=1)[:-1] if actions else None
        return RawEpisode(
            map(read_picture, map(BytesIO, pictures)), self._task(example), joined, rewards, terminated=ended
        )

    def _task(self, example: dict[str, memoryview]) -> str:
        """The first step's instruction, or the dataset's name."""
        for name, feature in self.features.items():
            if name.rpartition("/")[2] in INSTRUCTIONS and feature.dtype == "string" and name in example:
                texts = to_bytes(example[name])
                if texts and texts[0]:
                    return texts[0].decode(errors="replace")
        return dataset_name(self.folder)


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a folder that has ``features.json``, or the only one below it.

    Raises:
        DataError: if there is none, its metadata are damaged, or there is no such camera.
        ConfigError: if there are several, or a camera has to be chosen.
    """
    folder = _dataset_folder(src)
    tree = read_json(folder / FEATURES)
    try:
        features = dict(_leaves(tree["featuresDict"]["features"]["steps"]["sequence"]["feature"], STEPS))
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / FEATURES}: expected the features of an RLDS dataset, with steps") from error
    if not any(folder.glob("*.tfrecord*")):
        raise DataError(f"{folder}: expected TFRecord shards (*.tfrecord*), found none; download them too")
    cameras = {
        _short(name): name for name, found in features.items() if (found.kind, found.dtype) == ("image", "uint8")
    }
    return RldsSource(folder, features, cameras[choose_key(cameras, image_key, str(folder))])


def dataset_name(folder: Path) -> str:
    """The name in ``dataset_info.json``; the folder's if there is none."""
    try:
        return str(read_json(folder / DATASET_INFO)["name"])
    except (ConfigError, LookupError):
        return folder.absolute().name


def _dataset_folder(src: Path) -> Path:
    if src.is_file():
        return src.parent
    if (src / FEATURES).exists():
        return src
    found = sorted(path.parent for path in src.rglob(FEATURES))
    if not found:
        raise DataError(f"{src}: expected {FEATURES} beside the TFRecord shards, found none; download it too")
    if len(found) > 1:
        raise ConfigError(f"{src}: there are several datasets; choose one of them: {', '.join(map(str, found))}")
    return found[0]


def _leaves(node: dict[str, Any], name: str) -> Iterator[tuple[str, Feature]]:
    """The features below a node of ``features.json``; sequences inside a step are left out."""
    if "featuresDict" in node:
        for key, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, f"{name}{key}/")
    elif "image" in node:
        yield name[:-1], Feature("image", node["image"].get("dtype", "uint8"))
    elif "text" in node:
        yield name[:-1], Feature("text", "string")
    elif "tensor" in node:
        tensor = node["tensor"]
        yield name[:-1], Feature("tensor", tensor["dtype"], tensor.get("encoding", "none").lower() != "none")


def _short(name: str) -> str:
    """The name of a feature as users know it."""
    return name.removeprefix(OBSERVATION).removeprefix(STEPS)


def _per_step(example: dict[str, memoryview], name: str, count: int) -> NDArray[Any]:
    """The numbers of a feature, ``[count, size]``."""
    if not count:
        return np.zeros((0, 1))
    values = to_numbers(example.get(name, memoryview(b"")))
    if len(values) % count or not len(values):
        raise DataError(f"expected values of {name} for each of {count} steps, got {len(values)} numbers")
    return values.reshape(count, -1)
