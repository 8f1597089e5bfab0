"""Recording episodes from simulators, in parallel processes, here or on a Ray cluster."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import closing
from multiprocessing import current_process, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym import cluster
from worldgym.data.episode import SUFFIX, Episode, EpisodeFile, EpisodeInfo
from worldgym.data.names import file_name
from worldgym.envs.actions import ActionCodec
from worldgym.envs.behaviours import Behaviour, behaviour_rng, find_behaviour
from worldgym.envs.registry import SimulatorSpec, find_task, specs
from worldgym.errors import DataError, InvalidOption, WorldGymError, nearest

MOST_STEPS = 100_000
"""Steps after which an episode is given up that neither the environment nor the caller limits."""


class Job(NamedTuple):
    """One episode to record. ``simulator`` is the name of the family; ``options`` are arguments of its environment."""

    simulator: str
    task: str
    behaviour: str
    seed: int
    policy: Behaviour
    options: Mapping[str, Any]
    steps: int | None

    @property
    def spec(self) -> SimulatorSpec:
        """The simulator's family."""
        return specs()[self.simulator]

    def path(self, folder: Path) -> Path:
        """The file: ``folder/task/behaviour-seed.safetensors``."""
        return folder / file_name(self.task) / f"{self.behaviour}-{self.seed:08d}{SUFFIX}"


def collect(
    folder: Path,
    tasks: Iterable[str],
    episodes: Mapping[str, int],
    seed: int = 0,
    workers: int | None = 2,
    look: str | None = None,
    policies: Mapping[str, Behaviour] | None = None,
    options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    ray: str | None = None,
) -> list[Path]:
    """Record episodes into a folder. Episodes that are already there are kept and not repeated.

    Equal seeds record equal episodes, wherever. If the process is killed, only the episodes in progress are lost. Call
    it below ``if __name__ == "__main__"``, because it starts processes.

    Args:
        folder: of the recordings.
        tasks: of any simulator, or ids of Gymnasium environments.
        episodes: behaviour -> number of episodes of each task; see :mod:`worldgym.envs.behaviours`.
        seed: of each behaviour's first episode; the others count up from it.
        workers: number of processes; None is one a core, of this machine or of the cluster.
        look: how the simulator draws; its first look unless given.
        policies: further behaviours by their names; they are sent to other processes, so they must be picklable.
        options: further arguments of the simulator's environment, such as ``resolution`` for a Gymnasium environment.
        steps: the most steps of an episode; the simulator's unless given.
        ray: address of a Ray cluster to record on, as for :func:`worldgym.cluster.connected`; its machines need
            worldgym, the simulator and a policy's file. This process writes the episodes, into a folder of its own.

    Returns:
        The files of all episodes requested.

    Raises:
        UnknownTask, InvalidOption: for an unknown task, behaviour or look.
        DataError: if a process died, on a cluster repeatedly, or an environment failed in the middle of an episode;
            finished episodes are kept. Also if the folder's episodes were recorded with other options.
        ConfigError, DependencyNotInstalled: if the cluster cannot be reached; without Ray.
    """
    known = {name: (policies or {}).get(name) or find_behaviour(name) for name in episodes}
    found = [find_task(task) for task in tasks]
    given = dict(options or {})
    jobs = [
        Job(spec.name, task, name, seed + index, known[name], given | _look(spec, look), steps)
        for spec, task in found
        for name, count in episodes.items()
        for index in range(count)
    ]
    missing = [job for job in jobs if not job.path(folder).exists()]
    _check_kept([job for job in jobs if job.path(folder).exists()], folder, look)
    finished = _on_cluster(missing, folder, workers, ray) if ray else _in_processes(missing, folder, workers)
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="collect", unit="episode") as bar:
        try:
            with closing(finished):
                for _ in finished:
                    bar.update()
        except KeyboardInterrupt:
            done = sum(job.path(folder).exists() for job in jobs)
            bar.write(f"stopped at {done} of {len(jobs)} episodes; run the same command again to continue", sys.stderr)
            raise
    return [job.path(folder) for job in jobs]


def _look(spec: SimulatorSpec, look: str | None) -> dict[str, str]:
    """The argument of a simulator that draws in several ways. Raises InvalidOption for an unknown one."""
    if look is not None and look not in spec.looks:
        raise InvalidOption(f"{spec.simulator_id} has no look {look!r}; {nearest(look, spec.looks)}")
    return {"look": look} if look is not None and len(spec.looks) > 1 else {}


def _check_kept(jobs: Sequence[Job], folder: Path, look: str | None) -> None:
    """Raise DataError if an episode that is kept differs from what is asked for."""
    for job in jobs:
        episode = EpisodeFile(job.path(folder))
        pairs = [
            ("look", look, episode.info.look),
            ("frame_skip", job.options.get("frame_skip"), episode.info.frame_skip),
            ("resolution", job.options.get("resolution"), episode.shape[1]),
        ]
        if different := [f"{name} {found}" for name, asked, found in pairs if asked not in (None, found)]:
            raise DataError(f"{job.path(folder)} was recorded with {', '.join(different)}: choose another folder")


