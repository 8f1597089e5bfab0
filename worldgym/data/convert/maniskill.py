"""ManiSkill demonstrations: ``trajectory.h5`` with a group ``traj_N`` for each, described by ``trajectory.json``.

``obs/sensor_data/CAMERA/rgb`` has one picture more than there are actions, so no step is left out. Actions are taken as
they are: in [-1, 1] where the control mode is one of differences (``pd_ee_delta_pose``), else in the robot's own units.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.data.convert.hdf5 import numbered, open_hdf5, read_frames
from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, find_files, relative_name
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import read_json

SUFFIXES = (".h5",)
TRAJECTORY, SENSORS, PICTURES = "traj_", "obs/sensor_data", "rgb"


@dataclass(frozen=True)
class ManiSkillSource:
    """A file, or a folder with files at any depth."""

    src: Path
    image_key: str | None

    def members(self) -> list[Member]:
        """The trajectories of all files. A file that is damaged or has no pictures is one member, without a name."""
        members = []
        for path in find_files(self.src, SUFFIXES):
            name = relative_name(path, self.src)
            try:
                with open_hdf5(path) as file:
                    found = numbered(key for key in file if key.startswith(TRAJECTORY))
                    found = found if any(_cameras(file[key]) for key in found) else []
            except DataError:
                found = []
            members += [Member(f"{name}/{key}", (path, key)) for key in found] or [Member(name, (path, None))]
        return members

    def read(self, member: Member) -> RawEpisode:
        """Read a trajectory."""
        path, name = member.place
        with open_hdf5(path) as file:
            if name is None:
                raise DataError(
                    f"{path}: expected pictures under traj_N/{SENSORS}, found none: the file holds states alone. "
                    f"Draw them: python -m mani_skill.trajectory.replay_trajectory --traj-path {path} --save-traj "
                    "--obs-mode rgb --use-env-states"
                )
            group = file[name]
            camera = choose_key(_cameras(group), self.image_key, f"{path}: {name}/{SENSORS}")
            if hasattr(group["actions"], "keys"):
                raise DataError(f"{path}: expected actions of one robot in {name}, got {', '.join(group['actions'])}")
            actions = group["actions"][()]
            rewards, successes = (group[key][()] if key in group else None for key in ("rewards", "success"))
            ended = "terminated" in group and bool(group["terminated"][-1:].any())
        frames = read_frames(path, f"{name}/{SENSORS}/{camera}/{PICTURES}")
        return RawEpisode(frames, _task(path), actions, rewards, successes, terminated=ended)


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder. The cameras are those of the environment, such as ``base_camera``."""
    return ManiSkillSource(src, image_key)


def _cameras(group: Any) -> list[str]:
    """Names of the cameras that have pictures."""
    sensors = group.get(SENSORS) if hasattr(group.get("obs"), "keys") else None
    return [name for name in sensors if PICTURES in sensors[name]] if sensors is not None else []


def _task(path: Path) -> str:
    """Id of the environment; the file's name if that is unknown."""
    try:
        return str(read_json(path.with_suffix(".json"))["env_info"]["env_id"])
    except (ConfigError, LookupError, TypeError):
        return path.stem
