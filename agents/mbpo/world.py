"""The world model's side of MBPO: it is trained on the replay, imagines rollouts and is measured on each episode."""

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.common.pixel_rewards import PixelRewardModel
from worldgym.agents.common.random_streams import Purpose, RandomStreams
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.rewards import ClippedRewards, HeadRewards, PixelRewards, RewardSource
from worldgym.agents.common.rollouts import Rollouts, imagine_rollouts
from worldgym.agents.mbpo.config import MBPOConfig
from worldgym.data.recordings import Batch
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.precision import wants_bfloat16
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.training.online import OnlineTrainer
from worldgym.world_model import WorldModel

REWARD_HEAD_FRAMES = 1500  # for a ridge regression: several times as many as the transformer is wide
PIXEL_BATCH = 64
PIXEL_WARMUP_STEPS = 400  # a pixel reward model's first updates, in steps, where the world model needs no warm-up


class LearnedWorld:
    """A world model that is trained on a replay, with the source of the rewards of its rollouts.

    Args:
        world_model: trained in place.
        config: settings of the loop.
        replay: of real steps.
        streams: the run's random numbers.

    Raises:
        ConfigError: for more known frames than the world model's window holds.

    Attributes:
        trainer: of the world model.
        pixel_rewards: predicts the rewards of rollouts from pixels; None if the world model's head does it.
        rollout_batches: how many batches of rollouts were imagined.
    """

    def __init__(
        self, world_model: WorldModel, config: MBPOConfig, replay: ReplayBuffer, streams: RandomStreams
    ) -> None:
        self.world_model, self.config = world_model, config
        self.trainer = OnlineTrainer(world_model, config.model, config.seed)
        self.pixel_rewards: PixelRewardModel | None = None
        if config.pixel_reward_updates:
            self.pixel_rewards = PixelRewardModel(replay.settings.frame_shape, config.seed)
        self.rollout_batches = 0
        window = world_model.layout.horizon(world_model.config.transformer.max_positions)
        if config.known_frames > window:
            raise ConfigError(
                f"known_frames: expected at most {window}, which the position window holds, got {config.known_frames}"
            )
        self._replay, self._streams = replay, streams
        self._from_scratch = not self.trainer.trained

    def check_segments(self, longest_episode: int) -> None:
        """Check that the replay will hold segments to train on.

        Args:
            longest_episode: steps of the longest episode in the replay when training begins.

        Raises:
            ConfigError: otherwise.
        """
        length = self.config.segment_length
        self.trainer.check_segment_length(length)
        if longest_episode + 1 < length:
            raise ConfigError(
                f"segment_length: got {length} frames, but the longest episode after seed_steps has "
                f"{longest_episode + 1}: raise seed_steps, give longer demonstrations or lower segment_length"
            )

    def fit_tokenizer(self) -> Metrics:
        """One update of the tokenizer."""
        return named("tokenizer", self.trainer.fit_tokenizer(self._segments(Purpose.TOKENIZER)))

    def fit_transformer(self) -> Metrics:
        """One update of the transformer and its reward head."""
        return named("transformer", self.trainer.fit_transformer(self._segments(Purpose.TRANSFORMER)))

    def fit_pixel_rewards(self, first: int = 0) -> Metrics:
        """The updates of the pixel reward model that belong to one step; ``first`` numbers their batches."""
        if self.pixel_rewards is None:
            return {}
        error = 0.0
        for index in range(self.config.pixel_reward_updates):
            batch = self._replay.segments(self._streams.rng(Purpose.PIXEL_REWARDS, first + index), PIXEL_BATCH, 2)
            error = self.pixel_rewards.fit(batch.frames[:, 1], batch.rewards[:, 0])
        return {"pixel_rewards/error": error}

    def refit_reward_head(self) -> None:
        """Solve for the reward head by ridge regression on segments of the replay."""
        count = math.ceil(REWARD_HEAD_FRAMES / (self.config.model_batch_size * self.config.segment_length))
        self.trainer.refit_rewards(self._segments(Purpose.REWARD_HEAD, index) for index in range(count))

    def fit(self, step: int) -> Metrics:
        """All training that is due after environment step ``step``."""
        metrics: Metrics = {}
        if step % self.config.tokenizer_every == 0:
            metrics |= self.fit_tokenizer()
        if step % self.config.transformer_every == 0:
            metrics |= self.fit_transformer()
        metrics |= self.fit_pixel_rewards()
        every = self.config.reward_head_every
        if every is not None and step % every == 0:
            self.refit_reward_head()
        return metrics

    def warm_up(self, unit: int) -> Metrics:
        """One update of the warm-up: the tokenizer first, because the transformer's codes are the tokenizer's.

        Args:
            unit: from 1 to ``2 * warmup_model_updates``.
        """
        updates = self.config.warmup_model_updates
        self.fit_pixel_rewards()
        if unit <= updates:
            return self.fit_tokenizer()
        metrics = self.fit_transformer()
        if unit == 2 * updates and self._from_scratch:
            self.refit_reward_head()
        return metrics

    def imagine(self, act: Callable[[Tensor, torch.Generator], NDArray[np.float32]]) -> Rollouts:
        """A batch of rollouts from real frames of the replay.

        Args:
            act: chooses actions float32 ``[B, A]`` for frames uint8 ``[B, S, H, W, 3]``, exploring with a generator.
        """
        if not self.rollout_batches:
            self._prepare_rewards()
        config, stack = self.config, self._replay.settings.frame_stack
        length = max(stack, self.world_model.config.context_length + config.known_frames)
        rng = self._streams.rng(Purpose.IMAGINE)
        past = self._replay.starts(rng, config.rollouts, length, config.known_frames)
        generator = self._streams.generator(Purpose.IMAGINE)
        self.rollout_batches += 1
        return imagine_rollouts(
            self._in_precision(),
            lambda frames: act(frames, generator),
            torch.from_numpy(past.frames[:, -stack:]),
            config.horizon,
            past=past,
            rewards=ClippedRewards(self._reward_source(), *self._replay.reward_range()),
            generator=generator,
            max_uncertainty=config.max_uncertainty,
            pessimism=config.pessimism,
        )

    @torch_defaults(grad=False)
    def evaluate(self) -> Metrics:
        """Compare the newest real episode with what the model imagines under its actions, ``horizon`` steps ahead."""
        model = self._in_precision()
        context, sampling = model.layout.context_length, model.config.sampling
        real = self._replay.newest(context + self.config.horizon)
        if not len(real.frames):
            return {}
        frames, rewards = real.frames[:, context:], real.rewards[:, context - 1 :]
        inputs = real.frames[:, :context], real.actions[:, context - 1 :]
        generator = self._streams.generator(Purpose.MODEL_EVAL)
        imagined = model.rollout(*inputs, sampling.temperature, sampling.top_k, generator)
        made = imagined.frames.cpu()
        predicted = imagined.rewards.cpu() if self.pixel_rewards is None else self.pixel_rewards.predict(made)
        return {
            "model_eval/psnr": psnr(float(squared_error(made / 255, frames / 255).mean())),
            "model_eval/reward": float(predicted.mean()),
            "model_eval/real_reward": float(rewards.mean()),
            "model_eval/reward_error": float((predicted - rewards).square().mean().sqrt()),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """State of the trainer, with the world model's weights, and of the pixel reward model."""
        tensors = add_prefix("world_model", self.trainer.state_dict())
        if self.pixel_rewards is not None:
            tensors |= add_prefix("pixel_rewards", self.pixel_rewards.state_dict())
        return tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            CheckpointError: if the tensors do not fit.
        """
        self.trainer.load_state_dict(select_prefix("world_model", state))
        if self.pixel_rewards is not None:
            self.pixel_rewards.load_state_dict(select_prefix("pixel_rewards", state))

    def _prepare_rewards(self) -> None:
        """Before the first rollouts: rewards of a pre-trained model are fitted to the replay as well."""
        if self.config.reward_head_every is not None and not self._from_scratch:
            self.refit_reward_head()
        if not self.config.warmup_model_updates:
            for index in range(PIXEL_WARMUP_STEPS if self.pixel_rewards is not None else 0):
                self.fit_pixel_rewards(index * self.config.pixel_reward_updates)

    def _reward_source(self) -> RewardSource:
        return HeadRewards() if self.pixel_rewards is None else PixelRewards(self.pixel_rewards)

    def _segments(self, purpose: Purpose, index: int = 0) -> Batch:
        config = self.config
        return self._replay.segments(self._streams.rng(purpose, index), config.model_batch_size, config.segment_length)

    def _in_precision(self) -> WorldModel:
        """The world model with its current weights, in the precision of rollouts."""
        model = self.world_model
        if not wants_bfloat16(self.config.precision, model.device):
            return model
        parts = copy.deepcopy((model.tokenizer, model.transformer))
        return WorldModel(model.config, *parts).to(dtype=torch.bfloat16)


def named(part: str, metrics: Mapping[str, float]) -> Metrics:
    """The metrics with ``part/`` before their names."""
    return {f"{part}/{name}": value for name, value in metrics.items()}
