"""Evaluation on a Ray cluster of two machines, which are node processes here, gives the figures of a run without."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import save_file

from worldgym.cli import main
from worldgym.cluster import TRIES, map_ordered
from worldgym.data.recordings import Recordings
from worldgym.envs.collect import collect
from worldgym.errors import DataError
from worldgym.metrics.lpips import LPIPS
from worldgym.reports.protocol import Protocol, Scorer, run_protocol
from worldgym.world_model import WorldModel

pytestmark = pytest.mark.other_simulator  # a minute, for starting clusters

MACHINE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args=MACHINE)
    cluster.add_node(**MACHINE, num_gpus=1)  # Ray takes our word for it
    yield cluster
    cluster.shutdown()


def run(command: str) -> int:
    return main(command.split())


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def assert_close(found: Any, expected: Any) -> None:
    """Equal but for rounding: products of matrices depend on where in memory a process has them."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == expected


def test_results_come_in_order_though_the_first_is_the_last_to_be_there(cluster: Cluster, tmp_path: Path) -> None:
    def late(item: int) -> int:
        (tmp_path / f"{item}").touch()
        while item == 0 and not (tmp_path / "3").exists():
            time.sleep(0.01)
        return item**2

    assert list(map_ordered(late, range(4), cluster.address)) == [0, 1, 4, 9]
    assert list(map_ordered(lambda item: -item, range(3))) == [0, -1, -2]
    assert not ray.is_initialized()


def test_workers_get_a_gpu_if_they_compute_on_one(cluster: Cluster) -> None:
    def devices(_: int) -> tuple[str, str | None]:
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")

    (machine,) = cluster.worker_nodes
    assert list(map_ordered(devices, range(3), cluster.address, "cuda")) == [(machine.node_id, "0")] * 3
    assert {shown for _, shown in map_ordered(devices, range(4), cluster.address, "cpu")} <= {"", None}


def test_work_of_a_killed_worker_is_repeated_but_not_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    def killed_once(item: int) -> int:
        if not (tmp_path / f"{item}").exists():
            (tmp_path / f"{item}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    assert list(map_ordered(killed_once, range(2), cluster.address)) == [0, 1]
    with pytest.raises(DataError, match=f"a process of the cluster died {TRIES} times at the same work"):
        list(map_ordered(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0], cluster.address))


def test_returns_are_those_of_a_run_without(cluster: Cluster, toy_checkpoint: Path, tmp_path: Path) -> None:
    command = f"returns --checkpoint {toy_checkpoint} --episodes 2 --device cpu --out {tmp_path}"
    assert run(f"{command}/here.json") == 0
    assert run(f"{command}/ray.json --ray {cluster.address}") == 0
    here, there = read(tmp_path / "here.json"), read(tmp_path / "ray.json")
    assert list(here["returns"]["toy"]) == ["random", "expert"]
    assert_close(there["returns"], here["returns"])
    assert there["machine"] == f"Ray cluster {cluster.address}"


def test_an_error_of_a_worker_is_told_as_here(
    cluster: Cluster, toy_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = f"returns --checkpoint {toy_checkpoint} --behaviours expart --out {tmp_path}/a.json"
    assert run(f"{command} --ray {cluster.address}") == 2
    assert "did you mean 'expert'" in capfd.readouterr().err


def test_a_protocol_has_the_figures_of_a_run_without(
    cluster: Cluster,
    tiny_checkpoint: Path,
    synthetic_recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    save_file({name: value.abs() for name, value in LPIPS().state_dict().items()}, tmp_path / "lpips.safetensors")
    monkeypatch.chdir(tmp_path)  # a folder that the workers do not start in
    (tmp_path / "data").symlink_to(synthetic_recordings)
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    files = "--checkpoint model --data data --lpips lpips.safetensors"
    command = f"evaluate {files} --protocol vp2 --videos 4 --samples 2 --device cpu --out"
    assert run(f"{command} here.json") == 0
    assert run(f"{command} ray.json --ray {cluster.address}") == 0
    here, there = read(tmp_path / "here.json"), read(tmp_path / "ray.json")
    measured = {"best", "mean", "last_frame", "average", "reward_r2", "return_rank_correlation"}
    assert measured <= here.keys()
    for found in (here, there):
        del found["machine"], found["date"], found["command"]
    assert_close(there, here)


def test_fvd_is_that_of_a_run_without(cluster: Cluster, tiny_checkpoint: Path, synthetic_recordings: Path) -> None:
    model, recordings = WorldModel.from_pretrained(tiny_checkpoint, device="cpu"), Recordings(synthetic_recordings)
    features = lambda videos: videos.double().mean(dim=(2, 3)).flatten(1)  # noqa: E731 (is sent by its value)
    scorer = Scorer(model, recordings, Protocol(2, 3), 3, 0, None, features)
    found = scorer.figures(map_ordered(scorer.score, scorer.places(4), cluster.address))
    assert found["fvd"] > 0
    assert_close(found, run_protocol(model, recordings, Protocol(2, 3), 4, 3, 0, None, features))


def test_a_report_has_the_figures_of_a_run_without(cluster: Cluster, toy_checkpoint: Path, tmp_path: Path) -> None:
    collect(tmp_path / "data", ["toy"], {"random": 1}, workers=1)
    small = "--horizon 3 --starts 1 --policies 3 --episodes 2 --device cpu"
    command = f"evaluate --checkpoint {toy_checkpoint} --data {tmp_path}/data {small} --out {tmp_path}/a.json"
    assert run(f"{command} --report {tmp_path}/here") == 0
    assert run(f"{command} --report {tmp_path}/ray --ray {cluster.address}") == 0
    here, there = (read(tmp_path / place / "report.json")["trust"] for place in ("here", "ray"))
    assert list(here) == ["toy"]
    assert_close(there, here)


def test_without_a_protocol_or_a_report_nothing_is_shared(
    tiny_checkpoint: Path, synthetic_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"evaluate --checkpoint {tiny_checkpoint} --data {synthetic_recordings} --out {tmp_path}/a.json"
    assert run(f"{command} --ray local") == 2
    assert "ray: expected --protocol or --report" in capsys.readouterr().err
