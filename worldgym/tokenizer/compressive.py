"""The published tokenizer of iVideoGPT (paper, section 3.1), weight for weight.

Context frames are encoded independently. Future frames pass a second encoder and decoder that attend to the context
frames by cross-attention, so that a few codes are enough for what changes. Module names are those of the published
weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.config import CompressiveTokenizerConfig, from_dict
from worldgym.errors import ConfigError, InvalidFrames, nearest
from worldgym.tokenizer.base import ContextFeatures, Tokenizer, TokenizerOutput, check_frames
from worldgym.tokenizer.blocks import CrossAttention, DownBlock, KeysValues, MidBlock, UpBlock
from worldgym.tokenizer.quantizer import VectorQuantizer


class _EncoderLayers(nn.Module):
    """The layers of both encoders; ``sizes`` are the map sizes after each down block."""

    def __init__(self, config: CompressiveTokenizerConfig, mid_attention: bool) -> None:
        super().__init__()
        widths, groups, last = config.channels, config.norm_groups, len(config.channels) - 1
        self.attention_limit = config.max_attention_resolution
        self.sizes = [config.resolution // 2 ** min(i + 1, last) for i in range(len(widths))]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(0, i - 1)], width, config.layers_per_block, groups, halve=i < last)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups, mid_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def to_latents(self, x: Tensor) -> Tensor:
        latents: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return latents


class Encoder(_EncoderLayers):
    """For context frames."""

    def __init__(self, config: CompressiveTokenizerConfig) -> None:
        super().__init__(config, mid_attention=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[N, 3, H, W]`` to latents ``[N, D, h, w]`` and the maps that future frames attend to."""
        x, maps = self.conv_in(frames), []
        for block, size in zip(self.down_blocks, self.sizes, strict=True):
            x = block(x)
            if size <= self.attention_limit:
                maps.append(x)
        return self.to_latents(x), maps


class ConditionalEncoder(_EncoderLayers):
    """For future frames, given the context."""

    def __init__(self, config: CompressiveTokenizerConfig) -> None:
        super().__init__(config, mid_attention=True)
        self.cross_att_blocks = nn.ModuleList(
            CrossAttention(width, size, config.context_length, config.norm_groups)
            for width, size in zip(config.channels, self.sizes, strict=True)
            if size <= self.attention_limit
        )

    def forward(self, frames: Tensor, context: Sequence[KeysValues]) -> Tensor:
        """``[N, 3, H, W]`` to latents ``[N, D, h, w]``."""
        x = self.conv_in(frames)
        attentions = zip(self.cross_att_blocks, context, strict=True)
        for block, size in zip(self.down_blocks, self.sizes, strict=True):
            x = block(x)
            if size <= self.attention_limit:
                attention, keys_values = next(attentions)
                x = attention(x, keys_values)
        return self.to_latents(x)


class _DecoderLayers(nn.Module):
    """The layers of both decoders; the outputs of the first ``attended`` up blocks are small enough to attend to."""

    def __init__(self, config: CompressiveTokenizerConfig, mid_attention: bool) -> None:
        super().__init__()
        widths, groups, last = config.channels[::-1], config.norm_groups, len(config.channels) - 1
        self.sizes = [config.latent_size * 2 ** min(i + 1, last) for i in range(len(widths))]
        self.attended = sum(size <= config.max_attention_resolution for size in self.sizes)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, mid_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(0, i - 1)], width, config.layers_per_block + 1, groups, double=i < last)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def finish(self, x: Tensor) -> Tensor:
        """The last attended map to frames ``[N, 3, H, W]``."""
        for block in self.up_blocks[self.attended :]:
            x = block(x)
        frames: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return frames


class Decoder(_DecoderLayers):
    """For context frames."""

    def __init__(self, config: CompressiveTokenizerConfig) -> None:
        super().__init__(config, mid_attention=False)

    def maps(self, latents: Tensor) -> list[Tensor]:
        """``[N, D, h, w]`` to the maps that future frames attend to; the large ones are left out for their cost."""
        maps = [self.mid_block(self.conv_in(latents))]
        for block in self.up_blocks[: self.attended]:
            maps.append(block(maps[-1]))
        return maps


