"""The compiled library: building it, the warning without it, and the checks of pointers."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldgym import native
from worldgym.errors import InvalidBuffer
from worldgym.tokenizer.norm import norm_silu

WARNING = "expected compiled code, got none"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CC", "false", "false cannot compile native.c"),
        ("CC", "no-such-compiler", "No such file or directory: 'no-such-compiler'"),
        ("CC", "a 'torn one", "No closing quotation"),
        ("PATH", "", "found no C compiler"),
        ("XDG_CACHE_HOME", "/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_one_warning_says_why_there_is_no_library(
    unbuilt: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    norm, x = nn.GroupNorm(2, 6), torch.randn(2, 6, 5, 5).to(memory_format=torch.channels_last)
    with pytest.warns(RuntimeWarning, match=WARNING) as warned:
        assert native.library() is None
    assert len(warned) == 1
    assert reason in str(warned[0].message)
    with torch.inference_mode():  # a second warning would be an error
        assert torch.equal(norm_silu(norm, x), F.silu(norm(x)))
    assert not list(unbuilt.glob("*"))


def test_a_user_without_a_home_folder(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(RuntimeWarning, match="home directory"):
        assert native.library() is None


def test_the_switch_silences_the_warning(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    monkeypatch.setenv("PATH", "")
    assert native.library() is None  # a warning would be an error


def test_a_machine_without_a_compiler(unbuilt: Path, tiny_checkpoint: Path) -> None:
    """In a process of its own."""
    code = (
        "import sys, torch; from worldgym.world_model import WorldModel; "
        "model = WorldModel.from_pretrained(sys.argv[1]); frames = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8);"
        "print(model.rollout(frames, torch.zeros(1, 3, 4)).tokens.shape)"
    )
    environment = {**os.environ, "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_checkpoint)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "torch.Size([1, 3, 16])\n"
    assert done.stderr.count(WARNING) == 1


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork, to be fast")
def test_processes_may_build_at_once(
    unbuilt: Path, monkeypatch: pytest.MonkeyPatch, make_compiler: Callable[[str, str], str]
) -> None:
    monkeypatch.setenv("CC", make_compiler("-fopenmp", "-O0"))
    context = multiprocessing.get_context("fork")
    start, built = context.Barrier(2), context.Queue()

    def build() -> None:
        start.wait()
        built.put(native.library() is not None)

    processes = [context.Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    assert [built.get(timeout=60) for _ in processes] == [True] * 2
    for process in processes:
        process.join()
    assert len(list(unbuilt.iterdir())) == 1


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.zeros(6, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(6, dtype=torch.bfloat16), "torch.bfloat16 on cpu"),
        (torch.zeros(6, device="meta"), "torch.float32 on meta"),
        (torch.zeros(5), r"shape \[5\]"),
        (torch.zeros(12)[::2], r"strides \[2\]"),
        (torch.zeros(2, 3).T, r"strides \[1, 3\]"),
    ],
    ids=["wider", "narrower", "device", "size", "strides", "transposed"],
)
def test_a_pointer_is_given_only_to_what_compiled_code_works_on(tensor: torch.Tensor, got: str) -> None:
    with pytest.raises(InvalidBuffer, match=f"weights: expected 6 elements of torch.float32 on cpu .*{got}"):
        native.pointer("weights", tensor, torch.float32, 6)


def test_a_pointer_is_the_address_of_the_first_element() -> None:
    tensor = torch.zeros(4, 3)[2:]
    assert native.pointer("rows", tensor, torch.float32, 6) == tensor.data_ptr()
    maps = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert native.pointer("maps", maps, torch.float32, 96, torch.channels_last) == maps.data_ptr()
    with pytest.raises(InvalidBuffer, match="in channels_last"):
        native.pointer("maps", maps.contiguous(), torch.float32, 96, torch.channels_last)
