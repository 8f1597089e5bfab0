"""Something-Something v2: a list of clips, ``[{"id": "78687", "label": "holding a cup", ...}, ...]``, and their videos.

The videos are in a folder beside the list or beside its folder. There are no actions; a clip's label is its task.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from worldgym.data.convert.source import Member, RawEpisode, Source, find_files
from worldgym.data.convert.video import video_frames
from worldgym.errors import ConfigError, DataError

SUFFIXES = (".webm", ".mp4")
LIST = re.compile(rb'\s*\[\s*\{[^}]*"(?:id|label)"\s*:')  # the beginning of a list
BEGINNING = 4096  # bytes
TASK = "unknown"  # of a clip without a label, as in the list of the test set


@dataclass(frozen=True)
class SomethingSource:
    """A list and its videos.

    Attributes:
        path: of the list.
        labels: of the clips, by their ids.
        videos: of all clips in the folder, by their ids.
    """

    path: Path
    labels: dict[str, str]
    videos: dict[str, Path]

    def members(self) -> list[Member]:
        """The clips of the list, in its order."""
        return [Member(name, (name,)) for name in self.labels]

    def read(self, member: Member) -> RawEpisode:
        """Read a video."""
        (name,) = member.place
        if name not in self.videos:
            raise DataError(f"expected a video {name}.webm or {name}.mp4 near {self.path}, found none")
        return RawEpisode(video_frames(self.videos[name]), self.labels[name])


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a list, or a folder with one at any depth.

    Raises:
        ConfigError: if there are several lists, or for an image key.
        DataError: if there is no list or no video, or the list is damaged.
    """
    if image_key is not None:
        raise ConfigError(f"image_key: videos have one camera, so leave it out; got {image_key!r}")
    lists = [path for path in find_files(src, (".json",)) if is_list(path)]
    if not lists:
        raise DataError(
            f'{src}: expected a list of clips, [{{"id": ..., "label": ...}}, ...], in a JSON file, got none'
        )
    if len(lists) > 1:
        raise ConfigError(f"{src}: there are several lists; choose one of them: {', '.join(map(str, lists))}")
    path = lists[0]
    folder = path.absolute().parent
    found = find_files(folder, SUFFIXES) or find_files(folder.parent, SUFFIXES)
    if not found:
        raise DataError(f"{path}: expected videos (*.webm, *.mp4) beside it or its folder, found none")
    return SomethingSource(path, _labels(path), {video.stem: video for video in found})


def is_list(path: Path) -> bool:
    """Whether a JSON file begins as a list of clips."""
    with path.open("rb") as file:
        return LIST.match(file.read(BEGINNING)) is not None


def _labels(path: Path) -> dict[str, str]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        labels = {str(row["id"]): str(row.get("label") or TASK) for row in rows}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected a list of objects with id and label ({error}); download it again") from error
    if unsafe := [name for name in labels if not re.fullmatch(r"\w[\w.-]*", name)]:
        raise DataError(f"{path}: expected ids of letters and digits, got {unsafe[0]!r}")
    return labels
