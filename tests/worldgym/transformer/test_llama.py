from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from worldgym.config import TransformerConfig
from worldgym.errors import InvalidAction
from worldgym.tokens import TokenLayout
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

LAYOUT = TokenLayout(
    context_length=2, tokens_per_context_frame=9, tokens_per_frame=4, context_codes=11, dynamics_codes=13
)
CONFIG = TransformerConfig(layers=2, heads=6, key_value_heads=2, hidden_size=48, mlp_size=64, max_positions=80)


@pytest.fixture(scope="module")
def published(parity: Path) -> WorldModel:
    return WorldModel.from_pretrained(parity)


def hugging_face(model: Transformer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=model.layout.vocab_size,
        hidden_size=model.config.hidden_size,
        intermediate_size=model.config.mlp_size,
        num_hidden_layers=model.config.layers,
        num_attention_heads=model.config.heads,
        num_key_value_heads=model.config.key_value_heads,
        max_position_embeddings=model.config.max_positions,
        rms_norm_eps=model.config.norm_eps,
        attn_implementation="eager",
    )
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.llm.state_dict(), strict=True)
    return other


def tokens(layout: TokenLayout, horizon: int, batch: int = 2) -> torch.Tensor:
    context = torch.randint(layout.context_codes, (batch, layout.context_length, layout.tokens_per_context_frame))
    return layout.sequence(context, torch.randint(layout.dynamics_codes, (batch, horizon, layout.tokens_per_frame)))


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (TransformerConfig(), 138.438913),
        (TransformerConfig(layers=24, heads=16, key_value_heads=16, hidden_size=1024, mlp_size=4096), 436.268033),
    ],
)
def test_the_published_sizes(config: TransformerConfig, millions: float) -> None:
    with torch.device("meta"):
        model = Transformer(config, TokenLayout(2), action_dim=4, reward=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == round(millions * 1e6)


def test_parameters_have_the_published_names() -> None:
    names = Transformer(CONFIG, LAYOUT, 3, reward=True).state_dict().keys()
    outside = {name for name in names if not name.startswith("llm.model.layers.")}
    assert outside == {
        "llm.model.embed_tokens.weight",
        "llm.model.norm.weight",
        "llm.lm_head.weight",
        "action_linear.weight",
        "action_linear.bias",
        "reward_linear.weight",
        "reward_linear.bias",
    }
    assert not any("action" in name or "reward" in name for name in Transformer(CONFIG, LAYOUT).state_dict())


@torch.no_grad()
def test_logits_equal_those_of_hugging_face() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG, LAYOUT).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = tokens(LAYOUT, 3)
    torch.testing.assert_close(model(ids).logits, hugging_face(model)(ids).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_forward_pass_equals_the_reference(published: WorldModel, expected: dict[str, torch.Tensor]) -> None:
    layout = published.layout
    out = published.transformer(expected["tokens"], expected["action"][:, 1:4])
    torch.testing.assert_close(out.logits, expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.rewards, expected["reward"].squeeze(-1), atol=1e-4, rtol=0)
    labels = expected["tokens"].clone()
    labels[:, : layout.prefix_length + 1] = -100  # no loss on the context
    assert torch.equal(labels, expected["labels"])
    loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss[None], expected["ce_loss"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_action_free_generation_of_the_reference(published: WorldModel, expected: dict[str, torch.Tensor]) -> None:
    """The reference treats id 0 as padding: it leaves out such prompt tokens and their positions."""
    trained, layout = published.transformer, published.layout
    bare = Transformer(trained.config, layout).eval()
    bare.load_state_dict({key: value for key, value in trained.state_dict().items() if key.startswith("llm.")})
    prompt_length = layout.prefix_length + 1
    for sequence in expected["action_free_tokens"]:
        prompt, wanted = sequence[:prompt_length], sequence[prompt_length:]
        ids = prompt[prompt != 0][None]
        for _ in wanted:
            ids = torch.cat([ids, bare(ids, logits_from=ids.shape[1] - 1).logits.argmax(-1)], dim=1)
        assert torch.equal(ids[0, -len(wanted) :], wanted)


def test_new_actions_have_no_effect_and_trained_ones_only_on_later_positions() -> None:
    torch.manual_seed(0)
    model, ids = Transformer(CONFIG, LAYOUT, 3).eval(), tokens(LAYOUT, 3)
    actions = torch.randn(2, 3, 3)
    before = model(ids, actions).logits
    torch.testing.assert_close(before, model(ids, torch.zeros_like(actions)).logits)
    assert model.action_linear is not None
    torch.nn.init.normal_(model.action_linear.weight)
    changed = actions.clone()
    changed[:, 1] += 1
    first, second = model(ids, actions).logits, model(ids, changed).logits
    slot = int(LAYOUT.slot_positions(3)[1])
    assert torch.equal(first[:, :slot], second[:, :slot])
    assert not torch.allclose(first[:, slot], second[:, slot])


def test_logits_from_a_position_on() -> None:
    model, ids = Transformer(CONFIG, LAYOUT, reward=True).eval(), tokens(LAYOUT, 2)
    whole, part = model(ids), model(ids, logits_from=LAYOUT.prefix_length)
    assert part.logits.shape == (2, ids.shape[1] - LAYOUT.prefix_length, LAYOUT.vocab_size)
    torch.testing.assert_close(part.logits, whole.logits[:, LAYOUT.prefix_length :])
    assert whole.rewards is not None
    assert whole.rewards.shape == (2, 2)
    cut = model(ids[:, :-1]).rewards
    assert cut is not None
    torch.testing.assert_close(cut, whole.rewards[:, :1])


def test_dropout_in_training_mode_only() -> None:
    torch.manual_seed(0)
    model, ids = Transformer(CONFIG, LAYOUT), tokens(LAYOUT, 1)
    model.dropout = 0.5
    assert not torch.allclose(model(ids).hidden, model(ids).hidden)
    model.eval()
    assert torch.equal(model(ids).hidden, model(ids).hidden)


@pytest.mark.parametrize(
    ("action_dim", "actions", "message"),
    [
        (3, None, r"expected actions of shape \(2, 2, 3\), one for each future frame, got none"),
        (3, torch.zeros(2, 1, 3), r"got shape \(2, 1, 3\)"),
        (3, torch.zeros(2, 2, 4), r"got shape \(2, 2, 4\)"),
        (0, torch.zeros(2, 2, 3), "expected no actions for an action-free model"),
    ],
)
def test_actions_that_do_not_fit_are_refused(action_dim: int, actions: torch.Tensor | None, message: str) -> None:
    with pytest.raises(InvalidAction, match=message):
        Transformer(CONFIG, LAYOUT, action_dim)(tokens(LAYOUT, 2), actions)
