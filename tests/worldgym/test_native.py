"""The compiled library: which compilers will do, and what is said and done without it."""

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
from worldgym.tokenizer.norm import norm_silu

SAID = "worldgym: imagining without compiled code"


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
def test_why_there_is_no_library_is_said_once(
    unbuilt: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    reason: str,
) -> None:
    monkeypatch.setenv(variable, value)
    norm, x = nn.GroupNorm(2, 6), torch.randn(2, 6, 5, 5).to(memory_format=torch.channels_last)
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(norm_silu(norm, x), F.silu(norm(x)))
    said = capfd.readouterr().err
    assert said.count(SAID) == len(said.splitlines()) == 1
    assert reason in said
    assert not list(unbuilt.glob("*"))


def test_a_user_without_a_home_imagines_plainly(
    unbuilt: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert native.library() is None
    assert "home directory" in capfd.readouterr().err


def test_the_switch_silences(unbuilt: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    monkeypatch.setenv("PATH", "")
    assert native.library() is None
    assert capfd.readouterr().err == ""


def test_a_machine_without_a_compiler_imagines_all_the_same(unbuilt: Path, tiny_checkpoint: Path) -> None:
    """In a process of its own, from the shell's point of view."""
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
    assert done.stderr.count(SAID) == len(done.stderr.splitlines()) == 1


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
