import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldgym.config import TransformerConfig
from worldgym.errors import CheckpointError, StorageError
from worldgym.world_model import WorldModel, WorldModelState

MakeModel = Callable[..., WorldModel]
WINDOW = 4  # the tiny model's window holds four imagined frames
CUMULATIVE = TransformerConfig(
    layers=2,
    heads=4,
    key_value_heads=2,
    hidden_size=32,
    mlp_size=48,
    max_positions=129 + 5 * WINDOW + 3,
    cumulative_actions=True,
    place_embeddings=True,
)


def started(model: WorldModel, batch: int = 3) -> WorldModelState:
    side, generator = model.config.resolution, torch.Generator().manual_seed(1)
    shape = (batch, model.config.context_length, side, side, 3)
    return model.start(torch.randint(256, shape, generator=generator, dtype=torch.uint8))


def step(state: WorldModelState, seed: int) -> tuple[torch.Tensor, ...]:
    """One frame of every row and everything that a step reports."""
    model, generator = state.model, torch.Generator().manual_seed(seed)
    width = model.config.action_dim
    action = torch.rand(len(state), width, generator=generator) * 2 - 1 if width else None
    _, frame, reward = model.step(state, action, 0.8, 9, generator)
    return frame, reward.nan_to_num(), state.uncertainty, state.reanchored, state.frames


def unaligned(model: WorldModel) -> WorldModelState:
    """Rows that are one, two and three frames from their start."""
    state = started(model)
    step(state, 0)
    state.put([1], started(model, 1))
    step(state, 1)
    state.put([2], started(model, 1))
    step(state, 2)
    return state


def forked(model: WorldModel) -> WorldModelState:
    state = unaligned(model).fork(2)
    step(state, 3)
    return state


@pytest.mark.parametrize("make", [started, unaligned, forked, lambda model: forked(model).select([5, 0, 0])])
@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, torch.float32),
        ({}, torch.bfloat16),
        ({"action_dim": 0, "reward": False}, torch.float32),
        ({"goal_conditioned": True, "transformer": CUMULATIVE}, torch.float32),
    ],
    ids=["float32", "bfloat16", "action-free", "cumulative actions and a goal"],
)
def test_a_restored_state_continues_exactly(
    make_model: MakeModel,
    tmp_path: Path,
    make: Callable[[WorldModel], WorldModelState],
    changes: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    """The model that restores is another object; steps continue beyond the end of the position window."""
    state = make(make_model(**changes).to(dtype=dtype))
    state.save(tmp_path / "state.safetensors")
    restored = make_model(**changes).to(dtype=dtype).restore(tmp_path / "state.safetensors")
    assert restored.cache.lengths == state.cache.lengths
    assert (restored.cache.capacity, restored.cache.dtype) == (state.cache.capacity, dtype)
    for name in ("frames", "uncertainty", "reanchored"):
        assert torch.equal(getattr(restored, name), getattr(state, name))
    for seed in range(10, 10 + WINDOW + 2):
        for got, wanted in zip(step(restored, seed), step(state, seed), strict=True):
            assert torch.equal(got, wanted)


def test_saving_changes_nothing(model: WorldModel, tmp_path: Path) -> None:
    trunk = unaligned(model)
    state, other = trunk.fork(4), trunk.fork(4)
    size = state.nbytes
    state.save(tmp_path / "one.safetensors")
    assert state.cache.prefix is not None
    assert state.nbytes == size
    for got, wanted in zip(step(state, 5), step(other, 5), strict=True):
        assert torch.equal(got, wanted)


def test_a_file_contains_filled_positions_only(model: WorldModel, tmp_path: Path) -> None:
    """Saving a restored state gives the same file."""
    state, path = started(model), tmp_path / "state.safetensors"
    state.save(path)
    early = path.stat().st_size
    for seed in range(WINDOW):
        step(state, seed)
    state.save(path)
    assert path.stat().st_size > early
    again = tmp_path / "again.safetensors"
    model.restore(path).save(again)
    assert again.stat().st_size == path.stat().st_size
    for name, tensor in load_file(path).items():
        torch.testing.assert_close(load_file(again)[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_models_of_equal_weights_have_equal_fingerprints(make_model: MakeModel) -> None:
    model = make_model()
    fingerprint = model.fingerprint()
    assert make_model().fingerprint() == fingerprint
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert model.fingerprint() == fingerprint
    torch.set_num_threads(threads)


def swap_two_weights(model: WorldModel) -> WorldModel:
    weight = model.transformer.llm.lm_head.weight.data
    weight[:2] = weight[:2].flip(0)
    return model


def nudge_one_weight(model: WorldModel) -> WorldModel:
    weight = model.tokenizer.state_dict()["quantize.embedding.weight"]
    weight[0, 0] = weight[0, 0].nextafter(torch.tensor(9.0))
    return model


OTHERS: list[Callable[[MakeModel], WorldModel]] = [
    lambda make_model: swap_two_weights(make_model()),
    lambda make_model: nudge_one_weight(make_model()),
    lambda make_model: make_model().to(dtype=torch.bfloat16),
    lambda make_model: make_model(reward_transform="identity"),
    lambda make_model: make_model(goal_conditioned=True),
    lambda make_model: make_model(action_dim=4),
]


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_is_refused(
    make_model: MakeModel, tmp_path: Path, other: Callable[[MakeModel], WorldModel]
) -> None:
    started(make_model()).save(tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="other weights or precision; restore it with that one"):
        other(make_model).restore(tmp_path / "state.safetensors")


def test_a_damaged_file_is_refused(model: WorldModel, tmp_path: Path) -> None:
    """Truncated at several places, or with one byte changed, in the header or in the tensors."""
    path = tmp_path / "state.safetensors"
    started(model, 1).save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    tensors = range(header, len(whole), len(whole) // 40)
    damaged = [whole[:length] for length in (0, 7, 100, header, *tensors, len(whole) - 1)]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :]
        for place in itertools.chain(range(0, header, 7), tensors)
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"state\.safetensors"):
            model.restore(path)
    path.write_bytes(whole)
    assert len(model.restore(path)) == 1


def test_other_files_are_refused(model: WorldModel, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a state")
    save_file({"frames": torch.zeros(1)}, tmp_path / "tensors")
    save_file({"frames": torch.zeros(1)}, tmp_path / "format", {"format": "worldgym-state-0"})
    for name, message in {
        "text": "damaged or not a saved state",
        "none": "is missing: expected a saved state",
        ".": "damaged or not a saved state",
        "tensors": "expected a saved state of format .*, got format None",
        "format": "got format 'worldgym-state-0'",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            model.restore(tmp_path / name)


def test_a_file_that_cannot_be_written(model: WorldModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not write"):
        started(model, 1).save(tmp_path / "file" / "state.safetensors")
    state = started(model, 1)
    state.save(str(tmp_path / "deep" / "er" / "state.safetensors"))
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["state.safetensors"]
