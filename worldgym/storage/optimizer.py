"""The state of an optimizer as a flat dictionary of tensors, by the names of the parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldgym.errors import CheckpointError

Parameters = Mapping[str, nn.Parameter]


def optimizer_state_dict(optimizer: torch.optim.Optimizer, parameters: Parameters) -> dict[str, Tensor]:
    """Flatten an optimizer's state.

    Args:
        optimizer: any whose state per parameter consists of tensors, such as Adam.
        parameters: name -> parameter, for example ``dict(model.named_parameters())``.

    Returns:
        ``"{parameter name}.{entry}"`` -> tensor, such as ``"encoder.weight.exp_avg"``. Empty for parameters that were
        never updated. The tensors are the optimizer's own, not copies.
    """
    return {
        f"{name}.{entry}": value
        for name, parameter in parameters.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state_dict(
    optimizer: torch.optim.Optimizer, parameters: Parameters, state: Mapping[str, Tensor]
) -> None:
    """Inverse of :func:`optimizer_state_dict`. The tensors are copied.

    Raises:
        CheckpointError: if an entry belongs to no parameter of the optimizer, or has another shape.
    """
    index = {id(parameter): number for number, parameter in enumerate(_parameters_of(optimizer))}
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, entry = key.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in index:
            raise CheckpointError(f"the optimizer's state holds {key!r}, but the optimizer has no parameter {name!r}")
        if value.ndim and value.shape != parameter.shape:
            raise CheckpointError(
                f"the optimizer's state {key!r}: expected shape {list(parameter.shape)}, got {list(value.shape)}"
            )
        entries.setdefault(index[id(parameter)], {})[entry] = value.clone()
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
