"""A world model as an environment: ``step`` imagines the next frame and its reward."""

import copy
from typing import Any

import torch

from worldgym.envs.contract import Frame, FrameEnv, Info, Options, metadata
from worldgym.envs.learned.arguments import checked_episode_steps
from worldgym.envs.learned.session import (
    NONE,
    Checkpoint,
    Device,
    EnvState,
    Precision,
    Session,
    SessionEnv,
    Slot,
    StartMode,
    with_model,
    without_model,
)
from worldgym.world_model import WorldModelState

WINDOW = "worldgym"
METADATA = metadata(render_fps=40)


class WorldModelEnv(SessionEnv, FrameEnv):
    """One imagined episode at a time.

    Args:
        task: one of the checkpoint's tasks; None chooses one at each reset, named in ``info["task"]``.
        checkpoint: a shipped name, a folder, a Hugging Face Hub id, or a :class:`WorldModel`.
        device: where to compute, such as ``cuda``; None is the CPU.
        dtype: the precision to compute in, such as ``bfloat16``; None is float32.
        temperature: of the token sampling; None takes the checkpoint's own.
        top_k: number of tokens to sample from, 1 is greedy; None takes the checkpoint's own.
        render_mode: ``rgb_array``, ``human`` or None.
        episode_steps: steps after which an episode is truncated; None takes the checkpoint's own, -1 is never.
            ``gym.make(..., max_episode_steps=n)`` can only shorten episodes.
        starts: ``reset`` starts episodes where the simulator does, from the first frames that come with the checkpoint,
            so that step t here is step t there; ``anywhere`` starts in the middle of recorded episodes.
        pessimism: how many standard deviations of the predicted reward are subtracted from it.
        truncate_when_unsure: ``info["uncertainty"]`` above which an episode is truncated; None never does.
        simulator: id of the simulator that the checkpoint has to imagine; ``WorldModel-X-v0`` asks for its own. None
            takes a world of any.

    Raises:
        UnknownTask: for a task that the checkpoint does not have.
        CheckpointError: for a checkpoint that is missing or damaged.
        ConfigError: for a device that cannot be used here, or a temperature or top_k out of range.
        InvalidOption: for another render mode, an argument of another kind, or the world of another simulator.
    """

    metadata = METADATA

    def __init__(
        self,
        task: str | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        device: Device = None,
        dtype: Precision = None,
        temperature: float | None = None,
        top_k: int | None = None,
        render_mode: str | None = None,
        episode_steps: int | None = None,
        starts: StartMode = "reset",
        pessimism: float = 0.0,
        truncate_when_unsure: float | None = None,
        simulator: str | None = None,
    ) -> None:
        rest = pessimism, truncate_when_unsure, simulator
        self._session = Session(task, checkpoint, device, dtype, temperature, top_k, starts, *rest)
        config = self.world_model.config
        super().__init__(config.resolution, self._session.codec.space, WINDOW, render_mode)
        self._state: WorldModelState | None = None
        self._task, self._start, self._simulator_seed, self._elapsed = "", NONE, NONE, 0
        self._episode_steps = checked_episode_steps(
            config.max_episode_steps if episode_steps is None else episode_steps
        )

    @property
    def task(self) -> str | None:
        """The task that was asked for; None if every reset draws one."""
        return self._session.task

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start from real frames; equal seeds give equal episodes.

        Args:
            seed: of the start and of all tokens sampled from now on.
            options: ``{"frames": uint8 [C, H, W, 3]}`` starts from these, oldest first; with ``{"frames": uint8
                [C + K, H, W, 3], "actions": [K, ...]}`` the model is also shown the K real frames behind the context,
                and the actions that led to them, and imagines on from there; ``{"start": index}`` starts from this
                start state of the task, in the middle of an episode; otherwise the seed chooses as ``starts`` says.

        Returns:
            The newest given frame, uint8 ``[H, W, 3]``, and ``info``, which has the same entries at every step:
            ``task`` (empty if given frames leave it open), ``start`` (the index of the start state, else -1),
            ``simulator_seed`` (the simulator's ``reset`` with this seed shows the same frame; -1 if unknown),
            ``uncertainty`` (0.0 here), ``reanchored`` (False here) and, where the checkpoint predicts them,
            ``reward_spread``, ``success_probability`` and ``termination_probability`` (0.0 here) and ``success`` (False
            here).

        Raises:
            InvalidOption: for another option, options that exclude each other, an index out of range, or a task without
                first frames.
            InvalidFrames: for frames of another shape or dtype.
            CheckpointError: without ``frames`` if the checkpoint has neither first frames nor start states (a
                WorldModel: InvalidOption).
            EnvironmentClosed: after ``close``.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        start = self._session.choose_start(self.np_random, options)
        self._state = self._session.start([start])
        self._task, self._elapsed = start.task, 0
        self._start, self._simulator_seed = start.index, start.simulator_seed
        return self._show(start.frames[-1]), self._info()

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, Info]:
        """Imagine one step; ``action`` is of the action space, one of a ``Box`` is clipped to its bounds.

        Returns:
            The frame, uint8 ``[H, W, 3]``; the reward (0.0 if the checkpoint predicts none); ``terminated``, True with
            the probability that the checkpoint predicts (False if it predicts none); ``truncated``, True from the last
            step of the episode on, and where ``truncate_when_unsure`` is exceeded; ``info`` as from ``reset``, with
            ``uncertainty`` (as ``WorldModelState.uncertainty``), ``reanchored`` (True if the model's window was full,
            and slid or began again from the last frames) and, where the checkpoint predicts them, ``reward_spread``,
            ``success_probability``, ``success`` (True from probability 0.5 on) and ``termination_probability``.

        Raises:
            ResetNeeded: before the first reset.
            InvalidAction: for an action of another shape, one that is not finite, or one outside a discrete space.
            EnvironmentClosed: after ``close``.
        """
        self._current_frame("step")
        assert self._state is not None
        actions = self._session.codec.encode(action)[None]
        noise = self._session.noise(self.np_random)[None]
        frames, rewards, ended = self._session.step(self._state, actions, noise)
        self._elapsed += 1
        terminated = bool(ended.item())
        truncated = self._elapsed >= self._episode_steps or bool(self._session.unsure(self._state).item())
        return self._show(frames[0].numpy(force=True)), rewards.item(), terminated, truncated, self._info()

    def get_state(self) -> EnvState:
        """The episode's state, its random state included; :meth:`set_state` restores it exactly.

        Steps that wrappers count, such as those of Gymnasium's ``TimeLimit``, are not part of it.

        Raises:
            ResetNeeded: before the first reset.
            EnvironmentClosed: after ``close``.
        """
        frame = self._current_frame("get_state")
        assert self._state is not None
        slot = Slot(
            copy.deepcopy(self.np_random),
            self.np_random_seed,
            self._task,
            self._start,
            self._simulator_seed,
            self._elapsed,
        )
        return EnvState(self._state.select([0]), torch.from_numpy(frame.copy())[None], (slot,))

    def set_state(self, state: EnvState) -> None:
        """Continue from a state that :meth:`get_state` gave, as often as wanted.

        Raises:
            InvalidOption: for anything else, or the state of another model.
            EnvironmentClosed: after ``close``.
        """
        self._check_open("set_state")
        (slot,) = self._session.check_state(state, 1).slots
        slot = slot.copied()
        self._state = state.restored(self.world_model)
        self._frame = state.frames[0].numpy(force=True).copy()
        self._task, self._elapsed = slot.task, slot.elapsed
        self._start, self._simulator_seed = slot.start, slot.simulator_seed
        self._np_random, self._np_random_seed = slot.generator, slot.seed

    def close(self) -> None:
        """Free the episode and its window; the environment cannot be used afterwards."""
        super().close()
        self._state = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles in the middle of an episode; see :meth:`Session.__getstate__`."""
        return without_model(self.__dict__)

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        with_model(self._state, self.world_model)

    def _info(self) -> Info:
        assert self._state is not None
        return {
            "task": self._task,
            "start": self._start,
            "simulator_seed": self._simulator_seed,
            **{name: values.item() for name, values in self._session.step_info(self._state).items()},
        }
