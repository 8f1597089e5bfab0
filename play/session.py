"""One person's session: an episode of the learned environment, its simulator, and what is recorded of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from worldgym.data.episode import EpisodeInfo
from worldgym.envs.behaviours import Behaviour
from worldgym.envs.learned.session import Session, Start
from worldgym.envs.registry import WORLD_MODEL_ID, find_spec
from worldgym.errors import (
    CheckpointError,
    InvalidOption,
    ResetNeeded,
    UnknownTask,
    nearest,
)
from worldgym.play.beside import Beside
from worldgym.play.drivers import EXPERT, PLANNER, POLICY, Driver, Drivers, SeenSession
from worldgym.play.imagination import Futures, Imagination, Imagined
from worldgym.play.pictures import read_picture
from worldgym.play.planner import Stopped, find_planner
from worldgym.play.recorder import BEHAVIOUR, Moment, save_recording
from worldgym.play.spaces import FUTURES, describe_space, four_actions
from worldgym.reports.video import difference

Forking: TypeAlias = Literal["luck", "actions"]
MAX_STEPS, LEAST_STEPS = 1000, 50
FRAME_BYTES = 64 * 2**20
"""The most that the frames of an episode take, so that large frames make shorter episodes."""
SEEDS = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """What a session plays.

    Attributes:
        checkpoint: a shipped name, a folder or a Hugging Face Hub id.
        out: folder of the recordings.
        task: of the first episode; the checkpoint's first unless given.
        simulator: whether to run the simulator beside the learned environment, where it is installed.
        policy: an agent that can take over.
        policy_name: its name on the page.
        device: of the world model.
        dtype: of the world model, such as ``bfloat16``; the checkpoint's unless given.
    """

    checkpoint: str
    out: Path
    task: str | None = None
    simulator: bool = True
    policy: Behaviour | None = None
    policy_name: str = ""
    device: torch.device | str = "cpu"
    dtype: str | None = None


@dataclass(frozen=True)
class View:
    """What the page shows: pictures, uint8 ``[H, W, 3]`` by their names, and JSON values."""

    pictures: Mapping[str, NDArray[np.uint8]]
    values: Mapping[str, Any]


@dataclass
class _Fork:
    """Four futures of one moment."""

    by: Forking
    futures: Futures
    labels: Sequence[str]
    actions: Sequence[Any]  # of each future; empty where all take the person's
    moments: list[list[Moment]] = field(default_factory=list)  # of each step one for each future


class PlaySession:
    """An episode that a person drives. Every method is one thing that the page can ask for.

    Args:
        settings: what to play.

    Attributes:
        limit: the most steps of an episode. All of them can be rewound.

    Raises:
        UnknownTask, CheckpointError, ConfigError: as the learned environment.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._session = self._load(settings.task)
        self._codec, self._config = self._session.codec, self._session.model.config
        frame_bytes = int(np.prod(self._session.observation_space.shape))
        self.limit = min(MAX_STEPS, max(LEAST_STEPS, FRAME_BYTES // (2 * frame_bytes)))
        self._task = settings.task or next(iter(self._session.tasks), "")
        self._beside = Beside(settings.simulator, self._config, self._codec)
        self._seed, self._start = 0, -1
        self._episode: Imagination | None = None
        self._moments: list[Moment] = []
        self._fork: _Fork | None = None
        self._recorded_from: int | None = None
        self._acted: dict[str, Any] | None = None  # who acted last, and how long that took to decide
        seen = SeenSession(self._session.observation_space, self._codec.space, self._seen_moments)
        self._drivers = Drivers(seen)
        self._planner = find_planner(self._session.model, self._codec)
        if settings.policy is not None:
            settings.policy(seen, np.random.default_rng(0))  # an agent that does not fit is named before the first step

    # What there is

    def describe(self) -> dict[str, Any]:
        """What can be played: tasks, actions, number of start states, policies, limits."""
        starts = self._session.starts
        return {
            "checkpoint": _short(self.settings.checkpoint),
            "tasks": list(self._session.tasks),
            "task": self._task,
            "starts": {task: starts.count(task) for task in starts.tasks} if starts else {},
            "resolution": self._config.resolution,
            "actions": describe_space(
                self._codec.space, self._config.action_names, self._directions(), self._beside.keys()
            ),
            "predicts": {"reward": self._config.reward, "success": self._config.success},
            "limit": self.limit,
            "history": self.history(),
        }

    def history(self) -> list[dict[str, Any]]:
        """What the page plots: of each step since the start the entries of ``plotted`` in :meth:`view`."""
        return [_plotted(moment) for moment in self._moments[1:]]

    def view(self) -> View:
        """The current frames, and the entries ``task``, ``seed``, ``start``, ``step``, ``limit``, ``drivers``,
        ``acted`` (the driver of the last step, its action, and the milliseconds that it took to decide; null if the
        person acted),
        ``simulator`` (why there is none, or empty), ``recording`` (steps so far, or null), ``labels`` (of the futures,
        or null), ``plotted`` (of the current step, or of each future), and the returns of the episode.
        """
        values = {
            "task": self._task,
            "seed": self._seed,
            "start": self._start,
            "step": self._step,
            "limit": self.limit,
            "drivers": [{"name": name, "label": each.label} for name, each in self._known_drivers().items()],
            "acted": self._acted,
            "simulator": self._beside.why_not,
            "recording": None if self._recorded_from is None else len(self._moments) - 1 - self._recorded_from,
            "labels": None if self._fork is None else self._fork.labels,
            "forked": None if self._fork is None else self._fork.by,
            "plotted": [],
            "return": sum(moment.reward for moment in self._moments[1:]),
            "real_return": self._real_return(),
        }
        if not self._moments:
            return View({}, values)
        if self._fork is not None:
            moments = self._fork.moments[-1] if self._fork.moments else [self._moments[-1]] * FUTURES
            pictures = {f"future {index}": moment.frame for index, moment in enumerate(moments)}
            return View(pictures, {**values, "plotted": [_plotted(moment) for moment in moments]})
        moment = self._moments[-1]
        pictures = {"imagined": moment.frame}
        if moment.real is not None:
            pictures = {"simulator": moment.real, **pictures, "difference": difference(moment.real, moment.frame)}
        return View(pictures, {**values, "plotted": [_plotted(moment)]})

    # What can be done

    def reset(self, task: str | None = None, seed: int | None = None, start: int | None = None) -> list[Path]:
        """Start an episode; a recording is saved first.

        Args:
            task: of the checkpoint; the current one unless given.
            seed: of the start and of all tokens; the current one unless given.
            start: index of a start state, in the middle of a recorded episode; unless given the episode begins where
                the simulator's do: at its first frame if it runs, else at one that came with the checkpoint.

        Returns:
            The files of the recording.

        Raises:
            UnknownTask, InvalidOption: for a task or a start state that the checkpoint does not have.
            CheckpointError: if the checkpoint has no frames to start from, and there is no simulator.
        """
        chosen = self._task if task is None else task
        if chosen and self._session.tasks and chosen not in self._session.tasks:
            raise UnknownTask(f"the checkpoint has no task {chosen!r}; {nearest(chosen, self._session.tasks)}")
        files = self.save()
        if chosen != self._task:
            self._session = self._load(chosen)
            self._task = chosen
        self._seed = self._seed if seed is None else seed
        if start is not None:
            self._begin(self._session.choose_start(np.random.default_rng(self._seed), {"start": start}))
            self._beside.leave("This start is in the middle of a recorded episode, where the simulator cannot begin.")
            return files
        frame = self._beside.begin(self._task, self._seed)
        self._begin(self._stored_start() if frame is None else Start(self._repeated(frame), self._task), frame)
        return files

    def picture(self, data: bytes) -> list[Path]:
        """Start from a picture, the bytes of a PNG or JPEG file; a recording is saved first, and its files returned.

        Raises:
            InvalidFrames: as :func:`worldgym.play.pictures.read_picture`.
        """
        frame = read_picture(data, self._config.resolution)
        files = self.save()
        self._beside.leave("The simulator cannot begin at a picture.")
        self._begin(Start(self._repeated(frame), self._task))
        return files

    def step(self, action: Any, driver: str | None = None, stopped: Callable[[], bool] = bool) -> None:
        """Act once, in the learned environment and in the simulator, or in all futures.

        Nothing happens if the person takes over while the driver decides.

        Args:
            action: of the action space, clipped to its bounds; unused if there is a driver, or futures of different
                actions.
            driver: name of the policy that acts.
            stopped: whether the person has taken over from the driver.

        Raises:
            ResetNeeded: before the first reset.
            InvalidAction: for an action of another kind.
            InvalidOption: for an unknown driver, or if the episode is as long as it can be.
            DataError: if the simulator or the driver fails.
        """
        episode = self._running()
        if self._step >= self.limit:
            raise InvalidOption(f"an episode has at most {self.limit} steps here: rewind, or start a new one")
        if driver is None:
            self._drivers.leave()
            self._acted = None
        else:
            try:
                action = self._driven(driver, stopped)
            except Stopped:
                return
        if self._fork is not None:
            self._step_futures(self._fork, action)
            return
        vector = self._codec.encode(action)
        imagined = episode.step(vector)
        self._moments.append(self._moment(imagined, action, vector))
        self._moments[-1] = self._beside.follow(self._moments)

    def rewind(self, steps: int) -> None:
        """Go back, at most to the start; with futures, to where they began. Recorded steps go back likewise."""
        episode = self._running()
        self._past_changed()
        if self._fork is not None:
            self._fork = None
            return
        length = max(0, len(episode) - steps)
        episode.rewind(length)
        del self._moments[length + 1 :]
        if self._recorded_from is not None:
            self._recorded_from = min(self._recorded_from, length)
        self._beside.rewind(length)

    def fork(self, by: Forking) -> None:
        """Continue as four futures: by ``luck`` (equal actions, different samples) or by ``actions`` (the reverse)."""
        episode = self._running()
        choices = four_actions(
            self._codec.space, self._config.action_names, self._seed + self._step, self._directions()
        )
        actions = [action for _, action in choices] if by == "actions" else []
        labels = [label for label, _ in choices] if by == "actions" else [f"luck {n + 1}" for n in range(FUTURES)]
        self._fork = _Fork(by, episode.fork(FUTURES, by == "luck"), labels, actions)

    def choose(self, future: int | None) -> None:
        """Continue from one future, with the simulator if it runs; None: from where the futures began.

        Raises:
            InvalidOption: if there are no futures.
        """
        if self._fork is None:
            raise InvalidOption("there are no futures to choose from: fork first")
        fork, self._fork = self._fork, None
        self._past_changed()
        if future is not None and fork.moments:
            self._running().choose(fork.futures, future)
            for moments in fork.moments:
                self._moments.append(moments[future])
                self._moments[-1] = self._beside.follow(self._moments)

    def record(self, on: bool) -> list[Path]:
        """Begin a recording at the current frame, or save it; the files. Raises StorageError as :meth:`save`."""
        self._running()
        if not on:
            return self.save()
        if self._recorded_from is None:
            self._recorded_from = len(self._moments) - 1
        return []

    def save(self) -> list[Path]:
        """Save a recording, if one was begun and has steps; its files.

        Raises:
            StorageError: if it cannot be written. It goes on then, so that it can be saved again.
        """
        if self._recorded_from is None:
            return []
        moments = self._moments[self._recorded_from :]
        files = [] if len(moments) < 2 else save_recording(self.settings.out, moments, *self._episode_infos())
        self._recorded_from = None
        return files

    def close(self) -> list[Path]:
        """Save a recording and free the simulator; the recording's files."""
        try:
            return self.save()
        finally:
            self._beside.close()
            self._episode = None

    # Parts

    @property
    def _step(self) -> int:
        ahead = 0 if self._fork is None else len(self._fork.moments)
        return max(0, len(self._moments) - 1) + ahead

    def _running(self) -> Imagination:
        if self._episode is None:
            raise ResetNeeded("there is no episode: start one, or drop a picture")
        return self._episode

    def _begin(self, start: Start, real: NDArray[np.uint8] | None = None) -> None:
        self._episode = Imagination(self._session, start, self._seed, self.limit)
        self._moments = [Moment(start.frames[-1], real)]
        self._start, self._fork = start.index, None
        self._past_changed()

    def _stored_start(self) -> Start:
        """A first frame that came with the checkpoint, or else a start state."""
        try:
            return self._session.choose_start(np.random.default_rng(self._seed), None)
        except CheckpointError as error:
            if self._session.starts is not None:
                raise  # they are damaged
            raise CheckpointError(
                "this checkpoint has no start states, and no simulator shows a first frame: drop a picture to start "
                f"from. ({self._beside.why_not})"
            ) from error

    def _repeated(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The context before a first frame, as in training: ``[C, H, W, 3]``."""
        return np.repeat(frame[None], self._config.context_length, axis=0)

    def _moment(self, imagined: Imagined, action: Any, vector: NDArray[np.float32]) -> Moment:
        info = imagined.info
        return Moment(
            imagined.frame,
            action=action,
            vector=vector,
            reward=imagined.reward,
            success=bool(info.get("success", False)),
            terminated=imagined.terminated,
            info=info,
        )

    def _step_futures(self, fork: _Fork, action: Any) -> None:
        actions = fork.actions or [action] * FUTURES
        vectors = np.stack([self._codec.encode(each) for each in actions])
        imagined = fork.futures.step(vectors)
        fork.moments.append([self._moment(*each) for each in zip(imagined, actions, vectors, strict=True)])

    def _known_drivers(self) -> dict[str, Driver]:
        """Who can take over now."""
        found = {}
        if self._beside.has_expert:
            found[EXPERT] = Driver("Scripted expert", lambda seen, rng: self._expert_action)
        if self.settings.policy is not None:
            found[POLICY] = Driver(self.settings.policy_name, self.settings.policy)
        if self._planner is not None:
            found[PLANNER] = Driver("Planner", self._planner)
        return found

    def _driven(self, name: str, stopped: Callable[[], bool]) -> Any:
        """The action of a driver."""
        began = time.perf_counter()
        action = self._drivers.act(name, self._known_drivers(), self._seed, stopped)
        took = 1000 * (time.perf_counter() - began)
        self._acted = {"driver": name, "milliseconds": took, "action": np.asarray(action).tolist()}
        return action

    def _expert_action(self) -> Any:
        if self._fork is not None:
            raise InvalidOption("the expert sees the simulator, which has no futures: drive them yourself")
        return self._beside.expert_action(self._moments)

    def _seen_moments(self) -> list[Moment]:
        """The moments that a driver sees; of futures the first."""
        ahead = [] if self._fork is None else [moments[0] for moments in self._fork.moments]
        return [*self._moments, *ahead]

    def _past_changed(self) -> None:
        """A driver must not go on from steps that are no more."""
        self._drivers.leave()
        self._acted = None

    def _directions(self) -> tuple[tuple[float, ...], ...]:
        """Actions by where they move things in the picture, if the family of the training data says so."""
        trained_on = self._config.training_data.get("trained_on")
        name = trained_on.get("environment") if isinstance(trained_on, dict) else None
        spec = find_spec(name) if isinstance(name, str) else None
        return () if spec is None else spec.directions

    def _load(self, task: str | None) -> Session:
        return Session(task, self.settings.checkpoint, self.settings.device, self.settings.dtype, None, None)

    def _real_return(self) -> float | None:
        rewards = [moment.real_reward for moment in self._moments[1:]]
        known = [reward for reward in rewards if reward is not None]
        return sum(known) if self._beside.follows else None

    def _episode_infos(self) -> tuple[EpisodeInfo, EpisodeInfo]:
        """What the imagined and the simulator's episode say of themselves."""
        simulator = self._beside.simulator
        skip, space = self._config.frame_skip or 1, self._codec.describe()
        about: Any = {"action_space": space, "task": self._task, "behaviour": BEHAVIOUR, "frame_skip": skip}
        imagined = EpisodeInfo(WORLD_MODEL_ID, seed=self._seed, look="imagined", **about)
        simulated = EpisodeInfo("" if simulator is None else simulator.spec.simulator_id, seed=self._seed, **about)
        return imagined, simulated


def _short(checkpoint: str) -> str:
    """The checkpoint's name without its folder, which other players need not know."""
    return Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint


def _plotted(moment: Moment) -> dict[str, Any]:
    """What the page plots of a moment."""
    return {
        "reward": moment.reward,
        "real_reward": moment.real_reward,
        "success_probability": moment.info.get("success_probability"),
        "success": moment.success,
        "real_success": moment.real_success,
        "uncertainty": moment.info.get("uncertainty"),
        "reanchored": moment.info.get("reanchored", False),
        "terminated": moment.terminated,
        "real_ended": moment.real_ended,
    }
