"""One imagined episode that can be rewound to any step, and continued as several futures."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.learned.session import Session, Start
from worldgym.world_model import WorldModelState

SNAPSHOT_BYTES = 64 * 2**20
"""The most that the kept states of an episode take, beyond the first and the current one."""
Vector = NDArray[np.float32]


class Imagined(NamedTuple):
    """One imagined step of one future."""

    frame: NDArray[np.uint8]
    """uint8 ``[H, W, 3]``."""
    reward: float
    terminated: bool
    info: dict[str, Any]
    """The model's entries of ``info``, as in the learned environment."""


class Imagination:
    """An imagined episode.

    Chance is a function of seed, ``luck`` and step: the same actions after a rewind give the same future again. A state
    is kept only every so many steps; a step after a rewind imagines the steps since then again.

    Args:
        session: the world model.
        start: where the episode begins.
        seed: of all tokens.
        limit: the most steps; how many states fit :data:`SNAPSHOT_BYTES` decides how many steps apart they are kept.
    """

    def __init__(self, session: Session, start: Start, seed: int, limit: int) -> None:
        self._session, self._seed = session, seed
        self._past: list[tuple[Vector, int]] = []  # the action and the luck of each step
        self._luck = 0
        self._state: WorldModelState | None = session.start([start])
        self._snapshots = {0: self._state.select([0])}
        self._stride = max(1, -(-limit * self._state.nbytes // SNAPSHOT_BYTES))

    def __len__(self) -> int:
        return len(self._past)

    def step(self, vector: Vector) -> Imagined:
        """Imagine one step. The action is a vector, float32 ``[A]``."""
        state = self._current()
        (imagined,) = self._advance(state, vector[None], [self._luck], len(self))
        self._past.append((vector, self._luck))
        self._keep(state)
        return imagined

    def rewind(self, length: int) -> None:
        """Go back to where the episode had this many steps."""
        if length < len(self):
            self._luck = self._past[length][1]
            del self._past[length:]
            self._snapshots = {step: state for step, state in self._snapshots.items() if step <= length}
            self._state = None

    def fork(self, count: int, different_luck: bool) -> "Futures":
        """Futures from here that continue independently; the episode itself stays where it is.

        Args:
            count: of futures.
            different_luck: whether equal actions may lead to different frames.
        """
        lucks = [self._luck] + [len(self) * count + index for index in range(1, count)]
        return Futures(self, self._current().fork(count), lucks if different_luck else [self._luck] * count)

    def choose(self, futures: "Futures", index: int) -> None:
        """Continue from one of the futures."""
        state = futures.state.select([index])
        self._past += [(vectors[index], futures.lucks[index]) for vectors in futures.vectors]
        self._luck, self._state = futures.lucks[index], state
        self._keep(state)

    def _current(self) -> WorldModelState:
        if self._state is None:
            kept = max(self._snapshots)
            self._state = self._snapshots[kept].select([0])
            for step in range(kept, len(self)):
                vector, luck = self._past[step]
                self._advance(self._state, vector[None], [luck], step)
        return self._state

    def _keep(self, state: WorldModelState) -> None:
        if len(self) % self._stride == 0:
            self._snapshots[len(self)] = state.select([0])

    def _advance(
        self, state: WorldModelState, vectors: NDArray[np.float32], lucks: list[int], step: int
    ) -> list[Imagined]:
        rngs = [np.random.default_rng([self._seed, luck, step]) for luck in lucks]
        noise = np.stack([self._session.noise(rng) for rng in rngs])
        frames, rewards, ended = self._session.step(state, vectors, noise)
        info = {name: values.tolist() for name, values in self._session.step_info(state).items()}
        rows = zip(frames.numpy(force=True), rewards.tolist(), ended.tolist(), strict=True)
        entries = [{name: values[row] for name, values in info.items()} for row in range(len(lucks))]
        return [Imagined(*row, entry) for row, entry in zip(rows, entries, strict=True)]


class Futures:
    """Several continuations of one episode, which are imagined together.

    Attributes:
        state: one row each.
        lucks: one each.
        vectors: the actions of each step so far, float32 ``[N, A]``.
    """

    def __init__(self, episode: Imagination, state: WorldModelState, lucks: list[int]) -> None:
        self._episode, self.state, self.lucks = episode, state, lucks
        self.vectors: list[NDArray[np.float32]] = []

    def step(self, vectors: NDArray[np.float32]) -> list[Imagined]:
        """Imagine one step of each future. Actions are vectors, float32 ``[N, A]``."""
        step = len(self._episode) + len(self.vectors)
        imagined = self._episode._advance(self.state, vectors, self.lucks, step)
        self.vectors.append(vectors)
        return imagined
