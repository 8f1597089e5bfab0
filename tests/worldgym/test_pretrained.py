import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import worldgym.checkpoints
from worldgym import pretrained
from worldgym.errors import CheckpointError, ConfigError, StorageError
from worldgym.pretrained import CONFIG, TOKENIZER, TRANSFORMER, locate, transformer_from_published
from worldgym.world_model import WorldModel

MakeModel = Callable[..., WorldModel]
PUBLISHED_TRANSFORMER = Path("transformer/model.safetensors")


def tensors(model: WorldModel) -> dict[str, Tensor]:
    parts = {"tokenizer": model.tokenizer, "transformer": model.transformer}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


@pytest.fixture
def saved(model: WorldModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def published(parity: Path, tmp_path: Path) -> Path:
    """A copy of the folder in the published layout, to be damaged."""
    shutil.copytree(parity, tmp_path / "published", ignore=shutil.ignore_patterns("expected*"))
    return tmp_path / "published"


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    values = load_file(path)
    change(values)
    save_file(values, path)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        WorldModel.from_pretrained(folder)
    return str(caught.value)


def test_saving_and_loading_is_exact(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(tasks=("hammer",), frame_skip=2, action_names=("x", "y", "z"), training_data={"episodes": 3})
    model.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [CONFIG, TOKENIZER, TRANSFORMER]
    again = WorldModel.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config
    wanted, got = tensors(model), tensors(again)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    frames = torch.randint(256, (1, 2, 32, 32, 3), dtype=torch.uint8)
    first, second = (each.rollout(frames, torch.zeros(1, 2, 3), top_k=1) for each in (model, again))
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.rewards, second.rewards)
    again.tokenizer.train()
    again.tokenizer(torch.rand(1, 3, 3, 32, 32))  # buffers that are not stored exist, so training can continue


def test_half_precision_on_disk_loads_as_float32(model: WorldModel, tmp_path: Path) -> None:
    """Matrices and kernels are stored in half precision; vectors, which are small, are not."""
    model.save_pretrained(tmp_path, dtype=torch.float16)
    stored = {**load_file(tmp_path / TOKENIZER), **load_file(tmp_path / TRANSFORMER)}
    assert all(value.dtype == (torch.float16 if value.ndim > 1 else torch.float32) for value in stored.values())
    again = WorldModel.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    wanted = tensors(model)
    for key, value in tensors(again).items():
        assert torch.equal(value, wanted[key].half().float() if value.ndim > 1 else wanted[key])
    for dtype in (torch.bfloat16, "bfloat16"):
        assert WorldModel.from_pretrained(tmp_path, dtype=dtype).dtype == torch.bfloat16


@pytest.mark.parametrize("option", [{"device": "gpu"}, {"dtype": "bfloat61"}, {"dtype": torch.int8}])
def test_unknown_devices_and_dtypes_are_refused(saved: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(*option.values())):
        WorldModel.from_pretrained(saved, **option)


def test_saving_again_replaces_the_weights_and_keeps_other_files(make_model: MakeModel, saved: Path) -> None:
    (saved / "README.md").write_text("kept")
    make_model(action_dim=2).save_pretrained(saved)
    assert WorldModel.from_pretrained(saved).config.action_dim == 2
    assert (saved / "README.md").read_text() == "kept"
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_failure_at_any_point_keeps_the_earlier_checkpoint(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and each flush of saving fails once, until saving succeeds."""
    folder, old, new = tmp_path / "run", make_model(), make_model(action_dim=2)
    old.save_pretrained(folder)
    (folder / "README.md").write_text("kept")
    count = failing = 0

    def fails_once(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*arguments)

        return call

    monkeypatch.setattr(Path, "replace", fails_once(Path.replace))
    monkeypatch.setattr(os, "fsync", fails_once(os.fsync))
    while count >= failing:
        count, failing = 0, failing + 1
        with suppress(StorageError):
            new.save_pretrained(folder)
        wanted = old if count >= failing else new
        assert WorldModel.from_pretrained(folder).fingerprint() == wanted.fingerprint()
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG, TOKENIZER, TRANSFORMER]
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert failing > 10


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_no_incomplete_file(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    folder = tmp_path / "run"
    if existing:
        make_model().save_pretrained(folder)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*GB are free on the disk of"):
            make_model(action_dim=2).save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if existing else [])
    if existing:
        assert WorldModel.from_pretrained(folder).config.action_dim == 3


def test_the_published_layout_describes_itself(parity: Path) -> None:
    config = WorldModel.from_pretrained(parity).config
    assert (config.action_dim, config.reward, config.reward_transform) == (4, True, "symlog")
    assert (config.context_length, config.resolution) == (2, 64)
    assert (config.frame_skip, config.tasks) == (None, ())


def test_a_published_folder_is_goal_conditioned_by_its_name(published: Path, saved: Path) -> None:
    named = published.rename(published.with_name("ivideogpt-goal-cond"))
    assert WorldModel.from_pretrained(named).config.goal_conditioned
    assert not WorldModel.from_pretrained(named, goal_conditioned=False).config.goal_conditioned
    plain = named.rename(published)
    assert not WorldModel.from_pretrained(plain).config.goal_conditioned
    assert WorldModel.from_pretrained(plain, goal_conditioned=True).config.goal_conditioned
    assert not WorldModel.from_pretrained(saved, goal_conditioned=False).config.goal_conditioned
    with pytest.raises(CheckpointError, match="goal_conditioned: saved False, requested True"):
        WorldModel.from_pretrained(saved, goal_conditioned=True)


def test_an_action_free_published_checkpoint(published: Path) -> None:
    def bare(values: dict[str, Tensor]) -> None:
        for key in list(values):
            value = values.pop(key)
            if key.startswith("llm."):
                values[key[4:]] = value

    before = load_file(published / PUBLISHED_TRANSFORMER)
    rewrite(published / PUBLISHED_TRANSFORMER, bare)
    model = WorldModel.from_pretrained(published)
    assert (model.config.action_dim, model.config.reward) == (0, False)
    assert torch.equal(model.transformer.llm.lm_head.weight, before["llm.lm_head.weight"])


def test_unused_published_tensors_are_ignored(published: Path) -> None:
    def add(values: dict[str, Tensor]) -> None:
        values["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
        values["action_recon_linear.weight"] = torch.ones(4, 48)

    before = WorldModel.from_pretrained(published).transformer.state_dict()
    rewrite(published / PUBLISHED_TRANSFORMER, add)
    after = WorldModel.from_pretrained(published).transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_all_faults_of_tensors_are_named_at_once(saved: Path) -> None:
    def spoil(values: dict[str, Tensor]) -> None:
        del values["llm.model.norm.weight"]
        values["llm.model.norm.wieght"] = torch.ones(32)
        values["llm.lm_head.weight"] = values["llm.lm_head.weight"][:-1].clone()
        values["reward_linear.bias"] = torch.tensor([float("nan")])
        values["action_linear.bias"] = torch.zeros(32, dtype=torch.int64)

    rewrite(saved / TRANSFORMER, spoil)

    def drop(values: dict[str, Tensor]) -> None:
        del values["quant_conv.bias"]

    rewrite(saved / TOKENIZER, drop)
    message = refusal(saved)
    for part in (
        "transformer: tensor 'llm.model.norm.weight' is missing",
        "transformer: tensor 'llm.model.norm.wieght' is unknown",
        "transformer: tensor 'llm.lm_head.weight' has shape [45, 32], expected [46, 32]",
        "transformer: tensor 'reward_linear.bias' holds values that are not finite",
        "transformer: tensor 'action_linear.bias' is torch.int64, expected torch.float32",
        "tokenizer: tensor 'quant_conv.bias' is missing",
        str(saved),
    ):
        assert part in message


def test_a_published_checkpoint_without_its_action_weights_is_refused(published: Path) -> None:
    def drop(values: dict[str, Tensor]) -> None:
        del values["action_linear.weight"], values["action_linear.bias"]

    rewrite(published / PUBLISHED_TRANSFORMER, drop)
    assert "tensor 'action_linear.weight' is missing" in refusal(published)


@pytest.mark.parametrize("name", [TOKENIZER, TRANSFORMER])
def test_a_damaged_file_is_named(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 8 + whole[8:], whole[:8] + b"x" + whole[9:]):
        (saved / name).write_bytes(damaged)
        assert f"{name} is damaged or not a safetensors file" in refusal(saved)
    (saved / name).unlink()
    assert f"{name} is missing" in refusal(saved)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", [TOKENIZER, TRANSFORMER])
def test_a_flipped_bit_is_found(model: WorldModel, tmp_path: Path, name: str, dtype: torch.dtype | None) -> None:
    model.save_pretrained(tmp_path, dtype=dtype)
    WorldModel.from_pretrained(tmp_path)
    payload = bytearray((tmp_path / name).read_bytes())
    payload[-100] ^= 1
    (tmp_path / name).write_bytes(payload)
    assert f"{name} is damaged or was changed after it was saved" in refusal(tmp_path)


def test_a_transformer_beside_another_tokenizer_is_refused(model: WorldModel, saved: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        model.tokenizer.codebooks()[0][0] += 1
    model.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / TOKENIZER, saved / TOKENIZER)
    assert f"{TRANSFORMER} was saved with another tokenizer than {TOKENIZER}" in refusal(saved)


def test_damage_of_several_files_is_named_at_once(saved: Path) -> None:
    (saved / TOKENIZER).write_bytes(b"")
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**config, "colour": 1, "action_dim": "three"}))
    message = refusal(saved)
    for part in ("tokenizer.safetensors is damaged", "unknown entry 'colour'", "action_dim: expected int"):
        assert part in message


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_configuration_is_named(saved: Path, text: str) -> None:
    (saved / CONFIG).write_text(text)
    assert CONFIG in refusal(saved)


@pytest.mark.parametrize("name", ["tokenizer/config.json", "transformer/config.json"])
def test_a_published_folder_without_a_configuration_is_refused(published: Path, name: str) -> None:
    (published / name).unlink()
    assert f"{name} is missing" in refusal(published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', the only form implemented, got 'gelu'"),
        ({"attention_bias": True}, "attention_bias: expected False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: expected False"),
        ({"head_dim": 16}, "head_dim: expected 12"),
        ({"rope_parameters": [1]}, r"expected a JSON object, got \[1\]"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type: expected 'default', the only form implemented"),
        ({"hidden_size": None}, "entry 'hidden_size' is missing"),
        ({"num_hidden_layers": "2"}, "layers: expected int, got '2'"),
    ],
)
def test_a_published_transformer_of_another_kind_is_refused(parity: Path, change: dict[str, Any], message: str) -> None:
    values = json.loads((parity / "transformer" / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        transformer_from_published({**values, **change}, "transformer/config.json")


def test_an_older_published_transformer_is_read() -> None:
    """As written before rotary parameters had an entry of their own."""
    config = transformer_from_published(
        {
            "hidden_act": "silu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "max_position_embeddings": 1024,
            "model_type": "llama",
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "rope_theta": 500.0,
            "rope_scaling": None,
        },
        "config.json",
    )
    assert (config.key_value_heads, config.rope_theta, config.norm_eps) == (12, 500.0, 1e-6)


def test_a_folder_of_neither_layout_is_refused(tmp_path: Path) -> None:
    assert "an empty folder" in refusal(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"")
    assert "got ['model.pt']" in refusal(tmp_path)


def test_shipped_names_come_first_and_unknown_ones_get_a_hint(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "shipped", lambda: {"metaworld-64": saved})
    assert locate("metaworld-64") == saved
    assert locate(saved) == saved
    with pytest.raises(CheckpointError, match="did you mean 'metaworld-64'"):
        locate("metaworl-64")
    with pytest.raises(CheckpointError, match="a folder that exists"):
        locate(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="revision 'main' belongs to a Hugging Face Hub id"):
        locate("metaworld-64", revision="main")


def test_a_hub_id_is_downloaded_in_part(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = WorldModel.from_pretrained("thuml/ivideogpt-x", revision="v1")
    assert (asked["name"], asked["revision"], model.config.goal_conditioned) == ("thuml/ivideogpt-x", "v1", False)
    assert WorldModel.from_pretrained("thuml/ivideogpt-oxe-64-goal-cond").config.goal_conditioned
    assert "transformer/model.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in asked["allow_patterns"])


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"expected a folder 'thuml/nothing' or .*Check the id, the connection"):
        locate("thuml/nothing")


def test_the_registry_lists_the_shipped_folders() -> None:
    known = worldgym.checkpoints.shipped()
    assert all((folder / CONFIG).is_file() for folder in known.values())
    for name, folder in known.items():
        assert worldgym.checkpoints.path(name) == folder
    with pytest.raises(KeyError, match="got 'nothing'"):
        worldgym.checkpoints.path("nothing")


def test_importing_worldgym_is_light() -> None:
    code = "import sys, worldgym; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
