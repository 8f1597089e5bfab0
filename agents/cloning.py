"""Policies cloned from demonstrations, kept at several stages: from clumsy to skilled."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.agents.presets import FRAME_STACK
from worldgym.data.episode import Episode


def clone(
    demonstrations: Sequence[Episode], files: Sequence[Path], updates: Sequence[int], config: DrQv2Config, seed: int
) -> None:
    """Train one agent to act as the demonstrations do, and save it at every stage.

    Args:
        demonstrations: episodes of one task.
        files: where to save the agent, one file a stage; those that exist are kept, and cloning is left out if all do.
        updates: of the agent before each stage is saved, rising.
        config: of the agent.
        seed: of the agent and its batches.
    """
    if all(file.exists() for file in files):
        return
    first = demonstrations[0]
    shape, action_dim = first.frames.shape[1:], first.actions.shape[1]
    replay = ReplayBuffer(shape, action_dim, sum(map(len, demonstrations)), frame_stack=FRAME_STACK)
    for episode in demonstrations:
        replay.add_demonstration(episode)
    agent, rng = DrQv2(shape, FRAME_STACK, action_dim, config, seed), np.random.default_rng(seed)
    for file, wanted in zip(files, updates, strict=True):
        while agent.updates < wanted:
            agent.clone(replay.sample(rng, config.batch_size))
        file.parent.mkdir(parents=True, exist_ok=True)
        agent.save(file)
