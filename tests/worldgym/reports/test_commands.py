from typing import Any

import pytest

from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig, WorldModelConfig
from worldgym.reports.commands import training_commands


def summary(episodes: dict[str, dict[str, int]], seeds: dict[str, Any]) -> dict[str, Any]:
    return {"environment": "Simulator-X-v0", "look": "fast", "episodes": episodes, "seeds": seeds}


def commands(**training_data: dict[str, Any]) -> list[str]:
    sampling = Sampling(0.5, 20)
    config = WorldModelConfig(
        CompactTokenizerConfig(), TransformerConfig(), sampling=sampling, training_data=training_data
    )
    return list(training_commands("mine", config))


HELD_OUT = summary({"push": {"expert": 2}}, {"push": {"expert": "1000-1001"}})


def test_tasks_with_equal_counts_are_collected_together() -> None:
    counts = {"push": {"random": 1, "expert": 2}, "pull": {"expert": 2, "random": 1}, "a/b c": {"expert": 2}}
    seeds = {"push": {"random": "5", "expert": "5-6"}, "pull": {"expert": "5-6", "random": "5"}}
    found = commands(trained_on=summary(counts, {**seeds, "a/b c": {"expert": "5-6"}}), held_out=HELD_OUT)
    assert found == [
        "worldgym collect --out data/train --tasks push pull --episodes expert=2,random=1 --seed 5 --look fast",
        "worldgym collect --out data/train --tasks 'a/b c' --episodes expert=2 --seed 5 --look fast",
        "worldgym collect --out data/held-out --tasks push --episodes expert=2 --seed 1000 --look fast",
        "worldgym train tokenizer --recipe mine --data data/train --held-out data/held-out --out runs/tokenizer",
        "worldgym train transformer --recipe mine --tokenizer runs/tokenizer --data data/train "
        "--held-out data/held-out --out runs/transformer",
        "worldgym export --tokenizer runs/tokenizer --transformer runs/transformer --held-out data/held-out "
        "--temperature 0.5 --top-k 20 --out checkpoints/mine",
        "worldgym evaluate --checkpoint checkpoints/mine --data data/held-out --write-card",
    ]


def test_a_policy_has_to_be_named() -> None:
    known = summary({"push": {"policy": 2, "random": 1}}, {"push": {"policy": "5-6", "random": "5"}})
    found = commands(trained_on=known, held_out=HELD_OUT)
    assert found[0].endswith("--episodes random=1 --seed 5 --look fast")
    assert found[1].startswith("# POLICY: who acted")
    assert found[2].endswith("--episodes 2 --policy POLICY --seed 5 --look fast")


@pytest.mark.parametrize("seeds", ["0-1, 5", "1-2", "0"])
def test_selected_recordings_are_not_collected_again(seeds: str) -> None:
    counts = {"push": {"expert": 3, "random": 1}}
    found = commands(trained_on=summary(counts, {"push": {"expert": seeds, "random": "0"}}), held_out=HELD_OUT)
    assert found[0] == "# data/train: recordings of Simulator-X-v0, selected; config.json lists their seeds"
    assert found[1].startswith("worldgym collect --out data/held-out")
