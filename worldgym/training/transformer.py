"""Training a transformer on the codes of a fixed tokenizer (paper, section 3.2 and appendix A.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig
from worldgym.data.recordings import Recordings, fixed_segments, to_batch
from worldgym.errors import ConfigError
from worldgym.reports.evaluation import evaluate
from worldgym.runs.log import Metrics
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.code_kernels import CodeKernels
from worldgym.training.codes import Coded, encode
from worldgym.training.losses import transformer_loss
from worldgym.training.reward_head import solve_rewards
from worldgym.transformer.llama import Transformer
from worldgym.world_model import WorldModel

REWARD_BATCHES = 300  # for solving for the reward head


@dataclass(frozen=True)
class TransformerTrainingConfig:
    """How sequences are sampled, and their losses."""

    segment_length: int = 12
    """Context and future frames together."""
    start_stride: int = 8
    """Segments start at multiples of this frame, so that their codes are computed once and kept."""
    label_width: float = 0.0
    """The target of a code is a Gaussian of this width over the codes around it, in code space; 0 is that code alone
    (paper)."""
    noise_width: float = 0.0
    """The codes that are fed are sampled from such a Gaussian around the true ones, so that the model learns to
    continue from its own small errors; 0 feeds the true ones (paper)."""
    dropout: float = 0.1
    """On attention weights (paper: 0.1)."""
    reward_weight: float = 1.0
    """Weight of the squared error of symlog rewards beside the cross-entropy (paper: 1)."""


class TransformerJob:
    """Cross-entropy on the future frames' codes and squared error on symlog rewards: what the loop trains.

    Args:
        model: the transformer.
        tokenizer: trained; fixed from here on.
        about: of the world model that both make.
        config: how sequences are sampled.
        batch_size: segments in an update.
        recordings: to train on.
        held_out: to validate on.

    Raises:
        ConfigError: if the recordings have other actions or frame sizes than the model.
        DataError: if an episode is shorter than a segment.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        about: WorldModelConfig,
        config: TransformerTrainingConfig,
        batch_size: int,
        recordings: Recordings,
        held_out: Recordings,
    ) -> None:
        for part in (recordings, held_out):
            check_frame_shape(part, about.resolution)
            if part.action_dim != about.action_dim:
                raise ConfigError(
                    f"expected recordings with {about.action_dim} actions, got {part.action_dim} in {part.folder}"
                )
        recordings.check_length(config.segment_length)
        self.model, self.tokenizer, self.about = model, tokenizer.eval().requires_grad_(False), about
        self.config, self.batch_size = config, batch_size
        self.recordings, self.held_out = recordings, held_out
        self.model.dropout = config.dropout
        # One output over hundreds of inputs that are correlated: at the full rate it oscillates.
        self.slow = model.reward_linear
        self._coded: dict[tuple[int, int], Coded] = {}
        self.kernels = CodeKernels(config.label_width, config.noise_width)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, Metrics]:
        batch, tokens = self._sample(rng)
        targets = self.kernels.targets(self._codebook, batch.future)
        weight = self.config.reward_weight
        return transformer_loss(self.model, batch, tokens, targets, weight, self.about.reward_transform)

    def after_update(self) -> None:
        pass

    def finish(self) -> None:
        """Solve for the reward head that fits the trained transformer best."""
        batches = (self._sample(np.random.default_rng([REWARD_BATCHES, index])) for index in range(REWARD_BATCHES))
        solve_rewards(self.model, batches, self.about.reward_transform)

    def validate(self, video: Path) -> Metrics:
        """Closed-loop metrics on held-out segments, greedy; a video of real frames, imagined ones and differences."""
        world_model = WorldModel(self.about, self.tokenizer, self.model)
        horizon = self.config.segment_length - self.model.layout.context_length
        segments = fixed_segments(self.held_out, self.config.segment_length, starts=(10,))
        result = evaluate(world_model, segments, {"greedy": Sampling(top_k=1)}, video.with_suffix(".gif"))
        metrics: Metrics = {}
        for step in (h for h in (1, 5, 10) if h <= horizon):
            for name in ("psnr", "reward_r2"):
                metrics[f"greedy/{name}/{step}"] = result["all"]["greedy"][name][step - 1]
            metrics[f"last_frame/psnr/{step}"] = result["all"]["last_frame"]["psnr"][step - 1]
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass

    @property
    def _codebook(self) -> Tensor:
        return self.tokenizer.codebooks()[1]

    def _sample(self, rng: np.random.Generator) -> tuple[Coded, Tensor]:
        """A batch, and the tokens that are fed for it: its codes with noise, int64 ``[B, N]``."""
        batch = self._coded_batch([self._sample_key(rng) for _ in range(self.batch_size)])
        fed = self.kernels.with_noise(self._codebook, batch.future, rng)
        return batch, self.model.layout.sequence(batch.context, fed)

    def _sample_key(self, rng: np.random.Generator) -> tuple[int, int]:
        """An episode and the frame where a segment starts."""
        episode = int(rng.integers(len(self.recordings.episodes)))
        room = self.recordings.episodes[episode].shape[0] - self.config.segment_length
        return episode, self.config.start_stride * int(rng.integers(room // self.config.start_stride + 1))

    def _coded_batch(self, keys: list[tuple[int, int]]) -> Coded:
        """The codes of segments; those that were not used before are computed one by one.

        In one batch this would be faster, but rounding would depend on which other segments are in the batch: a resumed
        run, which has no codes yet, could compute another code.
        """
        for key in keys:
            if key not in self._coded:
                segment = self.recordings.segment(*key, self.config.segment_length)
                coded = encode(self.tokenizer, to_batch([segment]))
                kept = coded._replace(context=coded.context.short(), future=coded.future.short())
                self._coded[key] = Coded(*(tensor[0].cpu().clone() for tensor in kept))
        device = next(self.model.parameters()).device
        chosen = [self._coded[key] for key in keys]
        context, future, actions, rewards = (torch.stack(tensors).to(device) for tensors in zip(*chosen, strict=True))
        return Coded(context.long(), future.long(), actions, rewards)


def check_frame_shape(recordings: Recordings, resolution: int) -> None:
    """Check the size of recorded frames.

    Raises:
        ConfigError: unless frames are ``[resolution, resolution, 3]``.
    """
    if tuple(recordings.frame_shape) != (resolution, resolution, 3):
        raise ConfigError(
            f"expected frames of {resolution} x {resolution} pixels, got {list(recordings.frame_shape)} in "
            f"{recordings.folder}: record at this resolution, or choose a recipe for the recordings' size"
        )
