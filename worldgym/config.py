"""Configurations: frozen dataclasses that check themselves, and their JSON form.

A checkpoint's ``config.json`` is a :class:`WorldModelConfig`; everything that code needs to rebuild the model and
everything a user needs to trust it stands in there.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, TypeVar

from worldgym.errors import ConfigError, nearest
from worldgym.tokens import TokenLayout

T = TypeVar("T")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class CompressiveTokenizerConfig:
    """The published tokenizer (paper, Table 2). The defaults are the 64-pixel one."""

    resolution: int = 64
    context_length: int = 2
    channels: tuple[int, ...] = (128, 256, 512)
    layers_per_block: int = 2
    latent_channels: int = 64
    context_codes: int = 8192
    dynamics_codes: int = 8192
    patch_size: int = 4
    max_attention_resolution: int = 16
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _check_positive(self)
        factor = 2 ** (len(self.channels) - 1)
        if self.resolution % (factor * self.patch_size):
            raise ConfigError(
                f"resolution {self.resolution} is not divisible by {factor * self.patch_size}: "
                f"{len(self.channels) - 1} halvings and patches of {self.patch_size}"
            )
        if any(width % self.norm_groups for width in self.channels):
            raise ConfigError(f"channels {self.channels} are not all divisible by norm_groups={self.norm_groups}")

    @property
    def latent_size(self) -> int:
        """Height and width of the context latents."""
        return int(self.resolution // 2 ** (len(self.channels) - 1))

    @property
    def layout(self) -> TokenLayout:
        side = self.latent_size // self.patch_size
        return TokenLayout(self.context_length, self.latent_size**2, side**2, self.context_codes, self.dynamics_codes)


@dataclass(frozen=True)
class CompactTokenizerConfig:
    """The small tokenizer of the shipped checkpoints (``tokenizer/compact.py``): cheap enough to train on a CPU."""

    resolution: int = 64
    context_length: int = 2
    width: int = 64
    depth: int = 2
    context_grid: int = 8
    frame_grid: int = 4
    latent_channels: int = 32
    context_codes: int = 512
    dynamics_codes: int = 512

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.resolution % 8 or self.width % 8:
            raise ConfigError(
                f"resolution and width must be multiples of 8 (three halvings; 8 groups of channels), "
                f"got resolution {self.resolution} and width {self.width}"
            )
        coarsest = self.resolution // 8
        if coarsest % self.context_grid or coarsest % self.frame_grid:
            raise ConfigError(
                f"the coarsest maps at resolution {self.resolution} are {coarsest} x {coarsest}: context_grid and "
                f"frame_grid must divide {coarsest}, got {self.context_grid} and {self.frame_grid}"
            )

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(
            self.context_length, self.context_grid**2, self.frame_grid**2, self.context_codes, self.dynamics_codes
        )


TokenizerConfig = CompressiveTokenizerConfig | CompactTokenizerConfig
TOKENIZERS: dict[str, type[CompressiveTokenizerConfig] | type[CompactTokenizerConfig]] = {
    "compressive": CompressiveTokenizerConfig,
    "compact": CompactTokenizerConfig,
}


@dataclass(frozen=True)
class TransformerConfig:
    """The LLaMA blocks (paper, Table 2). The defaults are the published 138M model.

    ``cumulative_actions`` shows every slot, beside its action, the sum of all actions since the context: where
    actions are displacements, that is how far the robot has been told to go, which otherwise has to be worked out.
    ``place_embeddings`` adds a learned vector for the place within the frame to every position.
    """

    layers: int = 12
    heads: int = 12
    key_value_heads: int = None  # type: ignore[assignment]  # as many as heads, once built
    hidden_size: int = 768
    mlp_size: int = 3072
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    cumulative_actions: bool = False
    place_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.key_value_heads is None:
            object.__setattr__(self, "key_value_heads", self.heads)
        _check_positive(self)
        if self.hidden_size % self.heads or self.head_dim % 2:
            raise ConfigError(f"hidden_size {self.hidden_size} must split into {self.heads} heads of even size")
        if self.heads % self.key_value_heads:
            raise ConfigError(f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class Sampling:
    """How the environments draw tokens unless told otherwise; ``top_k=1`` is greedy."""

    temperature: float = 1.0
    top_k: int = 100

    def __post_init__(self) -> None:
        warm = isinstance(self.temperature, Real) and self.temperature > 0
        if not warm or not isinstance(self.top_k, Integral) or self.top_k < 1:
            raise ConfigError(f"temperature must be above 0 and top_k a whole number of at least 1, got {self}")


@dataclass(frozen=True)
class WorldModelConfig:
    """All of a world model: its parts, and the notes that tell what it was trained on and how far to trust it."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    action_dim: int = 0
    reward: bool = False
    reward_transform: str = "symlog"
    goal_conditioned: bool = False
    action_names: tuple[str, ...] = ()
    frame_skip: int | None = None
    max_episode_steps: int | None = None
    tasks: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    training_data: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.action_dim < 0:
            raise ConfigError(f"action_dim must not be negative (0 is action-free), got {self.action_dim}")
        if self.action_names and len(self.action_names) != self.action_dim:
            raise ConfigError(f"{len(self.action_names)} action_names for action_dim={self.action_dim}")
        if self.reward_transform not in ("symlog", "identity"):
            raise ConfigError(f"reward_transform must be 'symlog' or 'identity', got {self.reward_transform!r}")
        if self.goal_conditioned and self.context_length < 2:
            raise ConfigError("a goal-conditioned model needs a context_length of at least 2: the goal and one frame")
        if self.layout.horizon(self.transformer.max_positions) < 1:
            raise ConfigError(
                f"max_positions={self.transformer.max_positions} leaves no room for a future frame: "
                f"the context takes {self.layout.prefix_length}, a frame {self.layout.step_length}"
            )

    @property
    def layout(self) -> TokenLayout:
        return self.tokenizer.layout

    @property
    def resolution(self) -> int:
        return self.tokenizer.resolution

    @property
    def context_length(self) -> int:
        return self.tokenizer.context_length