class ConditionalDecoder(_DecoderLayers):
    """For future frames, given the context."""

    def __init__(self, config: CompressiveTokenizerConfig) -> None:
        super().__init__(config, mid_attention=True)
        widths = config.channels[::-1]
        self.cross_att_blocks = nn.ModuleList(
            CrossAttention(width, size, config.context_length, config.norm_groups)
            for width, size in zip(
                [widths[0], *widths[: self.attended]], [config.latent_size, *self.sizes[: self.attended]], strict=True
            )
        )

    def without_context(self, latents: Tensor) -> Tensor:
        """As :meth:`forward`, without the attention to the context."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks[: self.attended]:
            x = block(x)
        return self.finish(x)

    def forward(self, latents: Tensor, context: Sequence[KeysValues]) -> Tensor:
        """``[N, D, h, w]`` to frames ``[N, 3, H, W]``."""
        x = self.cross_att_blocks[0](self.mid_block(self.conv_in(latents)), context[0])
        small = self.up_blocks[: self.attended]
        for block, attention, keys_values in zip(small, self.cross_att_blocks[1:], context[1:], strict=True):
            x = attention(block(x), keys_values)
        return self.finish(x)


class CompressiveTokenizer(Tokenizer):
    """Encodes a context frame as ``h * w`` codes and a future frame as one code for each patch of the latent map.

    :class:`ContextFeatures` are keys and values of every cross-attention, the encoder's before the decoder's.
    """

    def __init__(self, config: CompressiveTokenizerConfig) -> None:
        super().__init__()
        self.config, self.layout, self.resolution = config, config.layout, config.resolution
        dim, patch_dim = config.latent_channels, config.latent_channels * config.patch_size**2
        self.encoder = Encoder(config)
        self.cond_encoder = ConditionalEncoder(config)
        self.quant_conv = nn.Conv2d(dim, dim, 1)
        self.quantize = VectorQuantizer(config.context_codes, dim)
        self.post_quant_conv = nn.Conv2d(dim, dim, 1)
        self.quant_linear = nn.Linear(patch_dim, dim)
        self.dynamics_quantize = VectorQuantizer(config.dynamics_codes, dim)
        self.post_quant_linear = nn.Linear(dim, patch_dim)
        self.decoder = Decoder(config)
        self.cond_decoder = ConditionalDecoder(config)

    def encode_context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Context frames ``[B, C, 3, H, W]`` to codes ``[B, C, tokens_per_context_frame]`` and features."""
        check_frames(frames, self.resolution, self.config.context_length)
        latents, maps = self._context_latents(frames)
        codes = self.quantize.codes(latents)
        pairs = self._encoder_attention(maps) + self._decoder_attention(self._context_maps(self.quantize.lookup(codes)))
        features = ContextFeatures(tuple(tensor for pair in pairs for tensor in pair))
        return codes.reshape(*frames.shape[:2], -1), features

    def encode_future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """Future frames ``[B, T, 3, H, W]`` to dynamics codes ``[B, T, tokens_per_frame]``."""
        check_frames(frames, self.resolution)
        self._check_clips(len(frames), features)
        latents = self._future_latents(frames, self._split_features(features)[0])
        return torch.unflatten(self.dynamics_quantize.codes(latents), 0, frames.shape[:2])

    def decode_future(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Dynamics codes ``[B, T, tokens_per_frame]`` to frames ``[B, T, 3, H, W]``, not clamped."""
        self._check_clips(len(codes), features)
        latents = self.dynamics_quantize.lookup(codes.flatten(0, 1))
        frames = self._future_frames(latents, self._split_features(features)[1])
        return torch.unflatten(frames, 0, codes.shape[:2])

    def decode_without_context(self, codes: Tensor) -> Tensor:
        """As :meth:`decode_future`, with the decoder's cross-attention dropped: what dynamics codes alone say.

        Paper, figure 10.
        """
        latents: Tensor = self.post_quant_linear(self.dynamics_quantize.lookup(codes.flatten(0, 1)))
        frames = self.cond_decoder.without_context(from_patches(latents, self.config.patch_size))
        return torch.unflatten(frames, 0, codes.shape[:2])

    @property
    def last_layer(self) -> nn.Conv2d:
        return self.cond_decoder.conv_out

    @property
    def peak_floats(self) -> int:
        return 6 * self.config.channels[0] * self.resolution**2  # maps at full resolution; the others are smaller

    def codebooks(self) -> tuple[Tensor, Tensor]:
        return self.quantize.embedding.weight, self.dynamics_quantize.embedding.weight

    def forward(self, frames: Tensor) -> TokenizerOutput:
        """Encode, quantise and decode a clip ``[B, C + T, 3, H, W]``; see the base class."""
        check_frames(frames, self.resolution)
        context, future = frames.tensor_split([self.config.context_length], dim=1)
        if future.shape[1] < 1:
            raise InvalidFrames(
                f"expected more than the {context.shape[1]} context frames, got {list(frames.shape)}: "
                "give at least one future frame"
            )
        latents, encoder_maps = self._context_latents(context)
        quantized = self.quantize(latents)
        dynamics = self.dynamics_quantize(self._future_latents(future, self._encoder_attention(encoder_maps)))
        decoder_maps = self._context_maps(quantized.latents)
        decoded_future = self._future_frames(dynamics.latents, self._decoder_attention(decoder_maps))
        return TokenizerOutput(
            context=torch.unflatten(self.decoder.finish(decoder_maps[-1]), 0, context.shape[:2]),
            future=torch.unflatten(decoded_future, 0, future.shape[:2]),
            context_codes=quantized.codes.reshape(*context.shape[:2], -1),
            dynamics_codes=torch.unflatten(dynamics.codes, 0, future.shape[:2]),
            commit_loss=quantized.commit_loss,
            dynamics_commit_loss=dynamics.commit_loss,
        )

    def _context_latents(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[B, C, 3, H, W]`` to latents ``[B * C, h, w, D]`` and the encoder's maps."""
        latents, maps = self.encoder(frames.flatten(0, 1))
        return self.quant_conv(latents).permute(0, 2, 3, 1), maps

    def _context_maps(self, latents: Tensor) -> list[Tensor]:
        """Quantised latents ``[B * C, h, w, D]`` to the decoder's maps."""
        return self.decoder.maps(self.post_quant_conv(latents.permute(0, 3, 1, 2)))

    def _future_latents(self, frames: Tensor, context: Sequence[KeysValues]) -> Tensor:
        """``[B, T, 3, H, W]`` to latents ``[B * T, tokens_per_frame, D]``."""
        latents: Tensor = self.cond_encoder(frames.flatten(0, 1), context)
        projected: Tensor = self.quant_linear(to_patches(latents, self.config.patch_size))
        return projected

    def _future_frames(self, latents: Tensor, context: Sequence[KeysValues]) -> Tensor:
        """Quantised latents ``[B * T, tokens_per_frame, D]`` to frames ``[B * T, 3, H, W]``."""
        patches: Tensor = self.post_quant_linear(latents)
        frames: Tensor = self.cond_decoder(from_patches(patches, self.config.patch_size), context)
        return frames

    def _encoder_attention(self, maps: list[Tensor]) -> list[KeysValues]:
        return _keys_values(self.cond_encoder.cross_att_blocks, maps)

    def _decoder_attention(self, maps: list[Tensor]) -> list[KeysValues]:
        return _keys_values(self.cond_decoder.cross_att_blocks, maps)

    def _split_features(self, features: ContextFeatures) -> tuple[list[KeysValues], list[KeysValues]]:
        pairs = list(zip(features.tensors[::2], features.tensors[1::2], strict=True))
        encoder_pairs = len(self.cond_encoder.cross_att_blocks)
        return pairs[:encoder_pairs], pairs[encoder_pairs:]

    def _check_clips(self, clips: int, features: ContextFeatures) -> None:
        if features.tensors and len(features.tensors[0]) != clips:
            raise InvalidFrames(
                f"expected the features of {clips} clips, got those of {len(features.tensors[0])}: "
                "use features.select(rows) to repeat or pick them"
            )


def to_patches(maps: Tensor, size: int) -> Tensor:
    """Maps ``[N, c, h, w]`` to patches ``[N, (h / size) * (w / size), size * size * c]``, channels innermost."""
    cut = torch.unflatten(torch.unflatten(maps, 3, (-1, size)), 2, (-1, size))  # N c rows size columns size
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, size: int) -> Tensor:
    """Inverse of :func:`to_patches` for square maps."""
    side = round(patches.shape[1] ** 0.5)
    cut = torch.unflatten(torch.unflatten(patches, 2, (size, size, -1)), 1, (side, side))  # N rows columns size size c
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _keys_values(blocks: nn.ModuleList, maps: list[Tensor]) -> list[KeysValues]:
    pairs = zip(blocks, maps, strict=True)
    return [block.keys_values(each) for block, each in pairs if isinstance(block, CrossAttention)]


