from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.recordings import Recordings

LENGTHS = (5, 3, 7)
TASKS = ("lift", "push the cup", "lift")


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Recordings]:
    """Record episodes whose flat colours survive any codec; the second one is terminated."""

    def run(
        actions: int | Callable[[np.random.Generator, int], Any] = 3,
        size: tuple[int, int] = (16, 16),
        space: dict[str, Any] | None = None,
        lengths: tuple[int, ...] = LENGTHS,
    ) -> Recordings:
        for index, steps in enumerate(lengths):
            rng = np.random.default_rng(index)
            colours = rng.integers(20, 236, (steps + 1, 1, 1, 3))
            frames = np.broadcast_to(colours, (steps + 1, *size, 3)).astype(np.uint8)
            vectors = rng.uniform(-0.5, 0.5, (steps, actions)) if isinstance(actions, int) else actions(rng, steps)
            info = EpisodeInfo(
                "Simulator-Toy-v0", TASKS[index], "expert", index, 1, terminated=index == 1, action_space=space or {}
            )
            successes = np.arange(steps) == steps - 1
            episode = Episode(frames, vectors, np.arange(steps) + index, successes, info)
            episode.save(tmp_path / "recorded" / f"{index}.safetensors")
        return Recordings(tmp_path / "recorded")

    return run


@pytest.fixture
def recordings(record: Callable[..., Recordings]) -> Recordings:
    return record()
