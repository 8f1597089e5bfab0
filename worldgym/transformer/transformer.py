"""The autoregressive transformer (paper, section 3.2): LLaMA over the token sequence, with actions and heads.

Parameter names are those of the published checkpoints. Shape suffixes: B batch, N positions, T future frames,
A action dimension, D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldgym.config import HEADS, TransformerConfig, WorldModelConfig
from worldgym.errors import InvalidAction
from worldgym.tokens import TokenLayout
from worldgym.transformer.llama import LanguageModel, Layer, Rotary, causal_attention, rotary_tables
from worldgym.transformer.sampling import cumulative_sum

INIT_STD = 0.02
CUMULATIVE_SCALE = 0.25  # sums of some tens of actions then have about the size of the actions themselves


class StepValues(NamedTuple):
    """What the heads predict of each future frame; None for a head that the model does not have."""

    reward: Tensor | None
    """What :meth:`worldgym.reward_scale.RewardScale.decode` takes."""
    success: Tensor | None
    """Logit of the probability that the task counts as solved."""
    termination: Tensor | None
    """Logit of the probability that the step ends the episode."""
    frame_error: Tensor | None
    """Logarithm of the mean squared error of the frame's pixels in [0, 1]."""


class TransformerOutput(NamedTuple):
    """Result of a forward pass over whole sequences."""

    logits: Tensor
    """float ``[B, N - logits_from, V]``: position i predicts the id at i + 1."""
    hidden: Tensor
    """float ``[B, N, D]``, after the final norm."""
    values: StepValues
    """float ``[B, T]``, for each complete future frame; ``[B, T, K]`` for a reward with bins."""

    @property
    def rewards(self) -> Tensor | None:
        """float ``[B, T]`` or ``[B, T, K]``, before they are decoded; None without a reward head."""
        return self.values.reward


