"""Recording on a Ray cluster of two machines, which are node processes here; a worker or a machine is killed."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from worldgym.cli import main
from worldgym.data.episode import Episode, EpisodeFile
from worldgym.envs.behaviours import Behaviour, random
from worldgym.envs.collect import collect, record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import ConfigError, DataError, DependencyNotInstalled

MACHINE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
COUNT = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args=MACHINE)
    cluster.add_node(**MACHINE)
    yield cluster
    cluster.shutdown()


def assert_equal(found: Episode, expected: Episode) -> None:
    assert found.info == expected.info
    for name in ("frames", "actions", "rewards", "successes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def random_but(disturb: Any) -> Behaviour:
    """Random actions, after a disturbance at the beginning of each episode."""

    def start(env: Any, rng: np.random.Generator) -> Any:
        disturb()
        return random(env, rng)

    return start


def collect_disturbed(folder: Path, cluster: Cluster, disturb: Any) -> None:
    """Record :data:`COUNT` episodes, and compare them with undisturbed ones."""
    policies = {"disturbed": random_but(disturb)}
    paths = collect(folder, ["toy"], {"disturbed": COUNT}, policies=policies, workers=None, ray=cluster.address)
    env = SimulatorToy()
    for seed, path in enumerate(paths):
        assert_equal(EpisodeFile(path).load(), record(env, "disturbed", seed, policy=random))


def test_equals_a_local_run_and_continues_it(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    collect(tmp_path / "local", ["toy"], {"random": 2, "expert": 1}, workers=1)
    command = f"collect --tasks toy --out {tmp_path}/ray --ray {cluster.address} --episodes"
    capfd.readouterr()
    assert main([*command.split(), "random=1"]) == 0
    shown = capfd.readouterr()
    assert shown.out == f"1 episodes requested, 1 in {tmp_path}/ray\n"
    assert all(line.startswith("collect: ") for line in shown.err.replace("\r", "\n").split("\n") if line)
    (first,) = (tmp_path / "ray").rglob("*.safetensors")
    written = first.stat().st_mtime_ns
    assert main([*command.split(), "random=2,expert=1"]) == 0
    assert first.stat().st_mtime_ns == written
    names = [sorted(path.name for path in (tmp_path / run / "toy").iterdir()) for run in ("local", "ray")]
    assert names[0] == names[1]
    for name in names[0]:
        local, remote = (EpisodeFile(tmp_path / run / "toy" / name).load() for run in ("local", "ray"))
        assert_equal(remote, local)
    assert not ray.is_initialized()


def test_killed_worker_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    marker = tmp_path / "killed"

    def kill_once() -> None:
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    collect_disturbed(tmp_path / "data", cluster, kill_once)
    assert marker.exists()


def test_work_of_a_killed_machine_is_done_by_the_other(cluster: Cluster, tmp_path: Path) -> None:
    (machine,) = cluster.worker_nodes
    node_id, marker = machine.node_id, tmp_path / "killed"

    def kill_machine() -> None:
        if ray.get_runtime_context().get_node_id() == node_id:
            marker.touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the node's process, which started this worker
            os.kill(os.getpid(), signal.SIGKILL)

    collect_disturbed(tmp_path / "data", cluster, kill_machine)
    assert marker.exists()
    cluster.remove_node(machine)
    cluster.add_node(**MACHINE)


def test_episode_that_kills_its_workers_is_given_up(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldgym.cluster.TRIES", 1)
    policies = {"deadly": random_but(lambda: os.kill(os.getpid(), signal.SIGKILL))}
    with pytest.raises(DataError, match=r"a recording process died .* finished episodes are kept in .*data"):
        collect(tmp_path / "data", ["toy"], {"random": 1, "deadly": 1}, 0, 1, policies=policies, ray=cluster.address)
    assert [path.name for path in (tmp_path / "data" / "toy").iterdir()] == ["random-00000000.safetensors"]


def test_error_on_a_worker_is_told_as_here(cluster: Cluster, tmp_path: Path) -> None:
    policies = {"broken": random_but(lambda: 1 // 0)}
    expected = "toy: behaviour 'broken' with seed 7 failed after 0 steps: ZeroDivisionError: .*by zero$"
    with pytest.raises(DataError, match=expected):
        collect(tmp_path, ["toy"], {"broken": 1}, seed=7, policies=policies, ray=cluster.address)


def test_address_without_a_cluster_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        command = f"collect --tasks toy --episodes random=1 --out {tmp_path}/data --ray {address}"
        assert main(command.split()) == 2
    assert f"worldgym: no Ray cluster at '{address}': [Errno 111] Connection refused" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="no Ray cluster at 'nowhere'"):
        collect(tmp_path / "data", ["toy"], {"random": 1}, ray="nowhere")
    assert not (tmp_path / "data").exists()


def test_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install worldgym\[ray\]"):
        collect(tmp_path, ["toy"], {"random": 1}, ray="auto")
