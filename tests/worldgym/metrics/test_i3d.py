from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from worldgym.errors import CheckpointError
from worldgym.metrics.i3d import I3D


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return I3D().state_dict()


def test_it_has_the_weights_of_the_public_port(weights: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        model = I3D()
    assert sum(weight.numel() for weight in model.parameters()) == 12_697_264
    assert weights["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert weights["Mixed_5c.b1b.bn.running_var"].shape == (384,)
    assert weights["logits.conv3d.bias"].shape == (400,)
    assert len([name for name in weights if name.startswith("Mixed_")]) == 9 * 6 * 6


def test_shapes_are_those_of_tensorflow() -> None:
    with torch.device("meta"):
        for frames in (9, 16):
            assert I3D()(torch.empty(2, 3, frames, 224, 224)).shape == (2, 400)


def test_the_padding_halves_every_size() -> None:
    from worldgym.metrics.i3d import Unit

    unit = Unit(1, 1, 3, stride=2).eval()
    torch.nn.init.ones_(unit.conv3d.weight)
    counted = unit.conv3d(torch.nn.functional.pad(torch.ones(1, 1, 4, 4, 4), (0, 1) * 3))  # TensorFlow pads behind
    torch.testing.assert_close(unit(torch.ones(1, 1, 4, 4, 4)) * (1 + 1e-3) ** 0.5, counted)


def test_features_of_videos_from_any_readable_file(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "i3d.safetensors")
    older = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "i3d.pt")
    video = torch.randint(256, (1, 9, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = [I3D.from_file(tmp_path / name).features(video) for name in ("i3d.safetensors", "i3d.pt")]
    assert found[0].shape == (1, 400)
    assert torch.equal(*found)
    assert found[0].std() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_files_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({"logits.conv3d.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), tmp_path / "program.pt")
    torch.save([1], tmp_path / "list.pt")
    for name, message in (
        ("other.safetensors", "Conv3d_1a_7x7.conv3d.weight is missing"),
        ("program.pt", "are programs, which are not run"),
        ("list.pt", "expected a state dict of tensors, got list"),
        ("nothing.pt", "not readable as a state dict"),
        ("nothing.safetensors", "is missing: expected the weights of I3D"),
    ):
        with pytest.raises(CheckpointError, match=message):
            I3D.from_file(tmp_path / name)
