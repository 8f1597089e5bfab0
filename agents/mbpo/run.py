"""One run of an agent: the loop of :class:`MBPO`, evaluations, videos, and what remains in the folder.

A checkpoint in the run's folder (see :mod:`worldgym.runs.run`) holds the state of agent, world model and counters, and
both replays. Once the run is finished the folder also holds

    agent.safetensors     the agent, for ``DrQv2.from_file``
    world_model/          the world model, for ``WorldModel.from_pretrained`` and ``gym.make``
    summary.json          the last evaluation, and where the time went
"""

import dataclasses
import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from worldgym.agents.common.evaluation import evaluate
from worldgym.agents.common.spaces import check_spaces
from worldgym.agents.mbpo.collector import Env
from worldgym.agents.mbpo.export import export_world_model
from worldgym.agents.mbpo.learner import MBPO
from worldgym.reports.provenance import provenance
from worldgym.reports.video import enlarge, write_mp4
from worldgym.runs.checkpoint import load_state, save_state, write_checkpoint
from worldgym.runs.folder import CHECKPOINT_KEPT, VIDEOS
from worldgym.runs.log import Log, Metrics
from worldgym.runs.run import run
from worldgym.storage.files import atomic_json, read_json, writing

REPLAY, IMAGINED = "replay.safetensors", "imagined.safetensors"
AGENT, WORLD_MODEL, SUMMARY = "agent.safetensors", "world_model", "summary.json"
VIDEO_FACTOR = 4


def train(
    learner: MBPO, evaluation_env: Env, folder: Path, about: Mapping[str, Any] | None = None, resume: bool = False
) -> bool:
    """Run a learner until ``config.steps``, or resume it; see :func:`worldgym.runs.run.run`.

    On a CPU a run that was stopped or killed and then resumed ends as an uninterrupted one does.

    Args:
        learner: newly made; a resumed run's state is loaded into it.
        evaluation_env: like the learner's environment, but another one.
        folder: of the run.
        about: entries for ``config.json``; ``method`` and ``task`` name the run in :mod:`worldgym.agents.curves`.
        resume: continue the run in ``folder``.

    Returns:
        Whether the run is finished.

    Raises:
        TrainingError: if training diverges, or if the environment does not repeat an episode; the last checkpoint is
            kept. Else as ``run``.
    """
    check_spaces(evaluation_env, learner.agent)
    config = {
        "method": "DrQ-v2" if learner.world is None else "MBPO",
        "task": getattr(evaluation_env.unwrapped, "task", None),
        "training": dataclasses.asdict(learner.config),
        "agent": dataclasses.asdict(learner.agent.config),
        **(about or {}),
    }
    return run(_AgentJob(learner, evaluation_env, folder), folder, config, resume)


