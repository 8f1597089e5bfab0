"""The autoregressive transformer (paper, section 3.2): LLaMA blocks over the token sequence, actions added to slots.

Parameter names are those of the published checkpoints. Shape suffixes: B batch, N positions, T future frames,
A action dimension, D hidden size, H heads, K key/value heads, E head dimension, V vocabulary.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.config import TransformerConfig
from worldgym.errors import InvalidAction
from worldgym.tokens import TokenLayout

INIT_STD = 0.02
TRAVEL_SCALE = 0.25  # keeps sums over some tens of actions of a size with the actions themselves
Rotary = tuple[Tensor, Tensor]


class TransformerOutput(NamedTuple):
    """One forward pass over whole sequences."""

    logits: Tensor
    """float ``[B, N - logits_from, V]``: position i predicts the id at i + 1."""
    hidden: Tensor
    """float ``[B, N, D]``, after the final norm."""
    rewards: Tensor | None
    """float ``[B, T]`` for each complete future frame, as the head gives them (before the inverse reward transform)."""


class Attention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share a key/value head."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.heads, self.key_value_heads, self.head_dim = config.heads, config.key_value_heads, head
        self.q_proj = nn.Linear(width, config.heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(config.heads * head, width, bias=False)

    def project(self, x_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[B, H, N, E]``, keys and values ``[B, K, N, E]``; queries and keys are rotated."""
        batch, length, _ = x_BND.shape
        q = self.q_proj(x_BND).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x_BND).view(batch, length, self.key_value_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x_BND).view(batch, length, self.key_value_heads, self.head_dim).transpose(1, 2)
        return rotate(q, rotary), rotate(k, rotary), v

    def merge(self, mixed_BHNE: Tensor) -> Tensor:
        """The heads' outputs, projected back to ``[B, N, D]``."""
        x_BND: Tensor = self.o_proj(mixed_BHNE.transpose(1, 2).flatten(2))
        return x_BND


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        mixed: Tensor = self.down_proj(F.silu(self.gate_proj(x_BND)) * self.up_proj(x_BND))
        return mixed


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)

    def project(self, x_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the normed input."""
        return self.self_attn.project(self.input_layernorm(x_BND), rotary)

    def finish(self, x_BND: Tensor, mixed_BHNE: Tensor) -> Tensor:
        """Everything behind the attention over :meth:`project`'s outputs."""
        x_BND = x_BND + self.self_attn.merge(mixed_BHNE)
        update: Tensor = self.mlp(self.post_attention_layernorm(x_BND))
        return x_BND + update


class LlamaModel(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    @property
    def blocks(self) -> list[Layer]:
        """``layers``, typed."""
        return cast(list[Layer], list(self.layers))


class LanguageModel(nn.Module):
    """The bare language model: :class:`LlamaModel` and its head."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.model = LlamaModel(config, vocab_size)
        self.lm_head = nn.Linear(config.hidden_size, vocab_size, bias=False)


class Transformer(nn.Module):
    """Predicts the next id of a sequence laid out by ``layout``, given the action of every future frame.

    ``action_dim=0`` builds an action-free model; ``reward`` adds the reward head. ``dropout`` (an attribute, 0.0
    unless set) falls on the attention weights, in training mode only.
    """

    def __init__(
        self, config: TransformerConfig, layout: TokenLayout, action_dim: int = 0, reward: bool = False
    ) -> None:
        super().__init__()
        self.config, self.layout, self.action_dim = config, layout, action_dim
        self.dropout = 0.0
        self.llm = LanguageModel(config, layout.vocab_size)
        inputs = 2 * action_dim if config.cumulative_actions else action_dim
        self.action_linear = nn.Linear(inputs, config.hidden_size) if action_dim else None
        self.reward_linear = nn.Linear(config.hidden_size, 1) if reward else None
        places = layout.prefix_length + layout.step_length
        self.place_embedding = nn.Embedding(places, config.hidden_size) if config.place_embeddings else None
        self._initialise()

    def forward(self, tokens: Tensor, actions: Tensor | None = None, logits_from: int = 0) -> TransformerOutput:
        """Whole sequences in parallel, as training sees them.

        tokens: int64 ``[B, N]``. actions: float ``[B, T, A]``, one for each future slot among the N positions;
        ``actions[:, t]`` leads to future frame t. None for action-free models.
        logits_from: first position whose logits are computed; ``layout.prefix_length`` leaves out the context, where
        no loss is taken.

        Raises InvalidAction where the actions do not fit the model or the sequence.
        """
        dropout = self.dropout if self.training else 0.0
        x_BND = self._add_actions(self.placed(self.embed(tokens)), actions)
        rotary = rotary_tables(torch.arange(tokens.shape[1], device=tokens.device), self.config, x_BND.dtype)
        for layer in self.llm.model.blocks:
            x_BND = layer.finish(x_BND, causal_attention(*layer.project(x_BND, rotary), dropout))
        hidden_BND = self.llm.model.norm(x_BND)
        rewards_BT = None
        if self.reward_linear is not None:
            last = self.layout.last_positions(self.layout.horizon(tokens.shape[1]), tokens.device)
            rewards_BT = self.reward_linear(hidden_BND[:, last]).squeeze(-1)
        return TransformerOutput(self.llm.lm_head(hidden_BND[:, logits_from:]), hidden_BND, rewards_BT)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings ``[B, N, D]``."""
        x_BND: Tensor = self.llm.model.embed_tokens(tokens)
        return x_BND

    def placed(self, x_BND: Tensor) -> Tensor:
        """Embeddings of the first N positions with the vectors of their places, where the model has any."""
        if self.place_embedding is None:
            return x_BND
        places: Tensor = self.place_embedding(self.layout.embedding_positions(x_BND.shape[1], x_BND.device))
        return x_BND + places

    def placed_in_frame(self, x_B1D: Tensor, place: int) -> Tensor:
        """The same for one position, ``place`` behind its frame's slot."""
        if self.place_embedding is None:
            return x_B1D
        return x_B1D + self.place_embedding.weight[self.layout.prefix_length + place]

    def slot(self, action: Tensor | None, travel: Tensor) -> Tensor:
        """Embedding ``[B, 1, D]`` of a future frame's slot, with its action and the sum up to it, both ``[B, A]``."""
        x_D = self.llm.model.embed_tokens.weight[self.layout.future_slot]
        if self.action_linear is None:
            return x_D.expand(len(travel), 1, -1)
        assert action is not None, "the caller checks actions"
        x_BD: Tensor = x_D + self.action_linear(self._action_inputs(action, travel))
        return x_BD[:, None]

    def _add_actions(self, x_BND: Tensor, actions: Tensor | None) -> Tensor:
        """Each action added to the slot that opens its frame."""
        batch, length, _ = x_BND.shape
        expected = (batch, self.layout.slots(length), self.action_dim)
        if self.action_linear is None:
            if actions is not None:
                raise InvalidAction(f"this model is action-free: expected no actions, got shape {tuple(actions.shape)}")
            return x_BND
        if actions is None or actions.shape != expected:
            got = "none" if actions is None else f"shape {tuple(actions.shape)}"
            raise InvalidAction(f"expected actions of shape {expected}, one for each future frame, got {got}")
        positions = self.layout.slot_positions(expected[1], x_BND.device)
        action_BTD: Tensor = self.action_linear(self._action_inputs(actions, actions.cumsum(1)))
        return x_BND.index_add(1, positions, action_BTD.to(x_BND.dtype))

    def _action_inputs(self, actions: Tensor, travel: Tensor) -> Tensor:
        if not self.config.cumulative_actions:
            return actions
        return torch.cat([actions, TRAVEL_SCALE * travel], dim=-1)

    def _initialise(self) -> None:
        for module in self.llm.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)
        if self.place_embedding is not None:
            nn.init.normal_(self.place_embedding.weight, std=INIT_STD)
        if self.action_linear is not None:
            nn.init.zeros_(self.action_linear.weight)
            nn.init.zeros_(self.action_linear.bias)
        if self.reward_linear is not None:  # from elsewhere, its first gradients would drown those of the codes
            nn.init.zeros_(self.reward_linear.weight)
            nn.init.zeros_(self.reward_linear.bias)


def causal_attention(q_BHNE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention ``[B, H, N, E]`` of every position to itself and those before it."""
    groups = q_BHNE.shape[1] // k_BKNE.shape[1]
    if groups > 1:
        k_BKNE = k_BKNE[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
        v_BKNE = v_BKNE[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
    return F.scaled_dot_product_attention(q_BHNE, k_BKNE, v_BKNE, is_causal=True, dropout_p=dropout)


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """Angles, float32 ``[*positions.shape, E / 2]``, by which the pairs of a head are turned."""
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    return positions[..., None].float() * (1.0 / theta ** (half / head_dim))


def rotary_tables(positions: Tensor, config: TransformerConfig, dtype: torch.dtype) -> Rotary:
    """Cosines and sines ``[*positions.shape, E]``; the sines carry the sign of the half that is swapped in."""
    angles = rotary_angles(positions, config.head_dim, config.rope_theta)
    sines = angles.sin()
    return torch.cat([angles.cos()] * 2, dim=-1).to(dtype), torch.cat([-sines, sines], dim=-1).to(dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotary position embedding of ``[..., N, E]`` (halves swapped, as LLaMA does)."""
    cosines, sines = rotary
    return x * cosines + x.roll(x.shape[-1] // 2, dims=-1) * sines
