"""Building blocks of the published tokenizer. Module names are those of its weights.

Legend of shapes: N images, B clips, T frames of a clip that share one context, c channels, h w map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one cross-attention, each ``[B, heads, positions, c / heads]``."""


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut: ``[N, c, h, w]`` to ``[N, width, h, w]``."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SelfAttention(nn.Module):
    """One head over all positions of a map, with a residual: ``[N, c, h, w]`` to the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (project(positions).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v))
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        residual: Tensor = self.to_out[0](attended)
        return x + residual.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Halve a map; the padding is on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double a map: repeat its pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class _Stage(nn.Module):
    def __init__(self, channels: int, width: int, layers: int, groups: int) -> None:
        super().__init__()
        inputs = [channels] + [width] * (layers - 1)
        self.resnets = nn.ModuleList(ResnetBlock(size, width, groups) for size in inputs)


class DownBlock(_Stage):
    """Resnet blocks, then a halving unless it is the last stage."""

    def __init__(self, channels: int, width: int, layers: int, groups: int, halve: bool) -> None:
        super().__init__(channels, width, layers, groups)
        self.downsamplers = nn.ModuleList([Downsample(width)] if halve else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(_Stage):
    """Resnet blocks, then a doubling unless it is the last stage."""

    def __init__(self, channels: int, width: int, layers: int, groups: int, double: bool) -> None:
        super().__init__(channels, width, layers, groups)
        self.upsamplers = nn.ModuleList([Upsample(width)] if double else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """Two resnet blocks, optionally with self-attention between them."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([SelfAttention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = layer(x)
        return x


class PackedProjections(nn.Module):
    """The weights of a multi-head attention; query, key and value share a matrix, as in the published weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def queries(self, x: Tensor) -> Tensor:
        """``[..., c]`` to ``[..., c]``."""
        channels = x.shape[-1]
        return F.linear(x, self.in_proj_weight[:channels], self.in_proj_bias[:channels])

    def keys_values(self, x: Tensor) -> KeysValues:
        """``[..., c]`` to keys and values of that shape."""
        channels = x.shape[-1]
        both = F.linear(x, self.in_proj_weight[channels:], self.in_proj_bias[channels:])
        keys, values = both.chunk(2, dim=-1)
        return keys, values


class CrossAttention(nn.Module):
    """Attention of a future frame's map to the context frames' maps of the same size."""

    heads = 4

    def __init__(self, channels: int, size: int, context_length: int, groups: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.att = PackedProjections(channels)
        self.q_norm = nn.GroupNorm(groups, channels)
        self.kv_norm = nn.GroupNorm(groups, channels)
        self.q_pos_emb = nn.Parameter(torch.zeros(size * size, channels))
        self.kv_pos_emb = nn.Parameter(torch.zeros(context_length * size * size, channels))

    def keys_values(self, maps: Tensor) -> KeysValues:
        """Context maps ``[B * C, c, h, w]``, normalised over all frames of a clip, to keys and values."""
        clips = torch.unflatten(maps, 0, (-1, self.context_length)).transpose(1, 2).flatten(2)
        positions = self.kv_norm(clips).transpose(1, 2) + self.kv_pos_emb
        keys, values = self.att.keys_values(positions)
        return self._split_heads(keys), self._split_heads(values)

    def forward(self, x: Tensor, context: KeysValues) -> Tensor:
        """Future maps ``[B * T, c, h, w]`` and their clips' keys and values, to the shape of the maps.

        A clip's frames share keys and values, so the positions of all of them are one sequence of queries.
        """
        keys, values = context
        positions = self.q_norm(x).flatten(2).transpose(1, 2) + self.q_pos_emb
        queries = self.att.queries(positions).reshape(len(keys), -1, x.shape[1])
        dropout = DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(self._split_heads(queries), keys, values, dropout_p=dropout)
        merged = self.att.out_proj(attended.transpose(1, 2).flatten(2)).reshape(positions.shape)
        residual = F.dropout(merged, DROPOUT, self.training).transpose(1, 2).reshape(x.shape)
        return F.silu(x + residual)

    def _split_heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)
