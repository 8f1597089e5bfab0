"""Checks of recordings before training."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.training.checks import warn_of_large_actions


def test_actions_that_the_learned_environment_would_clip_are_named(
    make_episode: Callable[..., Episode], tmp_path: Path
) -> None:
    episode = make_episode("hammer", "random", 0)
    episode.save(tmp_path / "usual" / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_large_actions(Recordings(tmp_path / "usual"))
    actions = episode.actions.copy()
    actions[3, 1] = -2.5
    dataclasses.replace(episode, actions=actions).save(tmp_path / "large" / "a.safetensors")
    with pytest.warns(UserWarning, match=r"actions reach 2\.5, but the learned environment takes them in \[-1, 1\]"):
        warn_of_large_actions(Recordings(tmp_path / "large"))