class Transformer(nn.Module):
    """Predicts the next id of a token sequence, given the action of every future frame.

    Args:
        config: sizes.
        layout: of the token sequence.
        action_dim: A; 0 builds an action-free model.
        reward: whether there is a reward head.
        success: whether there is a success head.
        termination: whether there is a termination head.
        frame_error: whether there is a head for the error of the frame itself.
        reward_outputs: outputs of the reward head; see :class:`worldgym.reward_scale.RewardScale`.

    Attributes:
        dropout: probability of dropping an attention weight, in training mode only; 0.0 unless set.
        checkpointing: whether training keeps the input of each block only and computes the rest again for the gradient,
            which is the same; False unless set.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layout: TokenLayout,
        action_dim: int = 0,
        reward: bool = False,
        success: bool = False,
        termination: bool = False,
        frame_error: bool = False,
        reward_outputs: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.layout, self.action_dim = config, layout, action_dim
        self.dropout, self.checkpointing = 0.0, False
        self.llm = LanguageModel(config, layout.vocab_size)
        inputs = 2 * action_dim if config.cumulative_actions else action_dim
        self.action_linear = nn.Linear(inputs, config.hidden_size) if action_dim else None
        self.reward_linear = nn.Linear(config.hidden_size, reward_outputs) if reward else None
        self.success_linear = nn.Linear(config.hidden_size, 1) if success else None
        self.termination_linear = nn.Linear(config.hidden_size, 1) if termination else None
        self.frame_error_linear = nn.Linear(config.hidden_size, 1) if frame_error else None
        rows = layout.prefix_length + layout.step_length
        self.place_embedding = nn.Embedding(rows, config.hidden_size) if config.place_embeddings else None
        self._initialise()

    @classmethod
    def build(cls, config: WorldModelConfig) -> "Transformer":
        """The transformer of a world model, with initial weights."""
        heads = {name: name in config.heads for name in HEADS}
        outputs = config.reward_scale.outputs
        return cls(config.transformer, config.layout, config.action_dim, **heads, reward_outputs=outputs)

    @property
    def heads(self) -> dict[str, nn.Linear]:
        """The heads that the model has, by their names; see :data:`worldgym.config.HEADS`."""
        layers = {name: getattr(self, f"{name}_linear") for name in HEADS}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def step_values(self, hidden: Tensor) -> StepValues:
        """What the heads predict, float ``[...]``, from the hidden states ``[..., D]`` of frames' last positions."""
        heads = self.heads
        outputs = {name: head(hidden) for name, head in heads.items()}
        single = {name: out.squeeze(-1) if out.shape[-1] == 1 else out for name, out in outputs.items()}
        return StepValues(*(single.get(name) for name in HEADS))

    def forward(self, tokens: Tensor, actions: Tensor | None = None, logits_from: int = 0) -> TransformerOutput:
        """Process whole sequences in parallel, as in training.

        Args:
            tokens: int64 ``[B, N]``.
            actions: float ``[B, T, A]``, one for each future slot among the N positions; ``actions[:, t]`` leads to
                future frame t. None for action-free models.
            logits_from: first position whose logits are computed; ``layout.prefix_length`` leaves out the context.

        Raises:
            InvalidAction: if the actions do not fit the model or the sequence.
        """
        dropout = self.dropout if self.training else 0.0
        x_BND = self._add_actions(self.add_position_embedding(self.embed(tokens)), actions)
        rotary = rotary_tables(torch.arange(tokens.shape[1], device=tokens.device), self.config, x_BND.dtype)
        for layer in self.llm.model.blocks:
            if self.checkpointing and self.training:
                x_BND = checkpoint(_block, layer, x_BND, rotary, dropout, use_reentrant=False)
            else:
                x_BND = _block(layer, x_BND, rotary, dropout)
        hidden_BND = self.llm.model.norm(x_BND)
        last = self.layout.last_positions(self.layout.horizon(tokens.shape[1]), tokens.device)
        values = self.step_values(hidden_BND[:, last])
        return TransformerOutput(self.llm.lm_head(hidden_BND[:, logits_from:]), hidden_BND, values)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings ``[B, N, D]``."""
        x_BND: Tensor = self.llm.model.embed_tokens(tokens)
        return x_BND

    def add_position_embedding(self, x_BND: Tensor) -> Tensor:
        """Add the position embedding to embeddings of the first N positions, if the model has one."""
        if self.place_embedding is None:
            return x_BND
        positions_ND: Tensor = self.place_embedding(self.layout.embedding_positions(x_BND.shape[1], x_BND.device))
        return x_BND + positions_ND

    def add_frame_position_embedding(self, x_B1D: Tensor, offset: int) -> Tensor:
        """As :meth:`add_position_embedding`, for one position of a future frame, ``offset`` after its slot."""
        if self.place_embedding is None:
            return x_B1D
        return x_B1D + self.place_embedding.weight[self.layout.prefix_length + offset]

    def slot_embedding(self, action: Tensor | None, cumulative_action: Tensor) -> Tensor:
        """Embedding of a future frame's slot.

        Args:
            action: the frame's action ``[B, A]``; None for action-free models.
            cumulative_action: sum of the actions of all future frames in the window, this one's included, ``[B, A]``.

        Returns:
            ``[B, 1, D]``.
        """
        x_D = self.llm.model.embed_tokens.weight[self.layout.future_slot]
        if self.action_linear is None:
            return x_D.expand(len(cumulative_action), 1, -1)
        assert action is not None, "the caller checks actions"
        x_BD: Tensor = x_D + self.action_linear(self._action_inputs(action, cumulative_action))
        return x_BD[:, None]

    def embed_future(self, codes: Tensor, actions: Tensor | None) -> Tensor:
        """Embeddings ``[B, T * step_length, D]`` of known future frames, with positions and actions.

        Args:
            codes: int64 ``[B, T, tokens_per_frame]``.
            actions: float ``[B, T, A]``; None for action-free models.
        """
        x_BND, frames = self.embed(self.layout.future_ids(codes)), codes.shape[1]
        if self.place_embedding is not None:
            places = self.place_embedding.weight[self.layout.prefix_length :]
            x_BND = x_BND + places.repeat(frames, 1)
        if self.action_linear is None or actions is None:
            return x_BND
        slots = self.layout.slot_positions(frames, x_BND.device) - self.layout.prefix_length
        action_BTD: Tensor = self.action_linear(self._action_inputs(actions, cumulative_sum(actions, dim=1)))
        return x_BND.index_add(1, slots, action_BTD.to(x_BND.dtype))

    def _add_actions(self, x_BND: Tensor, actions: Tensor | None) -> Tensor:
        """Add each action to the slot of its frame."""
        batch, length, _ = x_BND.shape
        expected = (batch, self.layout.slots(length), self.action_dim)
        if self.action_linear is None:
            if actions is not None and actions.shape[-1]:  # those of recordings without actions have length 0
                raise InvalidAction(f"expected no actions for an action-free model, got shape {tuple(actions.shape)}")
            return x_BND
        if actions is None or actions.shape != expected:
            got = "none" if actions is None else f"shape {tuple(actions.shape)}"
            raise InvalidAction(f"expected actions of shape {expected}, one for each future frame, got {got}")
        positions = self.layout.slot_positions(expected[1], x_BND.device)
        action_BTD: Tensor = self.action_linear(self._action_inputs(actions, cumulative_sum(actions, dim=1)))
        return x_BND.index_add(1, positions, action_BTD.to(x_BND.dtype))

    def _action_inputs(self, actions: Tensor, cumulative_actions: Tensor) -> Tensor:
        if not self.config.cumulative_actions:
            return actions
        return torch.cat([actions, CUMULATIVE_SCALE * cumulative_actions], dim=-1)

    def _initialise(self) -> None:
        for module in self.llm.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)
        if self.place_embedding is not None:
            nn.init.normal_(self.place_embedding.weight, std=INIT_STD)
        if self.action_linear is not None:
            nn.init.zeros_(self.action_linear.weight)
            nn.init.zeros_(self.action_linear.bias)
        for head in self.heads.values():  # large first errors would dominate the gradients
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


def _block(layer: Layer, x_BND: Tensor, rotary: Rotary, dropout: float) -> Tensor:
    return layer.finish(x_BND, causal_attention(*layer.project(x_BND, rotary), dropout))
