from pathlib import Path
from typing import Any

import pytest
import torch

from worldgym.devices import _left_in_control_group, checked_device, free_memory
from worldgym.errors import ConfigError


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_devices_by_name(name: Any) -> None:
    assert checked_device(name) == torch.device("cpu")


def test_the_default_is_a_gpu_if_there_is_one() -> None:
    assert checked_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "tpu9", "", "cuda:99", "meta:-2", 3.5, ["cpu"]])
def test_devices_that_cannot_be_used(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used here.*give 'cpu'") as caught:
        checked_device(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc/meminfo")
def test_free_memory_of_the_system() -> None:
    text = Path("/proc/meminfo").read_text()
    total = int(next(line.split()[1] for line in text.splitlines() if line.startswith("MemTotal"))) * 1024
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert 2**20 < free < total


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_reserved_by_pytorch_is_free() -> None:
    device = torch.device("cuda:0")
    kept = torch.empty(2**28, dtype=torch.uint8, device=device)
    held = free_memory(device)
    del kept
    free = free_memory(device)
    assert held is not None
    assert free is not None
    assert free - held >= 2**28


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 600\n"}, 100),
        ({"memory.max": "1000", "memory.current": "900", "memory.stat": "active_file 50\ninactive_file 200\n"}, 350),
        ({"memory.max": "max", "memory.current": "900", "memory.stat": "anon 600\n"}, None),
        ({"memory.max": "1000", "memory.stat": "anon 600\n"}, None),
        ({"memory.max": "1000", "memory.current": "?", "memory.stat": "anon 600\n"}, None),
        ({}, None),
    ],
    ids=["limit", "files give way", "no limit", "incomplete", "no number", "no group"],
)
def test_free_memory_of_a_control_group(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert _left_in_control_group(tmp_path) == left
