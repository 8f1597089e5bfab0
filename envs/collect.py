"""Recording episodes from simulators, in parallel processes.

Behaviours, from the most to the least purposeful:

    expert   the scripted expert
    noisy    the expert with Gaussian noise, its scale drawn anew each episode from 0.1 to 1
    straying the expert, the expert pushed aside, a held action and a random walk by turns: as agents that have half
             learned a task, it is often near success without having it
    smooth   a mean-reverting random walk, which crosses the whole workspace
    random   independent uniform actions
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym.data.episode import SUFFIX, Episode, EpisodeInfo
from worldgym.envs.simulators import toy_world
from worldgym.envs.simulators.dials import SimulatorDials
from worldgym.envs.simulators.metaworld import ACTION_REPEAT, EPISODE_STEPS, SimulatorMetaWorld, plain_task_name
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.envs.simulators.toy_world import ToyWorld
from worldgym.errors import DataError, InvalidOption, UnknownTask, nearest

Simulator = SimulatorMetaWorld | ToyWorld
Policy = Callable[[], NDArray[np.float32]]
TOY_WORLDS: dict[str, type[ToyWorld]] = {world.task: world for world in (SimulatorToy, SimulatorDials)}
SMOOTH_REVERSION = 0.1
STRAYING_SPELL = (5, 30)  # steps


class Job(NamedTuple):
    """One episode to record."""

    task: str
    behaviour: str
    seed: int
    look: str

    def path(self, folder: Path) -> Path:
        """Where its file lies: ``folder/task/behaviour-seed.safetensors``."""
        return folder / self.task / f"{self.behaviour}-{self.seed:08d}{SUFFIX}"


def collect(
    folder: Path,
    tasks: Iterable[str],
    episodes: Mapping[str, int],
    seed: int = 0,
    workers: int = 2,
    look: str = "fast",
) -> list[Path]:
    """Record ``episodes[behaviour]`` episodes a task into ``folder``; those already there are kept and not repeated.

    Tasks are Meta-World's, and the toy worlds ``toy`` and ``dials``. Equal seeds record equal episodes. A kill loses
    only the episodes under way.

    Returns:
        The files of all episodes asked for.
    """
    jobs = list(_jobs([task_name(task) for task in tasks], episodes, seed, look))
    missing = [job for job in jobs if not job.path(folder).exists()]
    # Mesa's software renderer starts threads of its own in every process, which then get in each other's way.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="collect", unit="episode")
    # Whoever interrupts tells this process; it lets those that record finish their episodes.
    with (
        bar,
        ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
    ):
        try:
            futures = [pool.submit(_record_to, job, folder) for job in missing]
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise DataError(
                f"a collecting process died (out of memory?); the episodes finished are kept in {folder}. "
                "Run the same command again to go on, with fewer workers if it dies again"
            ) from error
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                held = sum(job.path(folder).exists() for job in jobs)
                bar.write(f"stopped at {held} of {len(jobs)} episodes; run the same command again to go on", sys.stderr)
            raise
    return [job.path(folder) for job in jobs]


def task_name(task: str) -> str:
    """A task's plain name. Raises UnknownTask where neither Meta-World nor a toy world has it."""
    if task in TOY_WORLDS:
        return task
    try:
        return plain_task_name(task)
    except UnknownTask as error:
        raise UnknownTask(f"{error} (toy worlds: {', '.join(TOY_WORLDS)})") from error


def _jobs(tasks: list[str], episodes: Mapping[str, int], seed: int, look: str) -> Iterator[Job]:
    for behaviour in episodes:
        if behaviour not in BEHAVIOURS:
            raise InvalidOption(f"unknown behaviour {behaviour!r}; {nearest(behaviour, BEHAVIOURS)}")
    for task in tasks:
        for behaviour, count in episodes.items():
            yield from (Job(task, behaviour, seed + index, look) for index in range(count))


def _record_to(job: Job, folder: Path) -> None:
    env = _simulator(job)
    try:
        record(env, job.behaviour, job.seed, job.look).save(job.path(folder))
    finally:
        env.close()


def _simulator(job: Job) -> Simulator:
    if job.task in TOY_WORLDS:
        return TOY_WORLDS[job.task]()
    return SimulatorMetaWorld(job.task, look=job.look)  # type: ignore[arg-type]


def record(env: Simulator, behaviour: str, seed: int, look: str = "fast") -> Episode:
    """One whole episode of a behaviour (see the head of this file)."""
    rng = np.random.default_rng([seed, *behaviour.encode()])
    frame, _ = env.reset(seed=int(rng.integers(2**31)))
    policy = BEHAVIOURS[behaviour](env, rng)
    frames, actions, rewards, successes = [frame], [], [], []
    steps, name, repeat = _facts(env)
    for _ in range(steps):
        actions.append(policy())
        frame, reward, _, _, info = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        successes.append(info["success"])
    about = EpisodeInfo(name, env.task, behaviour, seed, repeat, look)
    return Episode(
        np.stack(frames), np.stack(actions), np.array(rewards, np.float32), np.array(successes, np.bool_), about
    )


def _facts(env: Simulator) -> tuple[int, str, int]:
    """Steps of an episode, the environment's id, and simulator steps a step."""
    if isinstance(env, ToyWorld):
        return toy_world.EPISODE_STEPS, env.env_id, 1
    return EPISODE_STEPS, "Simulator-MetaWorld-v0", ACTION_REPEAT


def _expert(env: Simulator, rng: np.random.Generator) -> Policy:
    return env.expert_action


def _noisy(env: Simulator, rng: np.random.Generator) -> Policy:
    scale, shape = rng.uniform(0.1, 1.0), env.action_space.shape
    return lambda: np.clip(env.expert_action() + scale * rng.standard_normal(shape), -1.0, 1.0).astype(np.float32)


def _straying(env: Simulator, rng: np.random.Generator) -> Policy:
    """Spells of one kind of behaviour each, with noise of their own."""
    shape = env.action_space.shape
    left, spell, scale = 0, env.expert_action, 0.0

    def kinds() -> tuple[Callable[[], NDArray[np.floating[Any]]], ...]:
        push, held = rng.uniform(-1, 1, shape), rng.uniform(-2, 2, shape)  # half of a held action is at its bounds
        return env.expert_action, lambda: env.expert_action() + push, lambda: held, _smooth(env, rng)

    def act() -> NDArray[np.float32]:
        nonlocal left, spell, scale
        if not left:
            left, scale = int(rng.integers(*STRAYING_SPELL)), rng.uniform(0, 0.5)
            spell = kinds()[rng.integers(4)]
        left -= 1
        return np.clip(spell() + scale * rng.standard_normal(shape), -1.0, 1.0).astype(np.float32)

    return act


def _smooth(env: Simulator, rng: np.random.Generator) -> Policy:
    walk = 0.5 * rng.standard_normal(env.action_space.shape)

    def act() -> NDArray[np.float32]:
        nonlocal walk
        walk = (1 - SMOOTH_REVERSION) * walk + 0.4 * rng.standard_normal(env.action_space.shape)
        return np.clip(walk, -1.0, 1.0).astype(np.float32)

    return act


def _random(env: Simulator, rng: np.random.Generator) -> Policy:
    return lambda: rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)


BEHAVIOURS: dict[str, Callable[[Simulator, np.random.Generator], Policy]] = {
    "expert": _expert,
    "noisy": _noisy,
    "straying": _straying,
    "smooth": _smooth,
    "random": _random,
}
