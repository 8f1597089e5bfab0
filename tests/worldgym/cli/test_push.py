"""Uploading a checkpoint: what would be uploaded, and what is refused."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from worldgym.checkpoints import shipped
from worldgym.cli import main
from worldgym.cli.push import ENV_PY


def test_a_dry_run_lists_what_would_be_uploaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(shipped()["metaworld-64"], folder)
    (folder / "work").mkdir()
    (folder / "work" / "private.safetensors").write_bytes(b"recordings")
    assert main(["push", str(folder), "user/mine", "--dry-run"]) == 0
    listed = capsys.readouterr().out
    for name in ("config.json", "tokenizer.safetensors", "README.md", "env.py", "first_frames/hammer.npz"):
        assert name in listed
    assert "private" not in listed
    assert "nothing was uploaded" in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "user/name"], "no checkpoint"),
        (["metaworld-64", "name"], "expected user/name"),
        (["{tiny}", "user/name"], "no model card"),
    ],
)
def test_what_cannot_be_uploaded_is_named(
    arguments: list[str], message: str, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", *(text.format(tiny=tiny_checkpoint) for text in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.endpoint", "http://127.0.0.1:9", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main(["push", "metaworld-64", "user/name"]) == 2
    assert "could not upload to user/name" in capsys.readouterr().err


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_lerobot_finds_the_environment(tiny_checkpoint: Path, tmp_path: Path, use_async_envs: bool) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "env.py").write_text(ENV_PY)
    spec = importlib.util.spec_from_file_location("downloaded_env", folder / "env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    envs = module.make_env(n_envs=2, use_async_envs=use_async_envs)
    observations, infos = envs.reset(seed=[0, 1])
    assert observations["pixels"].shape == (2, 64, 64, 3)
    assert not infos["is_success"].any()
    assert all(name in ("hammer", "plate-slide") for name in envs.call("task_description"))
    assert envs.call("_max_episode_steps") == (None, None)
    observations, rewards, _, _, infos = envs.step(np.zeros((2, 4), np.float32))
    assert observations["pixels"].dtype == np.uint8
    assert rewards.shape == (2,)
    assert infos["is_success"].shape == (2,)
    envs.close()