def record(
    env: Any,
    behaviour: str,
    seed: int,
    look: str | None = None,
    steps: int | None = None,
    policy: Behaviour | None = None,
) -> Episode:
    """Record one episode, until the environment ends it or for a number of steps.

    Args:
        env: a simulator without wrappers, as :meth:`SimulatorSpec.make` gives it.
        behaviour: one of :data:`worldgym.envs.behaviours.BEHAVIOURS`, or the name of ``policy``.
        seed: of the episode; equal seeds give equal episodes.
        look: what the recording says of how the simulator draws; its first look unless given.
        steps: the most steps of the episode; the simulator's unless given.
        policy: who acts; the behaviour of this name unless given.

    Raises:
        DataError: if the environment fails, or gives values that cannot be recorded; names the seed and the step.
    """
    spec = next((spec for spec in specs().values() if spec.entry_point.endswith(f":{type(env).__name__}")), None)
    if spec is None:
        raise InvalidOption(f"expected a simulator of worldgym without wrappers, got {env}: make it by Simulator-v0")
    rng, limit = behaviour_rng(behaviour, seed), spec.episode_steps if steps is None else steps
    codec, terminated, truncated = ActionCodec(env.action_space), False, False
    frames: list[NDArray[np.uint8]] = []
    actions: list[NDArray[np.float32]] = []
    rewards: list[float] = []
    successes: list[bool] = []
    try:
        frames.append(env.reset(seed=int(rng.integers(2**31)))[0])
        act = (policy or find_behaviour(behaviour))(env, rng)
        while not (terminated or truncated or len(actions) == limit):
            action = act()
            frame, reward, terminated, truncated, info = env.step(action)
            frames.append(frame)
            actions.append(codec.encode(action))
            rewards.append(float(reward))
            successes.append(info["success"])
            if limit is None and len(actions) == MOST_STEPS:
                raise DataError(f"{env.task}: no end within {MOST_STEPS} steps; say how many to record: --max-steps")
        about = EpisodeInfo(
            spec.simulator_id,
            env.task,
            behaviour,
            seed,
            env.frame_skip,
            look or spec.looks[0],
            bool(terminated),
            codec.describe(),
            getattr(env, "episode_steps", spec.episode_steps),
        )
        values = np.array(rewards, np.float32), np.array(successes, np.bool_)
        return Episode(np.stack(frames), np.stack(actions), *values, about)
    except WorldGymError:
        raise
    except Exception as error:  # whatever an environment or a policy may raise
        raise DataError(
            f"{env.task}: behaviour {behaviour!r} with seed {seed} failed after {len(actions)} steps: "
            f"{type(error).__name__}: {error}"
        ) from error


def _in_processes(jobs: Sequence[Job], folder: Path, workers: int | None) -> Generator[None, None, None]:
    """Record into the folder by processes of this machine; yields after each episode."""
    if jobs and getattr(current_process(), "_inheriting", False):
        raise DataError(
            'collect() starts processes, which import the main script again: call it below if __name__ == "__main__":'
        )
    with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _begin_recording) as pool:
        try:
            for future in as_completed([pool.submit(_record_to, job, folder) for job in jobs]):
                yield future.result()
        except BrokenExecutor as error:
            raise DataError(_without_main_guard() or _died(folder)) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin_recording() -> None:
    """In a recording process: the main one handles interrupts; if it is killed, this one ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = parent_process()
    assert main is not None

    def follow() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _on_cluster(jobs: Sequence[Job], folder: Path, workers: int | None, address: str) -> Generator[None, None, None]:
    """Record by actors of a Ray cluster, and write what they send into the folder; yields after each episode."""
    if not jobs:
        return
    with cluster.connected(address):
        try:
            for job, episode in cluster.map_unordered(_record_job, jobs, workers):
                episode.save(job.path(folder))
                yield
        except BrokenExecutor as error:
            raise DataError(f"{_died(folder)}. Ray says: {error}") from error


def _record_job(job: Job) -> Episode:
    """Record an episode, in the environment of this process's last episode if it was alike."""
    env = _take_env(job)
    try:
        episode = record(env, job.behaviour, job.seed, job.options.get("look"), job.steps, job.policy)
    except BaseException:
        env.close()
        raise
    _keep_env(job, env)
    return episode


_kept: list[tuple[Any, Any]] = []  # at most one environment, with what it was made of


def _take_env(job: Job) -> Any:
    made_of = job.simulator, job.task, dict(job.options)
    if _kept:
        known, env = _kept.pop()
        if known == made_of:
            return env
        env.close()
    return job.spec.make(job.task, **job.options)


def _keep_env(job: Job, env: Any) -> None:
    """Keep an environment for the next episode. Of a Gymnasium environment episodes may depend on those before."""
    if job.simulator:
        _kept.append(((job.simulator, job.task, dict(job.options)), env))
    else:
        env.close()


def _record_to(job: Job, folder: Path) -> None:
    _record_job(job).save(job.path(folder))


def _without_main_guard() -> str | None:
    """What is wrong if the main script starts processes whenever it is imported."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    text = Path(script).read_text(encoding="utf-8", errors="replace") if script and Path(script).exists() else ""
    if not script or "__main__" in text or getattr(main, "__spec__", None) is not None:
        return None
    return (
        f"a recording process died while it imported {script}: put the call of collect() below "
        'if __name__ == "__main__":'
    )


def _died(folder: Path) -> str:
    return (
        f"a recording process died (out of memory?); finished episodes are kept in {folder}. Run the same command "
        "again to continue, with fewer workers if it dies again"
    )