def _check_positive(config: Any) -> None:
    """Raise ConfigError where a number among the fields, or within a tuple of them, is not above 0."""
    for name, value in vars(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or any(type(number) in (int, float) and not number > 0 for number in numbers):
            raise ConfigError(f"{type(config).__name__}.{name} must be above 0, got {value!r}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types; the tokenizer says its ``type``."""
    values = dataclasses.asdict(config)
    if isinstance(config, WorldModelConfig):
        values["tokenizer"] = to_dict(config.tokenizer)
        values = {"format": "worldgym", "format_version": FORMAT_VERSION, **values}
    for kind, cls in TOKENIZERS.items():
        if isinstance(config, cls):
            values = {"type": kind, **values}
    return values


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Inverse of :func:`to_dict`: one ConfigError names every entry that is unknown, missing or ill-typed."""
    values = dict(values)
    if cls is WorldModelConfig:
        _check_format(values.pop("format", None), values.pop("format_version", None), where)
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    problems = [f"{where}: unknown entry {name!r}; {nearest(name, fields)}" for name in values if name not in fields]
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            problems.append(f"{where}: entry {name!r} is missing")
    known = fields.keys() & values.keys()
    built = {name: _coerced(hints[name], values[name], f"{where}: {name}", problems) for name in known}
    if problems:
        raise ConfigError("\n".join(sorted(problems)))
    return cls(**built)


def _check_format(form: Any, version: Any, where: str) -> None:
    if form != "worldgym" or version != FORMAT_VERSION:
        raise ConfigError(
            f"{where}: expected format 'worldgym' version {FORMAT_VERSION}, got {form!r} version {version!r}"
        )


def tokenizer_from_dict(values: Mapping[str, Any], where: str) -> TokenizerConfig:
    """Inverse of :func:`to_dict` for a tokenizer of any ``type``."""
    values = dict(values)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ConfigError(f"{where}: unknown tokenizer type {kind!r}; {nearest(str(kind), TOKENIZERS)}")
    return from_dict(TOKENIZERS[kind], values, where)


def _coerced(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """:func:`_coerce`, its complaint added to ``problems``."""
    try:
        return _coerce(hint, value, where)
    except ConfigError as error:
        problems.append(str(error))


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check one JSON value against its annotation; lists become tuples, objects become dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(value):
        return value
    if hint == TokenizerConfig and isinstance(value, Mapping):
        return tokenizer_from_dict(value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_dict(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_coerce(arguments[0], item, where) for item in value)
    if origin is not None and origin is not tuple and isinstance(value, Mapping):
        return dict(value)
    if origin is typing.Literal and value in arguments:
        return value
    if type(None) in arguments:
        return None if value is None else _coerce(arguments[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
