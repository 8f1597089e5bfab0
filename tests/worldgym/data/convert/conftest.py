import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

from worldgym.data.convert.formats import open_source
from worldgym.data.convert.writing import Outcome, Target, convert
from worldgym.data.episode import EpisodeFile
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError

Clip = NDArray[np.uint8]


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Clip]:
    """A clip, uint8 ``[count, size, size, 3]``, whose flat colours differ between frames and survive any codec."""

    def make(count: int, seed: int = 0, size: int = 32) -> Clip:
        colours = np.random.default_rng(seed).integers(20, 236, (count, 1, 1, 3))
        return np.broadcast_to(colours, (count, size, size, 3)).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., list[bytes]]:
    """The pictures of a clip as files of a format that Pillow writes."""

    def encode_pictures(clip: Any, form: str = "PNG") -> list[bytes]:
        files = []
        for picture in clip:
            out = io.BytesIO()
            Image.fromarray(picture).save(out, form)
            files.append(out.getvalue())
        return files

    return encode_pictures


class Conversion:
    """Conversions into one folder at 16x16 pixels, and checks of what they wrote."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def run(self, name: str, src: Path, image_key: str | None = None, **options: Any) -> Outcome:
        workers = options.pop("workers", 2)
        target = Target(self.out, f"{name}:{src.name}", image_key or "", **{"resolution": 16, **options})
        return convert(open_source(name, src, image_key), target, workers)

    @property
    def episodes(self) -> list[EpisodeFile]:
        """Those that were written, in the order of their paths."""
        return Recordings(self.out).episodes

    @staticmethod
    def check_frames(episode: EpisodeFile, clip: Clip, error: int = 0) -> None:
        """Check that the frames are those of a clip of flat colours, but for the error of a codec."""
        assert episode.shape == (len(clip), 16, 16, 3)
        assert np.abs(episode.frames().astype(int) - clip[:, :16, :16]).max() <= error

    @staticmethod
    def check_left_out(outcome: Outcome, reasons: Mapping[str, str]) -> None:
        """Check that these members, and no others, were left out, each for a reason that contains the given one."""
        assert set(outcome.left_out) == set(reasons)
        for name, reason in reasons.items():
            assert reason in outcome.left_out[name]
            assert "\n" not in outcome.left_out[name]

    def check_cameras(self, name: str, src: Path, clips: Mapping[str, Clip], error: int = 0) -> None:
        """Check that one of several cameras has to be chosen, and that the chosen one is converted."""
        with pytest.raises(ConfigError, match=f"choose one with --image-key: {', '.join(sorted(clips))}$"):
            self.run(name, src)
        last = max(clips)
        with pytest.raises(DataError, match=f"expected pictures under '{last}x', found none; did you mean '{last}'"):
            self.run(name, src, f"{last}x")
        for key, clip in clips.items():
            chosen = Conversion(self.out / key)
            assert chosen.run(name, src, key).written == 1
            (episode,) = chosen.episodes
            assert episode.info.look == key
            self.check_frames(episode, clip, error)


@pytest.fixture
def conversion(tmp_path: Path) -> Conversion:
    """Conversions into ``tmp_path / "out"``."""
    return Conversion(tmp_path / "out")


@pytest.fixture(scope="session")
def make_example() -> Callable[..., bytes]:
    """A serialized ``tf.train.Example``, written by the official Protocol Buffers library."""
    classes = {packed: _example_class(packed) for packed in (True, False)}

    def make(features: dict[str, Any], packed: bool = True) -> bytes:
        example = classes[packed]()
        for name, values in features.items():
            feature = example.features.feature[name]
            first = next(iter(values), 0)
            if isinstance(first, bytes):
                feature.bytes_list.value.extend(values)
            elif isinstance(first, (float, np.floating)):
                feature.float_list.value.extend(map(float, values))
            else:
                feature.int64_list.value.extend(map(int, values))
        content: bytes = example.SerializeToString()
        return content

    return make


def _example_class(packed: bool) -> Any:
    """The message type, declared as TensorFlow's ``example.proto`` and ``feature.proto`` declare it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"example-{packed}.proto", package=f"p{packed}", syntax="proto3")

    def message(holder: Any, name: str, **fields: tuple[int, str | int, bool]) -> Any:
        new = holder.add(name=name)
        for key, (number, kind, repeated) in fields.items():
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = new.field.add(name=key, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".p{packed}.{kind}"
            else:
                added.type = kind
                if kind in (field.TYPE_FLOAT, field.TYPE_INT64):
                    added.options.packed = packed
        return new

    message(file.message_type, "BytesList", value=(1, field.TYPE_BYTES, True))
    message(file.message_type, "FloatList", value=(1, field.TYPE_FLOAT, True))
    message(file.message_type, "Int64List", value=(1, field.TYPE_INT64, True))
    lists = {"bytes_list": (1, "BytesList", False), "float_list": (2, "FloatList", False)}
    feature = message(file.message_type, "Feature", **lists, int64_list=(3, "Int64List", False))
    feature.oneof_decl.add(name="kind")
    for added in feature.field:
        added.oneof_index = 0
    features = message(file.message_type, "Features", feature=(1, "Features.FeatureEntry", True))
    entry = message(
        features.nested_type, "FeatureEntry", key=(1, field.TYPE_STRING, False), value=(2, "Feature", False)
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", features=(1, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p{packed}.Example"))


@pytest.fixture(scope="session")
def write_records() -> Callable[[Path, list[bytes]], None]:
    """Write a TFRecord file by TensorBoard's writer."""

    def write(path: Path, records: list[bytes]) -> None:
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for record in records:
                writer.write(record)

    return write
