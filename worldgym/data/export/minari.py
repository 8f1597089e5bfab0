"""Recordings as a Minari dataset in HDF5: ``data/main_data.hdf5`` a group for each episode, and ``metadata.json``.

Observations are the frames, stored without loss: one more than there are actions, so nothing is left out. Actions are
those of the environment, decoded from the recorded vectors. ``infos/success`` belongs to the observations. The task,
the policy and the seed of an episode are attributes of its group.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym.data.bounds import Bounds
from worldgym.data.convert.source import require
from worldgym.data.episode import EpisodeFile
from worldgym.data.export.output import check_free, check_steps, frame_blocks, new_folder
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import to_json

VERSION = "0.5.4"  # the first one whose metadata say whether frames are JPEG files
NAME = re.compile(r"[-\w]+-v\d+")
CHUNK_FRAMES = 8  # are compressed together
KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")


def export(recordings: Recordings, out: Path) -> None:
    """Write recordings as a Minari dataset.

    Args:
        recordings: the episodes.
        out: folder of the dataset: new, or empty. Its name is the dataset's id.

    Raises:
        ConfigError: for a name that is no id, and if there is something in the folder.
        DataError: if an episode has no steps or cannot be read any more, or the action space is unknown.
        StorageError: if the dataset cannot be written.
        DependencyNotInstalled: if h5py is missing.
    """
    h5py, target = require("h5py"), out.expanduser().absolute()
    if not NAME.fullmatch(target.name):
        proposal = re.sub(r"[^-\w]", "-", target.name)
        raise ConfigError(
            f"{out}: expected a name with a version, such as {proposal}-v0, because Minari "
            "finds a dataset by the name of its folder; choose another one"
        )
    check_free(target)
    check_steps(recordings)
    metadata = _metadata(recordings, target.name)
    with new_folder(target) as folder:
        data = folder / "data"
        data.mkdir()
        with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
            for index, episode in enumerate(tqdm(recordings.episodes, "export", unit="episode")):
                _write_episode(file.create_group(f"episode_{index}"), index, episode)
        metadata["dataset_size"] = round((data / "main_data.hdf5").stat().st_size / 1e6, 1)
        (data / "metadata.json").write_text(to_json(metadata), encoding="utf-8")


def _write_episode(group: Any, index: int, episode: EpisodeFile) -> None:
    info, steps = episode.info, len(episode)
    group.attrs.update(id=index, total_steps=steps, seed=info.seed, task=info.task, behaviour=info.behaviour)
    chunks = (min(CHUNK_FRAMES, steps + 1), *episode.shape[1:])
    observations = group.create_dataset("observations", episode.shape, np.uint8, chunks=chunks, compression="gzip")
    place = 0
    for frames in frame_blocks(episode, steps + 1):
        observations[place : place + len(frames)] = frames
        place += len(frames)
    group["actions"] = decode(episode.actions, info.action_space)
    group["rewards"] = episode.rewards
    group["terminations"] = episode.terminations
    group["truncations"] = (np.arange(steps) == steps - 1) & ~episode.terminations
    group["infos/success"] = np.concatenate([[False], episode.successes])


def _metadata(recordings: Recordings, name: str) -> dict[str, Any]:
    shape = recordings.frame_shape
    frames = {
        "type": "Box",
        "dtype": "uint8",
        "shape": list(shape),
        "low": np.zeros(shape, np.uint8).tolist(),
        "high": np.full(shape, 255, np.uint8).tolist(),
    }
    environments = sorted({episode.info.environment for episode in recordings.episodes})
    return {
        "dataset_id": name,
        "minari_version": VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": len(recordings.episodes),
        "total_steps": sum(map(len, recordings.episodes)),
        "observation_space": to_json(frames),
        "action_space": to_json(serialize(recordings.action_space, recordings.action_dim)),
        "description": f"Recorded by worldgym in {', '.join(environments)}; tasks: {', '.join(recordings.tasks)}.",
    }


def serialize(space: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """An action space, as Minari describes it.

    Args:
        space: as episodes describe it; see :class:`worldgym.data.episode.EpisodeInfo`.
        dim: length of the recorded vectors.

    Raises:
        DataError: for a description of no space.
    """
    kind = _kind(space)
    if not space:
        return {"type": kind, "dtype": "float32", "shape": [dim], "low": [-1.0] * dim, "high": [1.0] * dim}
    if kind == "Box":
        shape, dtype = space["shape"], space["dtype"]
        low, high = (np.array(space[name], dtype).reshape(shape).tolist() for name in ("low", "high"))
        return {"type": kind, "dtype": dtype, "shape": list(shape), "low": low, "high": high}
    if kind == "MultiBinary":
        return {"type": kind, "n": space["n"]}
    return {"type": kind, "dtype": "int64", **{key: value for key, value in space.items() if key != "kind"}}


def decode(vectors: NDArray[np.float32], space: Mapping[str, Any]) -> NDArray[Any]:
    """The actions of a space from recorded vectors.

    Args:
        vectors: float32 ``[T, A]``.
        space: as episodes describe it; see :class:`worldgym.data.episode.EpisodeInfo`.

    Returns:
        Actions ``[T, *shape]``. A ``Box`` action that was clipped when it was recorded stays so.

    Raises:
        DataError: for a description of no space.
    """
    kind = _kind(space)
    if not space:
        return vectors
    if kind == "Box":
        actions = Bounds.of(space["low"], space["high"]).unscale(vectors, space["dtype"])
        return actions.reshape(-1, *space["shape"])
    if kind == "Discrete":
        index: NDArray[Any] = vectors.argmax(axis=1) + int(space["start"])
        return index
    if kind == "MultiBinary":
        shape = [space["n"]] if isinstance(space["n"], int) else space["n"]
        return np.rint(vectors).astype(np.int8).reshape(-1, *shape)
    sizes, start = np.array(space["nvec"]), np.array(space["start"])
    parts = np.split(vectors, np.cumsum(sizes.reshape(-1))[:-1], axis=1)
    chosen: NDArray[Any] = np.stack([part.argmax(axis=1) for part in parts], axis=1).reshape(-1, *sizes.shape) + start
    return chosen


def _kind(space: Mapping[str, Any]) -> str:
    kind = space.get("kind") if space else "Box"
    if kind not in KINDS:
        raise DataError(f"action_space: expected {', '.join(KINDS)}, got {kind!r}; record the episodes again")
    return str(kind)
