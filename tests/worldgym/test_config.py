import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgym.config import (
    CompactTokenizerConfig,
    CompressiveTokenizerConfig,
    Sampling,
    TransformerConfig,
    WorldModelConfig,
    from_dict,
    to_dict,
)
from worldgym.errors import ConfigError

TOKENIZERS = st.sampled_from(
    [
        CompressiveTokenizerConfig(),
        CompressiveTokenizerConfig(channels=(32, 64), resolution=32),
        CompactTokenizerConfig(),
    ]
)
CONFIGS = st.builds(
    WorldModelConfig,
    tokenizer=TOKENIZERS,
    transformer=st.builds(TransformerConfig, layers=st.integers(1, 30), max_positions=st.integers(1024, 4096)),
    action_dim=st.integers(0, 9),
    reward=st.booleans(),
    reward_transform=st.sampled_from(["symlog", "identity"]),
    goal_conditioned=st.booleans(),
    frame_skip=st.none() | st.integers(1, 8),
    tasks=st.lists(st.text(), max_size=3).map(tuple),
    sampling=st.builds(Sampling, temperature=st.floats(0.1, 2), top_k=st.integers(1, 500)),
    training_data=st.dictionaries(st.text(), st.integers()),
)


@given(CONFIGS)
def test_a_configuration_survives_json(config: WorldModelConfig) -> None:
    assert from_dict(WorldModelConfig, json.loads(json.dumps(to_dict(config))), "config.json") == config


def values(**changes: Any) -> dict[str, Any]:
    return {**to_dict(WorldModelConfig(CompactTokenizerConfig(), TransformerConfig())), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acton_dim": 4}, "unknown entry 'acton_dim'; did you mean 'action_dim'"),
        ({"action_dim": "4"}, "config.json: action_dim: expected int, got '4'"),
        ({"action_dim": True}, "action_dim: expected int, got True"),
        ({"action_dim": -1}, "action_dim: expected at least 0 (0 is action-free), got -1"),
        ({"action_names": ["x"]}, "action_names: expected 0 names, as many as action_dim, got 1"),
        ({"reward_transform": "log"}, "'symlog' or 'identity', got 'log'"),
        ({"format": None}, "expected format 'worldgym' version 1, got None"),
        ({"format_version": 2}, "version 1, got 'worldgym' version 2"),
        ({"tokenizer": {"type": "compakt"}}, "unknown tokenizer type 'compakt'; did you mean 'compact'"),
        ({"tokenizer": {"type": ["x"]}}, "unknown tokenizer type ['x']"),
        ({"tokenizer": None}, "tokenizer: expected"),
        ({"transformer": {"heads": 0}}, "TransformerConfig.heads: expected values above 0, got 0"),
        ({"transformer": {"heads": 5}}, "hidden_size: expected a multiple of twice the 5 heads, got 768"),
        ({"transformer": {"key_value_heads": 5}}, "heads: expected a multiple of key_value_heads=5, got 12"),
        (
            {"transformer": {"max_positions": 140}},
            "expected at least 146 positions (context 129, future frame 17), got 140",
        ),
        ({"sampling": {"temperature": 0.0}}, "expected temperature above 0"),
    ],
)
def test_contradictions_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(WorldModelConfig, values(**changes), "config.json")


def test_all_problems_are_named_at_once() -> None:
    broken = values(colour="red", reward="yes", transformer={"layers": 1.5, "depth": 3})
    del broken["tokenizer"]
    with pytest.raises(ConfigError) as caught:
        from_dict(WorldModelConfig, broken, "config.json")
    for part in ("'colour'", "reward: expected bool", "layers: expected int", "'depth'", "'tokenizer' is missing"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CompressiveTokenizerConfig(resolution=60),
        lambda: CompressiveTokenizerConfig(channels=(30, 60)),
        lambda: CompressiveTokenizerConfig(channels=()),
        lambda: CompactTokenizerConfig(resolution=65),
        lambda: CompactTokenizerConfig(context_grid=0),
        lambda: CompactTokenizerConfig(context_grid=16),
        lambda: CompactTokenizerConfig(frame_grid=3),
        lambda: CompactTokenizerConfig(resolution=80),
        lambda: CompactTokenizerConfig(width=20),
        lambda: WorldModelConfig(CompactTokenizerConfig(context_length=1), TransformerConfig(), goal_conditioned=True),
        lambda: Sampling(top_k=0),
        lambda: Sampling(temperature=float("nan")),
        lambda: Sampling(temperature="hot"),  # type: ignore[arg-type]
        lambda: Sampling(top_k=1.5),  # type: ignore[arg-type]
        lambda: Sampling(top_k=None),  # type: ignore[arg-type]
    ],
)
def test_impossible_architectures_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_key_value_heads_are_as_many_as_heads_unless_given() -> None:
    assert to_dict(TransformerConfig(heads=16, hidden_size=1024))["key_value_heads"] == 16
    assert TransformerConfig(key_value_heads=4).key_value_heads == 4
