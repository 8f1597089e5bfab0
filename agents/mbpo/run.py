"""One run of an agent, in a folder that can be resumed exactly.

    config.json           what learns, and how
    checkpoint-N/         agent, world model and counters (``learner.safetensors``) and both replays; the newest counts
    metrics.jsonl         figures, a line every so many steps; evaluations are lines of their own
    events.out.*          the same for TensorBoard
    videos/               the first episode of each evaluation
    agent.safetensors     when it is done: the agent, for ``DrQv2.from_file``
    world_model/          and the world model, for ``WorldModel.from_pretrained``
    summary.json          and what came out of it, and where the time went

Checkpoints appear whole: a folder is filled aside and renamed, and only then the one before it goes. So agent, world
model and replays always belong together, whatever ends the process.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldgym.agents.common.evaluation import evaluate
from worldgym.agents.mbpo import MBPO, Env, check_spaces
from worldgym.errors import CheckpointError
from worldgym.storage.files import atomic_folder, atomic_json, read_json, writing
from worldgym.reports.provenance import provenance
from worldgym.training.loop import CHECKPOINT_KEPT, METRICS, Log, Metrics, open_run, stop_signals
from worldgym.reports.video import enlarge, write_mp4

LEARNER, REPLAY, IMAGINED = "learner.safetensors", "replay.safetensors", "imagined.safetensors"
PREFIX = "checkpoint-"
SUMMARY = "summary.json"
VIDEO_FACTOR = 4


def train(
    learner: MBPO, evaluation_env: Env, folder: Path, about: Mapping[str, Any] | None = None, resume: bool = False
) -> bool:
    """Run or resume a learner until ``config.steps``; whether it came that far.

    SIGINT and SIGTERM end it after the step or the unit of preparation under way, with a checkpoint. On a CPU a run
    that was stopped or killed and then resumed ends as an unbroken one does.

    Args:
        learner: as it is made; what a resumed run has learned is put into it.
        evaluation_env: like the learner's, but another one.
        folder: of the run.
        about: entries for ``config.json``; ``method`` and ``task`` name the run in :mod:`worldgym.agents.curves`.
        resume: go on with the run in ``folder``.

    Raises:
        TrainingError: if the folder holds another run, a loss stops being finite, or the environment does not repeat an
            episode (the last checkpoint is kept).
        StorageError: if the disk refuses (the last checkpoint is kept).
        CheckpointError: if the checkpoint to resume from is damaged.
    """
    check_spaces(evaluation_env, learner.agent)
    described = {
        "method": "DrQ-v2" if learner.world_model is None else "MBPO",
        "task": getattr(evaluation_env.unwrapped, "task", None),
        "training": dataclasses.asdict(learner.config),
        "agent": dataclasses.asdict(learner.agent.config),
        **(about or {}),
    }
    resumed = open_run(folder, described, resume)
    run = _Run(learner, evaluation_env, folder)
    if resumed:
        run.load()
    with Log(folder, learner.config.steps, learner.step) as log, stop_signals() as stopped:
        while not stopped and not run.finished:
            run.advance(log, stopped)
            if stopped or run.time_to_save:
                run.save()
    if run.finished:
        run.conclude()
    return run.finished


class _Run:
    """A learner, how it did so far, and where both are kept."""

    def __init__(self, learner: MBPO, evaluation_env: Env, folder: Path) -> None:
        self.learner, self.evaluation_env, self.folder = learner, evaluation_env, folder
        self.evaluated = 0  # the step of the newest evaluation
        self.figures: Metrics = {}  # of that evaluation
        self.latest: Metrics = {}  # not yet logged
        self.seconds = 0.0  # spent on evaluations

    @property
    def finished(self) -> bool:
        learner = self.learner
        return learner.step >= learner.config.steps and not learner.preparing and not self._time_to_evaluate

    @property
    def time_to_save(self) -> bool:
        every = self.learner.config.save_every
        return not self._time_to_evaluate and (self._count % every == 0 or self.finished)

    @property
    def _time_to_evaluate(self) -> bool:
        step, config = self.learner.step, self.learner.config
        due = step > self.evaluated and (step % config.evaluate_every == 0 or step == config.steps)
        return due and not self.learner.preparing  # what is prepared is part of the step

    @property
    def _count(self) -> int:
        """Of steps, or of units of the preparation while it lasts."""
        return self.learner.prepared if self.learner.preparing else self.learner.step

    def advance(self, log: Log, stopped: Sized) -> None:
        """An evaluation when it is time, else a unit of the preparation or a real step and what follows from it."""
        if self._time_to_evaluate:
            self._evaluate(log, stopped)
        elif self.learner.preparing:
            self._log(log, self.learner.prepare())
            log.advance(f"preparing, {self.learner.prepared} of {self.learner.preparation}", 0)
        else:
            self._log(log, self._collect() | self.learner.learn())
            log.advance(self._told())

    def _collect(self) -> Metrics:
        try:
            return self.learner.collect()
        except Exception:
            self.save()  # the step that failed was not counted; what was collected before it is not lost
            raise

    def _log(self, log: Log, metrics: Metrics) -> None:
        self.latest |= metrics
        if self._count % self.learner.config.log_every == 0 or self._count == self.learner.config.steps:
            prepared = {"prepared": float(self.learner.prepared)} if self.learner.preparing else {}
            log.write(self.learner.step, prepared | self.latest | self._seconds())
            self.latest = {}

    def _told(self) -> str:
        """How the agent did when it was last evaluated."""
        return f"success {self.figures['success']:.0%}, return {self.figures['return']:.1f}" if self.figures else ""

    def _seconds(self) -> Metrics:
        seconds = {**self.learner.seconds, "evaluate": self.seconds}
        return {f"seconds/{phase}": round(spent, 2) for phase, spent in seconds.items()}

    def _evaluate(self, log: Log, stopped: Sized) -> None:
        config, step, start = self.learner.config, self.learner.step, time.perf_counter()
        found = evaluate(self.evaluation_env, self.learner.agent, config.evaluation_episodes, stopped)
        self.seconds += time.perf_counter() - start
        if found is None:
            return  # the checkpoint that follows says so, and a resumed run begins with this evaluation
        with writing(self.folder / "videos", CHECKPOINT_KEPT):
            (self.folder / "videos").mkdir(exist_ok=True)
        write_mp4(self.folder / "videos" / f"{step:07d}.mp4", enlarge(found.frames, VIDEO_FACTOR))
        self.evaluated, self.figures = step, {"success": found.success, "return": found.mean_return}
        log.write(step, {f"evaluation/{name}": value for name, value in self.figures.items()})
        log.advance(self._told(), 0)

    def save(self) -> None:
        """Write a checkpoint: it appears in one step, and only then those before it go."""
        before = checkpoints(self.folder)
        tensors, notes = self.learner.state()
        own = {"evaluated": self.evaluated, "figures": self.figures, "latest": self.latest, "seconds": self.seconds}
        log = self.folder / METRICS
        notes = {"learner": notes, "run": own, "logged_bytes": log.stat().st_size if log.exists() else 0}
        number = _number(before[-1]) + 1 if before else 1
        with atomic_folder(self.folder / f"{PREFIX}{number:06d}") as aside:
            stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(stored, aside / LEARNER, {"notes": json.dumps(notes)})
            self.learner.replay.save(aside / REPLAY)
            self.learner.imagined.save(aside / IMAGINED)
        for path in before:
            shutil.rmtree(path, ignore_errors=True)

    def load(self) -> None:
        """Go back to the newest checkpoint; what was logged after it, by a process that was killed, is forgotten."""
        for path in self.folder.glob(f".{PREFIX}*"):  # never finished
            shutil.rmtree(path, ignore_errors=True)
        logged, found = 0, checkpoints(self.folder)
        if found:
            tensors, notes = _read(found[-1] / LEARNER)
            self.learner.replay.restore(found[-1] / REPLAY)
            self.learner.imagined.restore(found[-1] / IMAGINED)
            self.learner.load_state(tensors, notes["learner"])
            for name, value in notes["run"].items():
                setattr(self, name, value)
            logged = notes["logged_bytes"]
        log = self.folder / METRICS
        if log.exists() and log.stat().st_size > logged:
            with writing(log):
                os.truncate(log, logged)

    def conclude(self) -> None:
        """Write what a user takes away: agent, world model, figures."""
        self.learner.agent.save(self.folder / "agent.safetensors")
        if self.learner.world_model is not None:
            self.learner.world_model.save_pretrained(self.folder / "world_model")
        seconds = {**self.learner.seconds, "evaluate": self.seconds}
        summary = {"steps": self.learner.step, **self.figures, "seconds": seconds}
        atomic_json(self.folder / SUMMARY, {**summary, **provenance(self.learner.agent.device)})


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest last; more than one only where it was killed while it replaced one."""
    found = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            notes: dict[str, Any] = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of an agent's run: {error}") from error


def time_table(folder: Path) -> str:
    """Where the time of a finished run went, as a Markdown table."""
    seconds: dict[str, float] = read_json(folder / SUMMARY)["seconds"]
    total = sum(seconds.values()) or 1.0
    rows = [f"| {phase} | {spent:.0f} | {spent / total:.0%} |" for phase, spent in seconds.items()]
    return "\n".join(["| phase | seconds | share |", "| --- | ---: | ---: |", *rows, f"| all | {total:.0f} | 100% |"])
