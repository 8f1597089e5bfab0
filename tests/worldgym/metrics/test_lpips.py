from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldgym.errors import CheckpointError
from worldgym.metrics.lpips import LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the documented names. As in LPIPS, the linear ones are not negative."""
    torch.manual_seed(0)
    tensors = {name: value.abs() if name.startswith("lin") else value for name, value in LPIPS().state_dict().items()}
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file({**tensors, "classifier.0.bias": torch.zeros(3)}, path)
    return path


def test_the_names_are_the_documented_ones() -> None:
    names = set(LPIPS().state_dict())
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    expected = {f"features.{index}.{part}" for index in convolutions for part in ("weight", "bias")}
    assert names == expected | {f"lin{index}.weight" for index in range(5)}
    assert LPIPS().state_dict()["features.28.weight"].shape == (512, 512, 3, 3)


def test_it_is_a_distance(weights: Path) -> None:
    model = LPIPS.from_file(weights)
    first, second = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).unbind()
    distance = model(first, second)
    assert distance.shape == (2,)
    assert (distance > 0).all()
    assert torch.equal(model(first, first), torch.zeros(2))
    torch.testing.assert_close(model(second, first), distance)
    near = model(first, first + 0.01 * (second - first))
    assert (near < distance).all()


def test_equals_the_definition_on_the_first_stage_alone(weights: Path) -> None:
    tensors = load_file(weights)
    model = LPIPS.from_file(weights)
    for stage in range(1, 5):
        torch.nn.init.zeros_(model.get_submodule(f"lin{stage}").weight)  # type: ignore[arg-type]
    first, second = torch.rand(2, 1, 3, 16, 16).unbind()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    units = []
    for image in (first, second):
        x = (image - mean[:, None, None]) / deviation[:, None, None]
        for layer in (0, 2):
            x = torch.conv2d(
                x, tensors[f"features.{layer}.weight"], tensors[f"features.{layer}.bias"], padding=1
            ).relu()
        units.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    expected = ((units[0] - units[1]).square() * tensors["lin0.weight"][:, :, 0, 0][..., None, None]).sum(1).mean()
    torch.testing.assert_close(model(first, second)[0], expected)


def test_gradients_reach_the_image_and_not_the_weights(weights: Path) -> None:
    model = LPIPS.from_file(weights)
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    model(image, torch.rand(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_missing_and_misshapen_weights_are_named(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    del tensors["features.5.bias"]
    tensors["lin1.weight"] = torch.zeros(1, 3, 1, 1)
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError) as caught:
        LPIPS.from_file(tmp_path / "broken.safetensors")
    assert "features.5.bias is missing" in str(caught.value)
    assert "lin1.weight has shape [1, 3, 1, 1], expected [1, 128, 1, 1]" in str(caught.value)


def test_weights_and_distances_are_float32_whatever_the_default(weights: Path) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = LPIPS.from_file(weights)
        distance = model(torch.zeros(1, 3, 16, 16, dtype=torch.float32), torch.ones(1, 3, 16, 16, dtype=torch.float32))
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in [distance, *model.parameters(), *model.buffers()]} == {torch.float32}


@pytest.mark.parametrize("name", ["nothing.safetensors", "text.safetensors"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.safetensors").write_text("not weights", encoding="utf-8")
    with pytest.raises(CheckpointError, match=name):
        LPIPS.from_file(tmp_path / name)