class _AgentJob:
    """A :class:`worldgym.runs.run.Job`: evaluations, warm-up units and environment steps, one at a time."""

    def __init__(self, learner: MBPO, evaluation_env: Env, folder: Path) -> None:
        self._learner, self._evaluation_env, self._folder = learner, evaluation_env, folder
        warmed_up_first = learner.warmup_units > 0 and not learner.config.seed_steps
        self._evaluated = -1 if warmed_up_first else 0  # the step of the newest evaluation; -1 evaluates step 0 too
        self._evaluation: Metrics = {}
        self._unlogged: Metrics = {}
        self._seconds = 0.0  # spent on evaluations

    @property
    def step(self) -> int:
        return self._learner.step

    @property
    def steps(self) -> int:
        return self._learner.config.steps

    @property
    def finished(self) -> bool:
        return self.step >= self.steps and not self._learner.warming_up and not self._evaluation_due

    @property
    def save_due(self) -> bool:
        return not self._evaluation_due and self._count % self._learner.config.save_every == 0

    def advance(self, log: Log, stop: Sized) -> None:
        if self._evaluation_due:
            self._evaluate(log, stop)
        elif self._learner.warming_up:
            self._log(log, self._learner.warm_up())
            log.advance(f"warm-up {self._learner.warmup_done} of {self._learner.warmup_units}", 0)
        else:
            self._log(log, self._collect() | self._learner.learn())
            log.advance(self._message())

    def save(self, folder: Path) -> None:
        counters = {
            "learner": self._learner.counters(),
            "job": {
                "evaluated": self._evaluated,
                "evaluation": self._evaluation,
                "unlogged": self._unlogged,
                "seconds": self._seconds,
            },
        }
        save_state(folder, self._learner.state_dict(), counters)
        self._learner.replay.save(folder / REPLAY)
        self._learner.imagined.save(folder / IMAGINED)

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        self._learner.replay.restore(folder / REPLAY)
        self._learner.imagined.restore(folder / IMAGINED)
        self._learner.load_state_dict(tensors, counters["learner"])
        job = counters["job"]
        self._evaluated, self._evaluation = job["evaluated"], job["evaluation"]
        self._unlogged, self._seconds = job["unlogged"], job["seconds"]

    def conclude(self, folder: Path) -> None:
        self._learner.agent.save(folder / AGENT)
        if self._learner.world is not None:
            world_model, replay = self._learner.world.world_model, self._learner.replay
            export_world_model(folder / WORLD_MODEL, world_model, self._evaluation_env, replay)
        summary = {"steps": self.step, **self._evaluation, "seconds": self._all_seconds()}
        atomic_json(folder / SUMMARY, {**summary, **provenance(self._learner.agent.device)})

    @property
    def _evaluation_due(self) -> bool:
        config = self._learner.config
        due = self.step > self._evaluated and (self.step % config.evaluate_every == 0 or self.step == config.steps)
        return due and not self._learner.warming_up  # the warm-up belongs to the step before it

    @property
    def _count(self) -> int:
        """Warm-up units during the warm-up, else environment steps."""
        return self._learner.warmup_done if self._learner.warming_up else self.step

    def _collect(self) -> Metrics:
        try:
            return self._learner.collect()
        except Exception:
            # The step that failed was not counted; everything collected before it is kept.
            write_checkpoint(self._folder, self.step, self.save)
            raise

    def _evaluate(self, log: Log, stop: Sized) -> None:
        config, start = self._learner.config, time.perf_counter()
        found = evaluate(self._evaluation_env, self._learner.agent, config.evaluation_episodes, stop)
        self._seconds += time.perf_counter() - start
        if found is None:
            return  # stopped; a resumed run begins with this evaluation
        videos = self._folder / VIDEOS
        with writing(videos, CHECKPOINT_KEPT):
            videos.mkdir(exist_ok=True)
        write_mp4(videos / f"{self.step:07d}.mp4", enlarge(found.frames, VIDEO_FACTOR))
        self._evaluated, self._evaluation = self.step, {"success": found.success, "return": found.mean_return}
        log.write(self.step, {f"evaluation/{name}": value for name, value in self._evaluation.items()})
        log.advance(self._message(), 0)

    def _log(self, log: Log, metrics: Metrics) -> None:
        self._unlogged |= metrics
        if self._count % self._learner.config.log_every == 0 or self._count == self.steps:
            warmup = {"warmup": float(self._learner.warmup_done)} if self._learner.warming_up else {}
            seconds = {f"seconds/{phase}": round(spent, 2) for phase, spent in self._all_seconds().items()}
            log.write(self.step, warmup | self._unlogged | seconds)
            self._unlogged = {}

    def _message(self) -> str:
        """The newest evaluation, for the progress bar."""
        if not self._evaluation:
            return ""
        return f"success {self._evaluation['success']:.0%}, return {self._evaluation['return']:.1f}"

    def _all_seconds(self) -> dict[str, float]:
        return {**self._learner.seconds, "evaluate": self._seconds}


def time_table(folder: Path) -> str:
    """Where the time of a finished run went, as a Markdown table."""
    seconds: dict[str, float] = read_json(folder / SUMMARY)["seconds"]
    total = sum(seconds.values()) or 1.0
    rows = [f"| {phase} | {spent:.0f} | {spent / total:.0%} |" for phase, spent in seconds.items()]
    return "\n".join(["| phase | seconds | share |", "| --- | ---: | ---: |", *rows, f"| all | {total:.0f} | 100% |"])
