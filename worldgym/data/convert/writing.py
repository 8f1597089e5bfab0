"""Writing the members of a source as episodes: in parallel, resumable, without those that are damaged."""

import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldgym.data.convert.source import Member, Source
from worldgym.data.episode import SUFFIX, Episode, EpisodeFile, EpisodeInfo
from worldgym.data.pictures import resized, to_picture
from worldgym.errors import ConfigError, DataError, WorldGymError

BEHAVIOUR = "recorded"
MOST_CHARACTERS = 400  # of a reason: video decoders explain themselves at length


@dataclass(frozen=True)
class Target:
    """Where and how episodes are written.

    Attributes:
        folder: of the episodes.
        environment: what they say of where they come from.
        camera: what they say of how the frames were drawn; empty where there is one camera.
        resolution: height and width of frames.
        frame_skip: one in so many frames is taken.
    """

    folder: Path
    environment: str
    camera: str = ""
    resolution: int = 64
    frame_skip: int = 1

    def path(self, member: Member) -> Path:
        """The file of a member."""
        return self.folder / f"{member.name}{SUFFIX}"


@dataclass
class Outcome:
    """What a conversion did.

    Attributes:
        written: number of new episodes.
        kept: number of episodes that were there before.
        left_out: why a member was not converted, by its name.
        largest_action: the largest absolute value in an action of a new episode.
    """

    written: int = 0
    kept: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    largest_action: float = 0.0


def convert(source: Source, target: Target, workers: int = 1) -> Outcome:
    """Write the members of a source that are not written yet. Damaged ones are named on stderr and left out.

    Args:
        source: the recordings.
        target: where and how to write.
        workers: threads that read and resize.

    Raises:
        ConfigError: if the folder holds episodes of another conversion.
        DataError: if no member can be converted.
        StorageError: if an episode cannot be written.
    """
    members = source.members()
    missing = [member for member in members if not target.path(member).exists()]
    outcome = Outcome(kept=len(members) - len(missing))
    first = _earlier_episode(members, target)
    bar = tqdm(total=len(members), initial=outcome.kept, desc="convert", unit="episode")
    with bar, closing(_in_order(source, missing, target, workers)) as members_read:
        try:
            for member, future in members_read:
                try:
                    episode = future.result()
                    first = episode if first is None else first
                    _check_alike(episode, first)
                except DataError as error:
                    outcome.left_out[member.name] = reason = _one_line(str(error))
                    bar.write(f"left out {member.name}: {reason}", sys.stderr)
                else:
                    episode.save(target.path(member))
                    outcome.written += 1
                    largest = float(np.abs(episode.actions).max(initial=0.0))
                    outcome.largest_action = max(outcome.largest_action, largest)
                bar.update()
        except KeyboardInterrupt:
            done = outcome.kept + outcome.written
            bar.write(
                f"stopped at {done} of {len(members)} episodes; run the same command again to continue", sys.stderr
            )
            raise
    if not outcome.written + outcome.kept:
        raise DataError(
            f"{target.environment}: expected an episode that can be converted, got none of {len(members)}; the first "
            f"reason: {next(iter(outcome.left_out.values()), 'it has no episodes')}"
        )
    return outcome


def _in_order(
    source: Source, members: list[Member], target: Target, workers: int
) -> Generator[tuple[Member, "Future[Episode]"], None, None]:
    """Read members in threads, only some ahead of the one that is taken, so that memory is bounded."""
    left = iter(members)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Member, Future[Episode]]] = deque()
        try:
            while True:
                for member in islice(left, 2 * workers - len(waiting)):
                    waiting.append((member, pool.submit(read_episode, source, member, target)))
                if not waiting:
                    return
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def read_episode(source: Source, member: Member, target: Target) -> Episode:
    """Read a member, resize its frames and check it.

    Rewards and successes that are unknown become 0.

    Raises:
        DataError: if the member is damaged, or has no step.
        ConfigError: for a frame skip where there are actions.
    """
    try:
        raw = source.read(member)
        if raw.actions is not None and target.frame_skip > 1:
            raise ConfigError(
                f"--frame-skip: expected 1, because {target.environment} has actions, which cannot be joined over the "
                f"steps between, got {target.frame_skip}; only recordings without actions can leave frames out"
            )
        taken = islice(raw.frames, 0, None, target.frame_skip)
        frames = [resized(to_picture(frame), target.resolution) for frame in taken]
    except WorldGymError:
        raise
    except Exception as error:  # whatever readers and decoders raise for damaged files
        raise DataError(f"not readable ({type(error).__name__}: {error})") from error
    if len(frames) < 2:
        raise DataError(f"expected at least 2 frames, got {len(frames)}")
    actions = np.zeros((len(frames) - 1, 0), np.float32) if raw.actions is None else raw.actions
    if actions.ndim == 1:
        actions = actions[:, None]
    unknown = np.zeros(len(actions), np.float32)
    info = EpisodeInfo(
        environment=target.environment,
        task=raw.task,
        behaviour=BEHAVIOUR,
        seed=0,
        frame_skip=target.frame_skip,
        look=target.camera,
        terminated=raw.terminated,
        action_space=raw.action_space or {},
    )
    try:
        return Episode(
            np.stack(frames),
            actions,
            unknown if raw.rewards is None else raw.rewards,
            unknown.astype(np.bool_) if raw.successes is None else raw.successes,
            info,
        )
    except DataError as error:  # without the description of the episode: the member's name is enough
        raise DataError(str(error).removeprefix(f"episode {info}: ")) from error


def _earlier_episode(members: list[Member], target: Target) -> Episode | EpisodeFile | None:
    """The first episode that an earlier conversion wrote; what follows must be like it.

    Raises:
        ConfigError: if that conversion had other options.
    """
    path = next((target.path(member) for member in members if target.path(member).exists()), None)
    if path is None:
        return None
    episode = EpisodeFile(path)
    height, width = episode.shape[1:3]
    about = _describe(episode.info.environment, episode.info.look, episode.info.frame_skip, height, width)
    wanted = _describe(target.environment, target.camera, target.frame_skip, target.resolution, target.resolution)
    if about != wanted:
        raise ConfigError(
            f"{path}: expected an episode of {wanted}, got one of {about}; convert into a folder of its own"
        )
    return episode


def _describe(environment: str, camera: str, frame_skip: int, height: int, width: int) -> str:
    return f"{environment} with camera {camera or 'by default'}, frame skip {frame_skip} and {height}x{width} pixels"


def _check_alike(episode: Episode, first: Episode | EpisodeFile) -> None:
    """Raise DataError unless two episodes can be in one folder."""
    length, expected = episode.actions.shape[1], first.actions.shape[1]
    if length != expected:
        raise DataError(f"expected actions of length {expected} as in the first episode, got length {length}")
    if episode.info.action_space != first.info.action_space:
        raise DataError(
            f"expected the action space {first.info.action_space} as in the first episode, got "
            f"{episode.info.action_space}"
        )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ..."
