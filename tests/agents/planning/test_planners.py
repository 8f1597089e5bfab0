"""Planners on functions whose least value is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from worldgym.agents.planning import CEM, ICEM, MPPI, RandomShooting
from worldgym.agents.planning.planner import SamplingPlanner, best, coloured_noise
from worldgym.errors import ConfigError

HORIZON, DIM = 6, 2
TARGET = torch.linspace(-0.6, 0.7, HORIZON)[:, None].repeat(1, DIM)
PLANNERS: dict[str, tuple[Any, float]] = {  # and the largest root mean squared distance to the target
    "shooting": (RandomShooting(candidates=2000, horizon=HORIZON), 0.45),
    "cem": (CEM(horizon=HORIZON, iterations=10), 0.05),
    "icem": (ICEM(horizon=HORIZON, iterations=10, shrink=1.05, colour=0.5), 0.05),
    "mppi": (MPPI(horizon=HORIZON, iterations=12), 0.1),
}


def quadratic(actions: Tensor) -> Tensor:
    return (actions - TARGET).square().mean(dim=(1, 2))


def search(planner: Any, seed: int = 0, given: Tensor | None = None, evaluate: Any = quadratic) -> Any:
    start = torch.zeros(HORIZON, DIM)
    given = start[None][:0] if given is None else given
    return planner.plan(evaluate, start, given, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PLANNERS)
def test_the_least_cost_of_a_quadratic_is_found(name: str) -> None:
    planner, tolerance = PLANNERS[name]
    found = search(planner)
    assert found.actions.shape == (HORIZON, DIM)
    assert quadratic(found.actions[None]).sqrt() < tolerance
    assert found.elites.shape == (planner.elites, HORIZON, DIM)
    assert quadratic(found.elites).tolist() == sorted(quadratic(found.elites).tolist())
    assert found.costs[-1] <= found.costs[0]


@pytest.mark.parametrize("name", PLANNERS)
def test_equal_seeds_make_equal_plans(name: str) -> None:
    planner, _ = PLANNERS[name]
    first, same, other = (search(planner, seed) for seed in (1, 1, 2))
    assert torch.equal(first.actions, same.actions)
    assert torch.equal(first.elites, same.elites)
    assert not torch.equal(first.actions, other.actions)


@pytest.mark.parametrize("name", PLANNERS)
def test_given_candidates_are_tried_and_actions_stay_in_their_bounds(name: str) -> None:
    planner, _ = PLANNERS[name]
    seen = []

    def outside(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - 3).square().sum(dim=(1, 2))

    found = search(planner, given=TARGET[None], evaluate=outside)
    assert (seen[0] == TARGET).all(dim=2).all(dim=1).any()
    assert len(seen[0]) == planner.candidates
    assert all(bool((actions.abs() <= 1).all()) for actions in (*seen, found.actions))
    assert torch.equal(search(planner, given=TARGET[None]).elites[0], TARGET) or name in ("cem", "icem", "mppi")


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
def test_decisions_are_held(kind: Any) -> None:
    found = search(kind(candidates=32, horizon=HORIZON, hold=4, elites=4))
    assert torch.equal(found.actions[:4], found.actions[:1].expand(4, -1))
    assert torch.equal(found.actions[4:], found.actions[4:5].expand(2, -1))
    assert not torch.equal(found.actions[0], found.actions[4])


def test_icem_shrinks_its_population_down_to_twice_the_elites() -> None:
    planner = ICEM(candidates=100, elites=10, shrink=2.0)
    assert [planner.population(iteration) for iteration in range(4)] == [100, 50, 25, 20]
    assert ICEM(candidates=6, elites=4).population(3) == 6


def test_coloured_noise_has_unit_variance_and_is_smooth_in_time() -> None:
    like, changes = torch.zeros(12, 3), []
    for exponent in (0.0, 1.0, 2.0):
        noise = coloured_noise(20_000, like, exponent, torch.Generator().manual_seed(0))
        assert noise.shape == (20_000, 12, 3)
        assert torch.allclose(noise.std(0), torch.ones(12, 3), atol=0.03)
        assert noise.mean().abs() < 0.02
        changes.append(float(noise.diff(dim=1).square().mean()))
    assert changes[0] == pytest.approx(2, abs=0.1)
    assert changes[0] > 1.5 * changes[1] > 2 * changes[2]
    assert coloured_noise(5, torch.zeros(1, 3), 2.0, torch.Generator()).shape == (5, 1, 3)
    odd = coloured_noise(20_000, torch.zeros(7, 1), 2.0, torch.Generator().manual_seed(0))
    assert torch.allclose(odd.std(0), torch.ones(7, 1), atol=0.03)


def test_the_best_are_sorted_and_ties_go_to_the_earlier() -> None:
    assert best(torch.tensor([2.0, 1.0, 1.0, 0.0]), 3).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "options", [{"candidates": 0}, {"horizon": 0}, {"candidates": 4, "elites": 5}, {"std": 0.0}, {"hold": 0}]
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(options))):
        SamplingPlanner(**options)


def test_a_mean_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a mean \[12"):
        search(CEM())
