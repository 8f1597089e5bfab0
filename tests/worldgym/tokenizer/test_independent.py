from pathlib import Path

import pytest
import torch

from worldgym.config import IndependentTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.errors import ConfigError
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.independent import IndependentTokenizer
from worldgym.training.losses import tokenizer_loss
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

SMALL = {"resolution": 32, "channels": (8, 8, 16), "layers_per_block": 1, "latent_channels": 4, "norm_groups": 4}


def make(grid: int) -> IndependentTokenizer:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(IndependentTokenizerConfig(**SMALL, codes=20, grid=grid))  # type: ignore[arg-type]
    assert isinstance(tokenizer, IndependentTokenizer)
    torch.nn.init.normal_(tokenizer.quantize.embedding.weight)
    return tokenizer.eval()


@pytest.mark.parametrize("grid", [2, 8])
def test_every_frame_is_encoded_without_any_other(grid: int) -> None:
    tokenizer, clip = make(grid), torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = tokenizer(clip)
        codes, features = tokenizer.encode_context(clip[:, :2])
        future = tokenizer.encode_future(clip[:, 2:], features)
        alone = tokenizer.encode_future(clip[1:, 3:4], features)
        decoded = tokenizer.decode_future(future, features)
    assert codes.shape == (2, 2, grid**2)
    assert torch.equal(codes, out.context_codes)
    assert torch.equal(future, out.dynamics_codes)
    assert torch.equal(alone, future[1:, 1:2])
    torch.testing.assert_close(decoded, out.future)


def test_a_world_model_with_it_imagines_and_is_saved(tmp_path: Path) -> None:
    tokenizer = make(2)
    sizes = TransformerConfig(layers=1, heads=2, hidden_size=16, mlp_size=16, max_positions=tokenizer.layout.length(4))
    config = WorldModelConfig(tokenizer.config, sizes, action_dim=2)
    model = WorldModel(config, tokenizer, Transformer.build(config))
    model.save_pretrained(tmp_path)
    again = WorldModel.from_pretrained(tmp_path)
    frames, actions = torch.randint(256, (3, 2, 32, 32, 3), dtype=torch.uint8), torch.zeros(3, 6, 2)
    made = [each.rollout(frames, actions, top_k=1) for each in (model, again)]
    assert made[0].frames.shape == (3, 6, 32, 32, 3)
    assert torch.equal(made[0].tokens, made[1].tokens)
    state = model.start(frames[:1]).fork(2)
    state.put([1], model.start(frames[1:2]))
    model.step(state, actions[:2, 0])


def test_it_learns() -> None:
    tokenizer = make(8).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    colours = torch.randint(40, 216, (4, 4, 1, 1, 3), generator=torch.Generator().manual_seed(0))
    clip = colours.expand(4, 4, 32, 32, 3).to(torch.uint8)
    losses = []
    for _ in range(30):
        loss, _ = tokenizer_loss(tokenizer, clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tokenizer.update_codebooks()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid: expected a divisor of 8, got 3"):
        IndependentTokenizerConfig(**SMALL, grid=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"IndependentTokenizerConfig\.codes: expected values above 0, got 0"):
        IndependentTokenizerConfig(codes=0)
