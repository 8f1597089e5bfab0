import json
from pathlib import Path

import pytest

from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.errors import ConfigError
from worldgym.reports.card import checkpoint_table, render_card


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": "worldgym", "format_version": 1, "tokenizer": 3})])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        checkpoint_table([tmp_path])


@pytest.mark.parametrize("trained", [{}, {"trained_on": 3}, {"trained_on": {"environment": "Toy"}}])
def test_a_card_without_its_notes_says_what_makes_them(trained: dict[str, object]) -> None:
    config = WorldModelConfig(CompactTokenizerConfig(), TransformerConfig(), training_data=trained)
    with pytest.raises(ConfigError, match=r"`worldgym export` notes it.*`worldgym evaluate`"):
        render_card("toy", config, {"tokenizer": 1, "transformer": 1})
