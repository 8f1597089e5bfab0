"""A run's world model as a checkpoint that ``gym.make`` opens: weights, description, first frames and start states."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.mbpo.collector import Env
from worldgym.config import WorldModelConfig
from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.first_frames import write_first_frames
from worldgym.data.recordings import Batch
from worldgym.data.start_states import EPISODES, fitting_start_frames, write_start_states
from worldgym.pretrained import FIRST_FRAMES, START_STATES
from worldgym.world_model import WorldModel

RESETS = 64
FIRST_SEED = 2_000_000  # training and evaluation use other seeds


def export_world_model(folder: Path, world_model: WorldModel, env: Env, replay: ReplayBuffer) -> None:
    """Write a world model that was trained in an environment, so that it can take the environment's place.

    ``config.json`` names the environment's task, frame skip and episode length, where the environment has them. The
    first frames of learned episodes are those of the environment after a reset. Start states, for episodes that begin
    anywhere, are taken from the newest real episodes in the replay, if one is complete and longer than the context.

    Args:
        folder: of the checkpoint.
        world_model: as it is now.
        env: like the one in which it was trained; it is reset.
        replay: of real steps.

    Raises:
        StorageError: if the files cannot be written.
    """
    config = _describe(world_model.config, env)
    WorldModel(config, world_model.tokenizer, world_model.transformer).save_pretrained(folder)
    (task,) = config.tasks
    seeds = FIRST_SEED + np.arange(RESETS)
    first_frames = np.stack([env.reset(seed=int(seed))[0] for seed in seeds])
    write_first_frames(folder / FIRST_FRAMES, task, first_frames, seeds)
    chosen = _same_length(replay.real_episodes(), config.context_length)
    if chosen:
        info = EpisodeInfo(_env_id(env), task, "replay", 0, config.frame_skip or 1)
        episodes = [_as_episode(batch, info) for batch in chosen[-EPISODES:]]
        starts = fitting_start_frames(len(episodes[0]), config.context_length)
        write_start_states(folder / START_STATES, episodes, starts)


def _describe(config: WorldModelConfig, env: Env) -> WorldModelConfig:
    """The configuration with the environment's properties; figures of earlier weights are left out."""
    limit = env.spec.max_episode_steps if env.spec else None
    return dataclasses.replace(
        config,
        tasks=(str(getattr(env.unwrapped, "task", _env_id(env))),),
        frame_skip=getattr(env.unwrapped, "frame_skip", config.frame_skip),
        max_episode_steps=config.max_episode_steps if limit is None else limit,
        figures={},
    )


def _env_id(env: Env) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _same_length(episodes: Sequence[Batch], context_length: int) -> list[Batch]:
    """The episodes of the most frequent length among those that are longer than the context."""
    long = [batch for batch in episodes if batch.actions.shape[1] >= context_length]
    if not long:
        return []
    steps, _ = Counter(batch.actions.shape[1] for batch in long).most_common(1)[0]
    return [batch for batch in long if batch.actions.shape[1] == steps]


def _as_episode(batch: Batch, info: EpisodeInfo) -> Episode:
    frames, actions, rewards = (part[0].numpy() for part in (batch.frames, batch.actions, batch.rewards))
    return Episode(frames, actions, rewards, np.zeros(len(rewards), np.bool_), info)  # a replay stores no successes
