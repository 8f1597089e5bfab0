"""A world model's results do not depend on the caller's PyTorch settings, on threads, or on a fork of the process."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldgym import native
from worldgym.world_model import WorldModel, WorldModelState

MakeModel = Callable[..., WorldModel]
TorchSettings = dict[str, Callable[[], AbstractContextManager[object]]]


SETTINGS = (
    "float64",
    "default device",
    "device context",
    "autocast",
    "inference mode",
    "no gradients",
    "deterministic",
)


@pytest.fixture(params=["compiled", "eager"])
def _each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "eager":
        monkeypatch.setattr(native, "library", lambda: None)


def inputs(model: WorldModel) -> tuple[Tensor, Tensor]:
    """Contexts and actions of two rows and six steps: more than the position window holds."""
    generator, side = torch.Generator().manual_seed(1), model.config.resolution
    frames = torch.randint(256, (2, 2, side, side, 3), generator=generator, dtype=torch.uint8, device="cpu")
    return frames, torch.rand(2, 6, 3, generator=generator, dtype=torch.float32, device="cpu")


def step(state: WorldModelState, action: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    _, frame, reward = state.model.step(state, action.repeat(len(state) // 2, 1), 0.8, 9, generator)
    return [frame, reward, state.uncertainty, state.reanchored, state.frames]


def everything(model: WorldModel, folder: Path) -> list[Tensor]:
    """What all methods return."""
    frames, actions = inputs(model)
    results = list(model.rollout(frames, actions, 0.8, 9, torch.Generator("cpu").manual_seed(3))[:4])
    torch.manual_seed(3)
    results += model.rollout(frames, actions[:, :3], decode=False)[:4]
    results.append(model.decode(frames, results[-2]))
    state = model.start(frames)
    for t in range(6):
        results += step(state, actions[:, t], t)
    state.put([1], model.start(frames[:1]).select([0]))
    branches = state.fork(2)
    branches.save(folder / "state.safetensors")
    for each in (branches, state, model.restore(folder / "state.safetensors")):
        results += step(each, actions[:, 0], 9)
    return results


@pytest.mark.usefixtures("_each_path")
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_do_not_change_results(
    make_model: MakeModel, tmp_path: Path, setting: str, torch_settings: TorchSettings
) -> None:
    model = make_model()
    wanted = everything(model, tmp_path)
    with torch_settings[setting]():
        got = everything(model, tmp_path)
    for one, other in zip(got, wanted, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert torch.equal(one, other)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_may_change_between_steps(model: WorldModel, setting: str, torch_settings: TorchSettings) -> None:
    frames, actions = inputs(model)
    plain, state = model.start(frames), model.start(frames)
    for t in range(6):
        with torch_settings[setting]() if t % 2 else nullcontext():
            got = step(state, actions[:, t], t)
        for one, other in zip(got, step(plain, actions[:, t], t), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_do_not_change_what_is_loaded_or_saved(
    model: WorldModel, tmp_path: Path, setting: str, torch_settings: TorchSettings
) -> None:
    model.save_pretrained(tmp_path / "plain")
    with torch_settings[setting]():
        model.save_pretrained(tmp_path / "setting")
        loaded = WorldModel.from_pretrained(tmp_path / "plain")
    again = WorldModel.from_pretrained(tmp_path / "setting")
    assert loaded.fingerprint() == again.fingerprint() == model.fingerprint()
    assert loaded.tokenizer.training is again.tokenizer.training is False
    for one, other in zip(loaded.tokenizer.buffers(), model.tokenizer.buffers(), strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
    (weight,) = [value for name, value in loaded.transformer.named_parameters() if name.endswith("lm_head.weight")]
    (weight.sum() * 2).backward()  # weights are ordinary tensors


@pytest.mark.parametrize("setting", ["inference mode", "no gradients"])
def test_tensors_can_be_used_in_a_loss(model: WorldModel, setting: str, torch_settings: TorchSettings) -> None:
    frames, actions = inputs(model)
    with torch_settings[setting]():
        imagined, state = model.rollout(frames, actions), model.start(frames)
        _, frame, reward = model.step(state, actions[:, 0])
        branch = state.fork(2).select([0, 1])
    kept = [state.frames, state.uncertainty, branch.frames, *state.features.tensors, state.cache.cumulative_action]
    for tensor in (*imagined, frame, reward, *kept):
        scale = torch.ones((), requires_grad=True)
        (scale * tensor).float().nan_to_num().sum().backward()
        assert scale.grad is not None
        assert not tensor.requires_grad
        tensor.add_(0)


MEMORY_SCRIPT = """
import sys, torch
from worldgym.world_model import WorldModel
model = WorldModel.from_pretrained(sys.argv[1])
frames = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
actions = torch.ones(1, 20, 4)
wanted = model.rollout(frames, actions, top_k=1).rewards
for dtype in (torch.bfloat16, torch.float16, torch.float64):
    torch.set_default_dtype(dtype)
    assert torch.equal(model.rollout(frames, actions, top_k=1).rewards, wanted), dtype
    torch.set_default_dtype(torch.float32)
state = model.start(frames)
torch.set_default_device("meta")
for t in range(20):
    assert torch.equal(model.step(state, actions[:, t], top_k=1)[2], wanted[:, t]), t
print("done")
"""


@pytest.mark.native
def test_default_dtypes_and_devices_do_not_corrupt_memory(tiny_checkpoint: Path) -> None:
    """In a process of its own: without explicit dtypes the compiled code writes past the end of buffers."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tiny_checkpoint)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_CHECK_": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def continue_in_child(state: WorldModelState, action: Tensor, results: "multiprocessing.Queue[list[object]]") -> None:
    fresh = state.model.start(state.frames)
    results.put([tensor.numpy() for tensor in step(state, action, 1) + step(fresh, action, 2)])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.usefixtures("_each_path")
def test_a_forked_child_can_step(model: WorldModel, threads_of: Callable[[int], AbstractContextManager[None]]) -> None:
    frames, actions = inputs(model)
    context = multiprocessing.get_context("fork")
    with threads_of(2):
        state = model.start(frames.repeat(4, 1, 1, 1, 1))  # enough rows for several threads
        step(state, actions[:, 0], 0)
        results = context.Queue()
        child = context.Process(target=continue_in_child, args=(state, actions[:, 1], results))
        child.start()
        try:
            got = results.get(timeout=60)
        finally:
            child.kill()
            child.join()
        fresh = model.start(state.frames)
        wanted = step(state, actions[:, 1], 1) + step(fresh, actions[:, 1], 2)
    for one, other in zip(got, wanted, strict=True):  # one thread and two may round differently
        close = {"atol": 1, "rtol": 0} if other.dtype == torch.uint8 else {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(torch.from_numpy(one), other, **close)
