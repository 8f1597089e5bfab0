"""The registry of simulators, and that nothing outside a simulator's own file names its family."""

import ast
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import worldgym  # noqa: F401  (registers the ids)
from worldgym.envs.registry import find_spec, find_task, specs
from worldgym.errors import UnknownTask

ROOT = Path(__file__).parents[2]
NAMES = ("metaworld", "meta-world", "meta_world", "dials", "maniskill", "robosuite", "robodesk", "libero")
OWN_FILES = (
    "metaworld",
    "dials",
    "maniskill",
    "maniskill_experts",
    "robosuite",
    "robosuite_push",
    "robosuite_state",
    "robodesk",
    "robodesk_experts",
    "libero",
    "libero_experts",
)
ALLOWED = (
    *(f"envs/simulators/{name}.py" for name in OWN_FILES),
    "agents/presets.py",
    "checkpoints/__init__.py",
    "worldgym/reports/protocol.py",  # evaluations of the paper, one of them named after a simulator
)
FORMATS = "worldgym/data/convert/"  # recordings of simulators in files of others


def test_ids_are_registered_from_the_specs() -> None:
    assert {"MetaWorld", "Toy", "Dials"} <= specs().keys()
    for spec in specs().values():
        registered = gym.spec(spec.simulator_id)
        assert registered.max_episode_steps == spec.episode_steps
        assert (spec.world_model_id in gym.registry) == (spec.checkpoint is not None or not spec.name)
        assert find_spec(spec.simulator_id) is spec
        assert find_spec(f"worldgym:{spec.world_model_id}") is spec
    assert "WorldModel-v0" in gym.registry
    assert find_spec("CartPole-v1") is None


def test_tasks_are_found_by_name() -> None:
    for spec in specs().values():
        for task in spec.tasks:
            assert find_task(task) == (spec, task)
    spec, task = find_task("hammer-v3")
    assert (spec.name, task) == ("MetaWorld", "hammer")
    assert spec.check_task("hammer-v3") == "hammer"


@pytest.mark.simulator
def test_unknown_tasks_name_the_nearest() -> None:
    assert find_task("basketball")[0].name == "MetaWorld"
    with pytest.raises(UnknownTask, match="did you mean 'hammer'"):
        find_task("hamer")
    with pytest.raises(UnknownTask, match="did you mean 'dials'"):
        find_task("dial")
    with pytest.raises(UnknownTask, match="MetaWorld has no task 'hamer'; did you mean 'hammer'"):
        find_task("hammer")[0].check_task("hamer")


def test_simulators_are_made_without_wrappers() -> None:
    env = find_task("toy")[0].make("toy")
    assert env.unwrapped is env
    assert env.reset(seed=0)[1]["task"] == "toy"


def words(path: Path) -> Iterator[str]:
    """Every identifier and text of a file, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    prose = {id(item.value) for body in bodies for item in body if isinstance(item, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        for name in ("id", "attr", "name", "module", "arg"):
            if isinstance(value := getattr(node, name, None), str):
                yield value


@pytest.mark.parametrize("folder", ["worldgym", "envs", "agents", "checkpoints"])
def test_only_its_own_file_names_a_simulator(folder: str) -> None:
    named = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        if relative not in ALLOWED and not relative.startswith(
            (FORMATS, "worldgym/envs/", "worldgym/agents/", "worldgym/check")
        ):
            named += [(relative, word) for word in words(path) if any(name in word.lower() for name in NAMES)]
    # Examples of command lines in help texts may name one.
    assert [(path, word) for path, word in named if not path.startswith("worldgym/cli/")] == []
