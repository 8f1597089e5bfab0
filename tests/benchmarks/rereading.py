"""The loop that the reference works by: Hugging Face's ``generate`` over the whole past, for every frame anew.

It is as good as such a loop can be. The past comes ready embedded; within a frame ``generate`` keeps its key/value
cache; only dynamics codes are drawn; the reward costs one position more on that cache, as it does there; only the new
frame is decoded, by our decoder, with features, keys and values of the context worked out once an episode (there the
features alone). Greedy, it imagines what our models imagine, code for code. What is left is what the approach
costs: 514 + 17 t positions (of the published models) read for 17 new ones, and ``generate`` around each of those.
"""

import torch
from bench_transformer import hugging_face
from torch import Tensor, nn
from transformers import LogitsProcessor

from worldgym import WorldModel
from worldgym.tokenizer.base import ContextFeatures


class OnlyDynamicsCodes(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, ids: slice) -> None:
        self.ids = ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, self.ids] = scores[:, self.ids]
        return allowed


class RereadingLoop:
    """The weights of a world model in Hugging Face's LLaMA."""

    def __init__(self, model: WorldModel) -> None:
        self.model, self.layout = model, model.layout
        self.llama = hugging_face(model.transformer).to(model.device, model.dtype)
        self.llama.generation_config.eos_token_id = None
        self.processor = OnlyDynamicsCodes(self.layout.dynamics_ids)
        self._offset = 0
        self.llama.model.embed_tokens.register_forward_hook(self._add_position)

    def check(self) -> None:
        """Both, drawing the likeliest codes in float32, imagine one frame alike: else the comparison means nothing."""
        model, config = self.model, self.model.config
        frames = torch.randint(256, (1, config.context_length, config.resolution, config.resolution, 3)).to(torch.uint8)
        action = torch.rand(1, config.action_dim) * 2 - 1
        ours = model.rollout(frames, action[:, None], top_k=1)
        scaled = frames.to(model.device, model.dtype).div(255).movedim(-1, -3)
        context, features = model.tokenizer.encode_context(scaled)
        past = self.past(context, ours.tokens[:, :0], ours.rewards.new_zeros(1, 0, config.action_dim))
        action = action.to(model.device)
        codes, pixels, _ = self.frame(past, features, action, action, top_k=1)
        assert torch.equal(codes, ours.tokens[:, 0]), "the re-reading loop imagines another frame"
        assert (pixels.int() - ours.frames[:, 0].int()).abs().max() <= 1, "the re-reading loop paints another frame"

    def past(self, context: Tensor, codes: Tensor, actions: Tensor) -> Tensor:
        """Embeddings ``[B, N, D]`` of context codes, and of ``[B, T, n]`` codes with their actions ``[B, T, A]``."""
        transformer, layout = self.model.transformer, self.layout
        x_BND = transformer.add_position_embedding(transformer.embed(layout.sequence(context, codes)))
        for position, step in zip(layout.slot_positions(codes.shape[1]), range(codes.shape[1]), strict=True):
            x_BND[:, position : position + 1] = self._slot(actions[:, step], actions[:, : step + 1].sum(1))
        return x_BND

    def frame(
        self, past_BND: Tensor, features: ContextFeatures, action: Tensor, cumulative: Tensor, top_k: int = 100
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame: codes ``[B, n]``, pixels uint8 ``[B, H, W, 3]``, the head's reward ``[B]``.

        cumulative: the sum of the actions since the context, this one included.
        """
        x_BND = torch.cat([past_BND, self._slot(action, cumulative)], dim=1)
        self._offset = 0
        drawn = self.llama.generate(
            inputs_embeds=x_BND,
            attention_mask=torch.ones(x_BND.shape[:2], dtype=torch.int64, device=x_BND.device),
            max_new_tokens=self.layout.tokens_per_frame,
            do_sample=top_k > 1,
            top_k=top_k if top_k > 1 else None,
            logits_processor=[self.processor],
            return_dict_in_generate=True,
            use_cache=True,
            pad_token_id=0,
        )
        last = self.llama.model.embed_tokens(drawn.sequences[:, -1:])
        seen = self.llama.model(inputs_embeds=last, past_key_values=drawn.past_key_values, use_cache=True)
        assert self.model.transformer.reward_linear is not None
        reward = self.model.transformer.reward_linear(seen.last_hidden_state[:, -1]).squeeze(-1)
        codes = drawn.sequences - self.layout.context_codes
        pixels = self.model.tokenizer.decode_future(codes[:, None], features)[:, 0].clamp(0, 1)
        return codes, pixels.float().mul(255).round().to(torch.uint8).movedim(1, -1), reward

    def _slot(self, action: Tensor, cumulative: Tensor) -> Tensor:
        transformer = self.model.transformer
        return transformer.add_frame_position_embedding(transformer.slot_embedding(action, cumulative), 0)

    def _add_position(self, module: nn.Module, inputs: object, x_B1D: Tensor) -> Tensor:
        """Add the position embedding to each sampled code's embedding."""
        self._offset += 1
        return self.model.transformer.add_frame_position_embedding(x_B1D, self._offset)
