"""Recording episodes from simulators, in parallel processes."""

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from worldgym.data.episode import SUFFIX, Episode, EpisodeInfo
from worldgym.data.names import file_name
from worldgym.envs.behaviours import behaviour_rng, find_behaviour
from worldgym.envs.registry import SimulatorSpec, find_task, specs
from worldgym.errors import DataError, InvalidOption, nearest


class Job(NamedTuple):
    """One episode to record. ``simulator`` is the name of the family; ``look`` None is its first."""

    simulator: str
    task: str
    behaviour: str
    seed: int
    look: str | None

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
    workers: int = 2,
    look: str | None = None,
) -> list[Path]:
    """Record episodes into a folder. Episodes that are already there are kept and not repeated.

    Equal seeds record equal episodes. If the process is killed, only the episodes in progress are lost. Call it below
    ``if __name__ == "__main__"``, because it starts processes.

    Args:
        folder: of the recordings.
        tasks: of any simulator.
        episodes: behaviour -> number of episodes of each task; see :mod:`worldgym.envs.behaviours`.
        seed: of each behaviour's first episode; the others count up from it.
        workers: number of processes.
        look: how the simulator draws; its first look unless given.

    Returns:
        The files of all episodes requested.

    Raises:
        UnknownTask, InvalidOption: for an unknown task, behaviour or look.
        DataError: if a process died.
    """
    jobs = list(_jobs([find_task(task) for task in tasks], episodes, seed, look))
    missing = [job for job in jobs if not job.path(folder).exists()]
    if missing and getattr(current_process(), "_inheriting", False):
        raise DataError(
            'collect() starts processes, which import the main script again: call it below if __name__ == "__main__":'
        )
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="collect", unit="episode")
    # This process handles interrupts; the recording ones finish their episodes.
    context, ignore = get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    with bar, ProcessPoolExecutor(workers, context, signal.signal, ignore) as pool:
        try:
            for future in as_completed([pool.submit(_record_to, job, folder) for job in missing]):
                future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise DataError(_why_broken(folder)) from error
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                done = sum(job.path(folder).exists() for job in jobs)
                bar.write(
                    f"stopped at {done} of {len(jobs)} episodes; run the same command again to continue", sys.stderr
                )
            raise
    return [job.path(folder) for job in jobs]


def record(env: Any, behaviour: str, seed: int, look: str | None = None, steps: int | None = None) -> Episode:
    """Record one episode.

    Args:
        env: a simulator without wrappers, as :meth:`SimulatorSpec.make` gives it.
        behaviour: one of :data:`worldgym.envs.behaviours.BEHAVIOURS`.
        seed: of the episode; equal seeds give equal episodes.
        look: what the recording says of how the simulator draws; its first look unless given.
        steps: length of the episode; the simulator's unless given.
    """
    spec = next(spec for spec in specs().values() if spec.entry_point.endswith(f":{type(env).__name__}"))
    rng = behaviour_rng(behaviour, seed)
    frame, _ = env.reset(seed=int(rng.integers(2**31)))
    policy = find_behaviour(behaviour)(env, rng)
    frames, actions, rewards, successes = [frame], [], [], []
    for _ in range(spec.episode_steps if steps is None else steps):
        actions.append(policy())
        frame, reward, _, _, info = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        successes.append(info["success"])
    info = EpisodeInfo(spec.simulator_id, env.task, behaviour, seed, spec.frame_skip, look or spec.looks[0])
    return Episode(
        np.stack(frames), np.stack(actions), np.array(rewards, np.float32), np.array(successes, np.bool_), info
    )


def _jobs(
    tasks: list[tuple[SimulatorSpec, str]], episodes: Mapping[str, int], seed: int, look: str | None
) -> Iterator[Job]:
    for behaviour in episodes:
        find_behaviour(behaviour)
    for spec, task in tasks:
        if look is not None and look not in spec.looks:
            raise InvalidOption(f"{spec.name} has no look {look!r}; {nearest(look, spec.looks)}")
        for behaviour, count in episodes.items():
            yield from (Job(spec.name, task, behaviour, seed + index, look) for index in range(count))


def _record_to(job: Job, folder: Path) -> None:
    env = job.spec.make(job.task, **({} if job.look is None else {"look": job.look}))
    try:
        record(env, job.behaviour, job.seed, job.look).save(job.path(folder))
    finally:
        env.close()


def _why_broken(folder: Path) -> str:
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    text = Path(script).read_text(encoding="utf-8", errors="replace") if script and Path(script).exists() else ""
    if script and "__main__" not in text and getattr(main, "__spec__", None) is None:
        return (
            f"a recording process died while it imported {script}: put the call of collect() below "
            'if __name__ == "__main__":'
        )
    return (
        f"a recording process died (out of memory?); finished episodes are kept in {folder}. Run the same command "
        "again to continue, with fewer workers if it dies again"
    )
