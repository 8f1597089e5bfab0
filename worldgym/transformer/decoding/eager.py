"""A frame's positions, one after the other, in operators of PyTorch: slot, then codes, each drawn and read again."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.transformer.llama import Rotary, Transformer
from worldgym.transformer.sampling import entropy, sample_top_k

Attend = Callable[[int, int, Tensor, Tensor, Tensor], Tensor]
"""Of a layer, at a place in the frame: store key and value ``[B, K, 1, E]``; what the query ``[B, H, 1, E]`` finds."""


class Drawn(NamedTuple):
    """Codes int64 ``[B, n]``, mean entropy float32 ``[B]``, last hidden state ``[B, D]``."""

    codes: Tensor
    uncertainty: Tensor
    hidden: Tensor


def draw_codes(
    transformer: Transformer,
    slots_BD: Tensor,
    uniforms: Tensor,
    rotary: Rotary,
    attend: Attend,
    temperature: float,
    top_k: int,
) -> Drawn:
    """All positions of one frame from the slots' embeddings.

    None of its operations waits for the device or depends on what is in a tensor, so that a graph can hold them.

    rotary: cosines and sines of the frame's positions, ``[1 or B, N, E]``.
    """
    layout, model = transformer.layout, transformer.llm.model
    cosines, sines = rotary
    candidates_VD = transformer.llm.lm_head.weight[layout.dynamics_ids]
    x_B1D, codes, entropies = slots_BD[:, None], [], []
    for step in range(layout.step_length):
        x_B1D = transformer.placed_in_frame(x_B1D, step)
        turned = cosines[:, None, step : step + 1], sines[:, None, step : step + 1]
        for index, block in enumerate(model.blocks):
            x_B1D = block.finish(x_B1D, attend(index, step, *block.project(x_B1D, turned)))
        hidden_BD = model.norm(x_B1D.squeeze(1))
        if step < layout.tokens_per_frame:
            logits_BV = F.linear(hidden_BD, candidates_VD)
            codes.append(sample_top_k(logits_BV, uniforms[:, step], temperature, top_k))
            entropies.append(entropy(logits_BV))
            x_B1D = model.embed_tokens(layout.dynamics_id(codes[-1]))[:, None]
    return Drawn(torch.stack(codes, dim=1), torch.stack(entropies, dim=1).mean(dim=1), hidden_BD)
