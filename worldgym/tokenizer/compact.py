"""The small tokenizer of the shipped checkpoints: same interface as the published one, cheap enough for a CPU.

It assumes a fixed camera and differs from the published one in three ways:

- the context conditions encoder and decoder by addition at the same pixel instead of by cross-attention;
- all convolutions run at half resolution and below; pixels are packed into channels before and unpacked after;
- the decoder moves the newest context frame's pixels along a flow field and blends in new colours by a mask.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.config import CompactTokenizerConfig
from worldgym.tokenizer.base import ContextFeatures, Tokenizer, TokenizerOutput
from worldgym.tokenizer.norm import LatentNorm, norm_silu
from worldgym.tokenizer.quantizer import VectorQuantizer

NORM_GROUPS = 8
COMMITMENT = 0.25  # with a higher weight latents gather around few codes
FLOW_SCALE = 4.0  # pixels per unit of the flow head's output


class CompactTokenizer(Tokenizer):
    """Frames <-> codes by convolutions at 1/2, 1/4 and 1/8 of the resolution; see this file's docstring."""

    def __init__(self, config: CompactTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.resolution = config.resolution
        width, latent = config.width, config.latent_channels
        self.context_encoder = ContextEncoder(config)
        self.context_decoder = ContextDecoder(config)
        self.encoder = FutureEncoder(config)
        self.decoder = FutureDecoder(config)
        self.encoder_condition = nn.Conv2d(2 * width * config.context_length, 2 * width, 1)
        self.decoder_conditions = nn.ModuleList(
            nn.Conv2d(channels * config.context_length, channels, 1) for channels in (4 * width, 2 * width, width)
        )
        self.context_spread, self.dynamics_spread = LatentNorm(latent), LatentNorm(latent)
        self.context_quantizer = VectorQuantizer(config.context_codes, latent, beta=COMMITMENT)
        self.dynamics_quantizer = VectorQuantizer(config.dynamics_codes, latent, beta=COMMITMENT)

    def encode_context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        latents, features = self._context(frames)
        codes = self.context_quantizer.codes(latents)
        return codes.view(*frames.shape[:2], -1), features

    def encode_future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        latents = self._future(frames, features)
        return torch.unflatten(self.dynamics_quantizer.codes(latents), 0, frames.shape[:2])

    def decode_future(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        vectors = self.dynamics_quantizer.lookup(codes)
        return self._decode_future(vectors.flatten(0, 1), features, codes.shape[1])

    def forward(self, frames: Tensor) -> TokenizerOutput:
        split = self.config.context_length
        context, future = frames[:, :split], frames[:, split:]
        context_latents, features = self._context(context)
        context_quantized = self.context_quantizer(context_latents)
        future_quantized = self.dynamics_quantizer(self._future(future, features))
        return TokenizerOutput(
            context=self._decode_context(context_quantized.latents).unflatten(0, context.shape[:2]),
            future=self._decode_future(future_quantized.latents, features, future.shape[1]),
            context_codes=context_quantized.codes.view(*context.shape[:2], -1),
            dynamics_codes=future_quantized.codes.view(*future.shape[:2], -1),
            commit_loss=context_quantized.commit_loss,
            dynamics_commit_loss=future_quantized.commit_loss,
        )

    @property
    def last_layer(self) -> nn.Conv2d:
        return self.decoder.out

    @property
    def peak_floats(self) -> int:
        return 8 * self.config.width * (self.resolution // 2) ** 2  # maps at half resolution; the others are smaller

    def codebooks(self) -> tuple[Tensor, Tensor]:
        return self.context_quantizer.embedding.weight, self.dynamics_quantizer.embedding.weight

    def _context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Context latents ``[B * C, g * g, D]``, and features for encoder and decoder."""
        batch, count = frames.shape[:2]
        latents, maps = self.context_encoder(_channels_last(frames.flatten(0, 1)))
        latents = self.context_spread(latents)
        merged = [_channels_last(feature.unflatten(0, (batch, count)).flatten(1, 2)) for feature in maps]
        decoder = [layer(feature) for layer, feature in zip(self.decoder_conditions, merged, strict=True)]
        newest, condition = frames[:, -1], self.encoder_condition(merged[1])
        newest_latents = self.encoder(_channels_last(newest), newest, condition)
        return latents, ContextFeatures((newest, condition, newest_latents, *decoder))

    def _future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """Dynamics latents ``[B * T, g * g, D]``, from the difference to the newest context frame's own latents."""
        newest, condition, newest_latents = (_expand(tensor, frames.shape[1]) for tensor in features.tensors[:3])
        latents = self.encoder(_channels_last(frames.flatten(0, 1)), newest, condition)
        return cast(Tensor, self.dynamics_spread(latents - newest_latents))

    def _decode_context(self, vectors: Tensor) -> Tensor:
        return cast(Tensor, self.context_decoder(_grid(vectors, self.config.context_grid)))

    def _decode_future(self, vectors: Tensor, features: ContextFeatures, count: int) -> Tensor:
        newest, _, _, *conditions = features.tensors
        frames = self.decoder(
            _grid(vectors, self.config.frame_grid),
            [_expand(condition, count) for condition in conditions],
            _expand(newest, count),
        )
        return cast(Tensor, frames.unflatten(0, (newest.shape[0], count)))


class Residual(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(norm_silu(self.norm1, x))
        return x + cast(Tensor, self.conv2(norm_silu(self.norm2, hidden)))


def _stack(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels) for _ in range(depth)))


class Trunk(nn.Module):
    """The first layers of both encoders: packed pixels ``[N, channels, R / 2, R / 2]`` to maps at 1/2, 1/4 and 1/8."""

    def __init__(self, config: CompactTokenizerConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.blocks1 = _stack(2 * width, config.depth)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1)
        self.blocks2 = _stack(4 * width, 1)

    def maps(self, packed: Tensor, condition: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """The three maps, coarsest first; ``condition`` is added at 1/4."""
        half = self.stem(packed)
        quarter = self.blocks1(self.down1(F.silu(half)) + condition)
        return self.blocks2(self.down2(quarter)), quarter, half


class ContextEncoder(Trunk):
    """One context frame ``[N, 3, R, R]`` to latents at the context grid and to the trunk's maps."""

    def __init__(self, config: CompactTokenizerConfig) -> None:
        super().__init__(config, channels=12)
        stride = max(1, config.resolution // 8 // config.context_grid)
        self.out = nn.Conv2d(4 * config.width, config.latent_channels, stride, stride=stride)

    def forward(self, frames: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        maps = self.maps(F.pixel_unshuffle(frames, 2))
        return self.out(F.silu(maps[0])), maps


class ContextDecoder(nn.Module):
    """Latents at the context grid to a frame. Used in training only, so that context codes represent positions."""

    def __init__(self, config: CompactTokenizerConfig) -> None:
        super().__init__()
        width, self.grid = config.width, config.resolution // 8
        self.stem = nn.Conv2d(config.latent_channels, 4 * width, 3, padding=1)
        self.blocks1 = _stack(4 * width, 1)
        self.up = nn.Conv2d(4 * width, 8 * width, 1)
        self.blocks2 = _stack(2 * width, 1)
        self.out = nn.Conv2d(2 * width, 48, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        if vectors.shape[-1] != self.grid:
            vectors = F.interpolate(vectors, size=(self.grid, self.grid))
        hidden = F.pixel_shuffle(self.up(self.blocks1(self.stem(vectors))), 2)
        return F.pixel_shuffle(self.out(F.silu(self.blocks2(hidden))), 4).float()


class FutureEncoder(Trunk):
    """A future frame and the newest context frame to latents at the frame grid."""

    def __init__(self, config: CompactTokenizerConfig) -> None:
        super().__init__(config, channels=24)
        width, stride = config.width, config.resolution // 8 // config.frame_grid
        self.down3 = nn.Conv2d(4 * width, 4 * width, stride, stride=stride)
        self.blocks3 = _stack(4 * width, 1)
        self.out = nn.Conv2d(4 * width, config.latent_channels, 1)

    def forward(self, frames: Tensor, newest: Tensor, condition: Tensor) -> Tensor:
        packed = F.pixel_unshuffle(torch.cat([frames, frames - newest], dim=1), 2)
        eighth, _, _ = self.maps(packed, condition)
        return cast(Tensor, self.out(F.silu(self.blocks3(self.down3(eighth)))))


class FutureDecoder(nn.Module):
    """Latents at the frame grid to a frame: the newest context frame moved by a flow, blended with new colours."""

    def __init__(self, config: CompactTokenizerConfig) -> None:
        super().__init__()
        width = config.width
        self.factor = config.resolution // 8 // config.frame_grid
        self.stem = nn.Conv2d(config.latent_channels, 4 * width, 3, padding=1)
        self.blocks1 = _stack(4 * width, 1)
        self.blocks2 = _stack(4 * width, config.depth)
        self.up1 = nn.Conv2d(4 * width, 8 * width, 1)
        self.blocks3 = _stack(2 * width, config.depth)
        self.up2 = nn.Conv2d(2 * width, 4 * width, 1)
        self.blocks4 = _stack(width, 1)
        self.out = nn.Conv2d(width, 24, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, vectors: Tensor, conditions: list[Tensor], newest: Tensor) -> Tensor:
        eighth, quarter, half = conditions
        hidden = F.interpolate(self.blocks1(self.stem(vectors)), scale_factor=float(self.factor))
        hidden = self.blocks2(hidden + eighth)
        hidden = self.blocks3(F.pixel_shuffle(self.up1(hidden), 2) + quarter)
        hidden = self.blocks4(F.pixel_shuffle(self.up2(hidden), 2) + half)
        out = F.pixel_shuffle(self.out(F.silu(hidden)), 2).float()
        colours, mask, flow = out[:, :3] + 0.5, torch.sigmoid(out[:, 3:4] - 2.0), FLOW_SCALE * out[:, 4:6]
        return mask * colours + (1 - mask) * warp(newest, flow)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Read every pixel at an offset, with bilinear interpolation; outside the image the border repeats.

    Args:
        image: ``[N, 3, H, W]``.
        flow: offsets (x, y) in pixels, ``[N, 2, H, W]``.

    Returns:
        ``[N, 3, H, W]`` in the dtype of ``flow``.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device, dtype=flow.dtype)
    columns = torch.arange(width, device=image.device, dtype=flow.dtype)
    x = (columns + flow[:, 0] + 0.5) * (2 / width) - 1
    y = (rows[:, None] + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(image.to(flow.dtype), grid, padding_mode="border", align_corners=False)


def _grid(vectors: Tensor, side: int) -> Tensor:
    """Vectors ``[N, g * g, D]`` to a map ``[N, D, g, g]``."""
    return _channels_last(vectors.transpose(1, 2).unflatten(2, (side, side)))


def _expand(tensor: Tensor, count: int) -> Tensor:
    """Repeat each row of the batch for each of its ``count`` frames."""
    return tensor if count == 1 else _channels_last(tensor.repeat_interleave(count, dim=0))


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
