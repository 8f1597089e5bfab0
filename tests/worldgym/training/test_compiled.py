"""Training with torch.compile."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from worldgym.data.recordings import Recordings
from worldgym.errors import TrainingError
from worldgym.runs.log import read_metrics
from worldgym.training.compiled import compiler_errors
from worldgym.training.recipe import Recipe, TransformerRecipe
from worldgym.training.runs import train_transformer
from worldgym.training.transformer import TransformerTrainer

CPU = torch.device("cpu")


def with_compile(recipe: Recipe) -> TransformerRecipe:
    job = dataclasses.replace(recipe.transformer.job, compile=True, head_batches=8)
    return dataclasses.replace(recipe.transformer, job=job)


def test_a_machine_without_a_compiler_is_named() -> None:
    def refuse(graph: object, inputs: object) -> Callable[..., object]:
        raise InvalidCxxCompiler

    compiled = torch.compile(lambda tensor: tensor + 1, backend=refuse)
    with (
        pytest.raises(TrainingError, match=r"No working C\+\+ compiler.*or train without --job.compile"),
        compiler_errors(),
    ):
        compiled(torch.ones(1))


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), compiler_errors():
        raise ZeroDivisionError


@pytest.mark.slow  # compiles for a minute
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # of PyTorch itself
def test_compiled_training_is_close_to_the_plain_one_and_resumes_exactly(
    recipe: Recipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
    interrupted: Callable[[type, int], None],
    assert_equal_runs: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    data, compiled = (tokenizer_run, recordings, held_out), with_compile(recipe)
    job = dataclasses.replace(compiled.job, dropout=0.0)
    compiled = dataclasses.replace(compiled, job=job)
    plain = dataclasses.replace(compiled, job=dataclasses.replace(job, compile=False))
    train_transformer(plain, *data, tmp_path / "plain", CPU)
    train_transformer(compiled, *data, tmp_path / "unbroken", CPU)
    curves = [
        [line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line] for name in ("plain", "unbroken")
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    interrupted(TransformerTrainer, 3)
    train_transformer(compiled, *data, tmp_path / "broken", CPU)
    train_transformer(compiled, *data, tmp_path / "broken", CPU, resume=True)
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")