# Entry of a published tokenizer/config.json -> field of the configuration, and the value if the file lacks the entry.
_PUBLISHED_FIELDS: dict[str, tuple[str, Any]] = {
    "block_out_channels": ("channels", None),
    "layers_per_block": ("layers_per_block", None),
    "latent_channels": ("latent_channels", None),
    "num_vq_embeddings": ("context_codes", None),
    "num_dyn_embeddings": ("dynamics_codes", None),
    "context_length": ("context_length", 1),
    "resolution": ("resolution", 256),
    "max_att_resolution": ("max_attention_resolution", 32),
    "patch_size": ("patch_size", 4),
}
NORM_GROUPS = 32  # of published tokenizers
# Entries without effect here, with the values of published files, which the reference implementation may need.
_WITHOUT_EFFECT = {"force_upcast": True, "lookup_from_codebook": True, "sample_size": 32, "scaling_factor": 0.18215}


def config_from_published(values: Mapping[str, Any], where: str) -> CompressiveTokenizerConfig:
    """Read a published ``tokenizer/config.json``.

    Args:
        values: the file's content.
        where: the file's name, for error messages.

    Raises:
        ConfigError: for entries that are missing, unknown or not implemented; the message names them.
    """
    channels = values.get("block_out_channels", [])
    if not isinstance(channels, (list, tuple)):
        raise ConfigError(f"{where}: block_out_channels: expected a list of numbers, got {channels!r}")
    stages = len(channels)
    fixed: dict[str, tuple[Any, ...]] = {
        "act_fn": ("silu",),
        "norm_type": ("group",),
        "norm_num_groups": (NORM_GROUPS,),
        "in_channels": (3,),
        "out_channels": (3,),
        "mid_block_add_attention": (False,),
        "vq_embed_dim": (None, values.get("latent_channels")),
        "down_block_types": (["DownEncoderBlock2D"] * stages,),
        "up_block_types": (["UpDecoderBlock2D"] * stages,),
    }
    known = {*_PUBLISHED_FIELDS, *fixed, *_WITHOUT_EFFECT}
    for name, value in values.items():
        if name not in known and not name.startswith("_"):
            raise ConfigError(f"{where}: unknown entry {name!r}; {nearest(name, known)}")
        if name in fixed and value not in fixed[name]:
            supported = " or ".join(repr(each) for each in fixed[name])
            raise ConfigError(f"{where}: {name}: expected {supported}, the only form implemented, got {value!r}")
    fields = {}
    for name, (field, default) in _PUBLISHED_FIELDS.items():
        fields[field] = values.get(name, default)
        if fields[field] is None:
            raise ConfigError(f"{where}: entry {name!r} is missing")
    return from_dict(CompressiveTokenizerConfig, fields, where)


def config_to_published(config: CompressiveTokenizerConfig) -> dict[str, Any]:
    """Inverse of :func:`config_from_published`; ``norm_groups`` must be :data:`NORM_GROUPS`."""
    stages = len(config.channels)
    fields = {name: getattr(config, field) for name, (field, _) in _PUBLISHED_FIELDS.items()}
    return {
        "_class_name": "CompressiveVQModel",
        **fields,
        **_WITHOUT_EFFECT,
        "act_fn": "silu",
        "norm_type": "group",
        "norm_num_groups": NORM_GROUPS,
        "in_channels": 3,
        "out_channels": 3,
        "mid_block_add_attention": False,
        "vq_embed_dim": None,
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
    }
