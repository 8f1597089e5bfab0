"""Configurations: frozen dataclasses that check their values, and their JSON form.

A checkpoint's ``config.json`` is a :class:`WorldModelConfig`: what is needed to build the model, and how it was trained
and evaluated.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, TypeVar

from worldgym.errors import ConfigError, nearest
from worldgym.reward_scale import RewardScale
from worldgym.tokens import TokenLayout

T = TypeVar("T")
FORMAT_VERSION = 1
HEADS = ("reward", "success", "termination", "frame_error")
"""What a transformer can predict of a step beside its frame. Each is one linear layer on the last hidden state."""


@dataclass(frozen=True)
class CompressiveTokenizerConfig:
    """The published tokenizer (paper, Table 2). The defaults are those for 64 pixels.

    Attributes:
        resolution: height and width of frames in pixels.
        context_length: number of context frames.
        channels: of the maps, a stage each; the size is halved between stages.
        layers_per_block: resnet blocks of a stage.
        latent_channels: dimension of latents and codes.
        context_codes: size of the context codebook.
        dynamics_codes: size of the dynamics codebook.
        patch_size: height and width of the patches of future latents that are encoded as one code.
        max_attention_resolution: largest maps with attention to the context.
        norm_groups: groups of the normalisation layers.
    """

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
                f"resolution: expected a multiple of {factor * self.patch_size} ({len(self.channels) - 1} halvings and "
                f"patches of {self.patch_size}), got {self.resolution}"
            )
        if any(width % self.norm_groups for width in self.channels):
            raise ConfigError(f"channels: expected multiples of norm_groups={self.norm_groups}, got {self.channels}")

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
    """The small tokenizer of the shipped checkpoints (``tokenizer/compact.py``), cheap enough to train on a CPU.

    Attributes:
        resolution: height and width of frames in pixels.
        context_length: number of context frames.
        width: channels of the maps at half resolution; coarser maps have 2 and 4 times as many.
        depth: residual blocks of a stage.
        context_grid: height and width of a context frame's codes.
        frame_grid: height and width of a future frame's codes.
        latent_channels: dimension of latents and codes.
        context_codes: size of the context codebook.
        dynamics_codes: size of the dynamics codebook.
    """

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
                f"resolution and width: expected multiples of 8 (three halvings; 8 groups of channels), "
                f"got {self.resolution} and {self.width}"
            )
        coarsest = self.resolution // 8
        if coarsest % self.context_grid or coarsest % self.frame_grid:
            raise ConfigError(
                f"context_grid and frame_grid: expected divisors of {coarsest}, the size of the coarsest maps at "
                f"resolution {self.resolution}, got {self.context_grid} and {self.frame_grid}"
            )

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(
            self.context_length, self.context_grid**2, self.frame_grid**2, self.context_codes, self.dynamics_codes
        )


@dataclass(frozen=True)
class IndependentTokenizerConfig:
    """The tokenizer that the paper compares with (figure 9c): every frame is encoded without any other.

    Attributes:
        resolution: height and width of frames in pixels.
        context_length: number of context frames.
        channels: of the maps, a stage each; the size is halved between stages.
        layers_per_block: resnet blocks of a stage.
        latent_channels: dimension of latents and codes.
        codes: size of the codebook.
        grid: height and width of a frame's codes.
        norm_groups: groups of the normalisation layers.
    """

    resolution: int = 64
    context_length: int = 2
    channels: tuple[int, ...] = (128, 256, 512)
    layers_per_block: int = 2
    latent_channels: int = 64
    codes: int = 8192
    grid: int = 16
    norm_groups: int = 32

    def __post_init__(self) -> None:
        network = self.network  # whose checks are those of this configuration
        if network.latent_size % self.grid:
            raise ConfigError(f"grid: expected a divisor of {network.latent_size}, got {self.grid}")

    @property
    def network(self) -> CompressiveTokenizerConfig:
        """Sizes of encoder and decoder, which are those of context frames of the published tokenizer."""
        _check_positive(self)
        return CompressiveTokenizerConfig(
            resolution=self.resolution,
            context_length=self.context_length,
            channels=self.channels,
            layers_per_block=self.layers_per_block,
            latent_channels=self.latent_channels,
            patch_size=1,
            norm_groups=self.norm_groups,
        )

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(self.context_length, self.grid**2, self.grid**2, self.codes, self.codes)


TokenizerConfig = CompressiveTokenizerConfig | CompactTokenizerConfig | IndependentTokenizerConfig
TOKENIZERS: dict[
    str, type[CompressiveTokenizerConfig] | type[CompactTokenizerConfig] | type[IndependentTokenizerConfig]
] = {
    "compressive": CompressiveTokenizerConfig,
    "compact": CompactTokenizerConfig,
    "independent": IndependentTokenizerConfig,
}


@dataclass(frozen=True)
class TransformerConfig:
    """The LLaMA blocks (paper, Table 2). The defaults are the published 138M model.

    Attributes:
        layers: number of blocks.
        heads: query heads.
        key_value_heads: key/value heads; as many as query heads by default.
        hidden_size: of each position.
        mlp_size: hidden size of the feed-forward layers.
        max_positions: size of the position window.
        rope_theta: base of the rotary frequencies.
        norm_eps: of the normalisation layers.
        cumulative_actions: whether every slot also gets the sum of all actions since the context. If actions are
            displacements, that is the commanded position.
        place_embeddings: whether every position gets a learned vector for its index within the frame.
    """

    layers: int = 12
    heads: int = 12
    key_value_heads: int = None  # type: ignore[assignment]  # set in __post_init__
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
            raise ConfigError(
                f"hidden_size: expected a multiple of twice the {self.heads} heads, got {self.hidden_size}"
            )
        if self.heads % self.key_value_heads:
            raise ConfigError(f"heads: expected a multiple of key_value_heads={self.key_value_heads}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class Sampling:
    """Default sampling of tokens.

    Attributes:
        temperature: divides the logits.
        top_k: how many of the largest logits are considered; 1 is greedy.
    """

    temperature: float = 1.0
    top_k: int = 100

    def __post_init__(self) -> None:
        valid = isinstance(self.temperature, Real) and self.temperature > 0
        if not valid or not isinstance(self.top_k, Integral) or self.top_k < 1:
            raise ConfigError(f"expected temperature above 0 and an integer top_k of at least 1, got {self}")


@dataclass(frozen=True)
class WorldModelConfig:
    """Description of a world model.

    Attributes:
        tokenizer: architecture of the tokenizer.
        transformer: architecture of the transformer.
        action_dim: dimension of actions; 0 for an action-free model.
        reward: whether the model predicts rewards.
        reward_transform: transform under which rewards are learned, "symlog" or "identity".
        goal_conditioned: whether the first context frame is a goal.
        action_names: a name for each dimension of actions.
        frame_skip: simulator steps per action; None if unknown.
        max_episode_steps: time limit of an episode; None if unknown.
        tasks: names of the tasks that the model was trained on.
        sampling: default sampling of environments.
        training_data: what the model was trained on.
        figures: results of its evaluation.
        reward_bins: centres of the bins over which rewards are predicted, under the transform; empty if one number is
            predicted (paper). See ``worldgym.reward_scale``.
        success: whether the model predicts the probability that the task counts as solved.
        termination: whether the model predicts the probability that a step ends the episode.
        frame_error: whether the model predicts the error of its own frames, which is its uncertainty then.
        action_space: description of the environment's action space, from which actions are encoded as vectors; empty
            for vectors in [-1, 1]. See ``worldgym.envs.actions``.
        slides: what happens when the position window is full. If True, the window slides: the context stays, and the
            older half of the imagined frames leaves. If False, the model starts anew from its last frames.
    """

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
    success: bool = False
    termination: bool = False
    slides: bool = False
    action_space: Mapping[str, Any] = field(default_factory=dict)
    reward_bins: tuple[float, ...] = ()
    frame_error: bool = False

    def __post_init__(self) -> None:
        if self.action_dim < 0:
            raise ConfigError(f"action_dim: expected at least 0 (0 is action-free), got {self.action_dim}")
        if self.action_names and len(self.action_names) != self.action_dim:
            raise ConfigError(
                f"action_names: expected {self.action_dim} names, as many as action_dim, got {len(self.action_names)}"
            )
        if self.reward_transform not in ("symlog", "identity"):
            raise ConfigError(f"reward_transform: expected 'symlog' or 'identity', got {self.reward_transform!r}")
        if list(self.reward_bins) != sorted(set(self.reward_bins)) or len(self.reward_bins) == 1:
            raise ConfigError(f"reward_bins: expected none, or at least 2 ascending numbers, got {self.reward_bins}")
        if self.goal_conditioned and self.context_length < 2:
            raise ConfigError(
                f"context_length: expected at least 2 for a goal-conditioned model, got {self.context_length}"
            )
        if self.slides and self.kept_frames < 1:
            raise ConfigError(
                f"max_positions: expected room for at least 2 future frames in a window that slides, got "
                f"{self.transformer.max_positions}"
            )
        if self.layout.horizon(self.transformer.max_positions) < 1:
            context, frame = self.layout.prefix_length, self.layout.step_length
            raise ConfigError(
                f"max_positions: expected at least {context + frame} positions (context {context}, "
                f"future frame {frame}), got {self.transformer.max_positions}"
            )

    @property
    def layout(self) -> TokenLayout:
        return self.tokenizer.layout

    @property
    def reward_scale(self) -> RewardScale:
        """How rewards are learned."""
        return RewardScale(self.reward_transform, self.reward_bins)

    @property
    def kept_frames(self) -> int:
        """Number of imagined frames that stay when the window slides; 0 if it does not."""
        return self.layout.horizon(self.transformer.max_positions) // 2 if self.slides else 0

    @property
    def heads(self) -> tuple[str, ...]:
        """What is predicted of every step beside its frame: names among :data:`HEADS`."""
        return tuple(name for name in HEADS if getattr(self, name))

    @property
    def resolution(self) -> int:
        return self.tokenizer.resolution

    @property
    def context_length(self) -> int:
        return self.tokenizer.context_length


def check_numbers(config: Any, *, above_zero: Iterable[str] = (), from_zero: Iterable[str] = ()) -> None:
    """Check the ranges of settings.

    Args:
        config: a dataclass.
        above_zero: names of fields whose values must be above 0, and finite.
        from_zero: names of fields whose values must be at least 0, and finite.

    Raises:
        ConfigError: names the field, and the value it has.
    """
    for name in above_zero:
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{name}: expected a number above 0, got {getattr(config, name)}")
    for name in from_zero:
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name}: expected a number of at least 0, got {getattr(config, name)}")


def _check_positive(config: Any) -> None:
    """Raise ConfigError if a number among the fields, or in a tuple of them, is not above 0."""
    for name, value in vars(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or any(type(number) in (int, float) and not number > 0 for number in numbers):
            raise ConfigError(f"{type(config).__name__}.{name}: expected values above 0, got {value!r}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types; that of a tokenizer has an entry ``type``."""
    values = dataclasses.asdict(config)
    if isinstance(config, WorldModelConfig):
        values["tokenizer"] = to_dict(config.tokenizer)
        values = {"format": "worldgym", "format_version": FORMAT_VERSION, **values}
    for kind, cls in TOKENIZERS.items():
        if isinstance(config, cls):
            values = {"type": kind, **values}
    return values


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Inverse of :func:`to_dict`.

    Args:
        cls: the class of the configuration.
        values: its fields in JSON types.
        where: the file's name, for error messages.

    Raises:
        ConfigError: lists all entries that are unknown, missing or of another type.
    """
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
    """As :func:`from_dict`, for a tokenizer of any ``type``."""
    values = dict(values)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ConfigError(f"{where}: unknown tokenizer type {kind!r}; {nearest(str(kind), TOKENIZERS)}")
    return from_dict(TOKENIZERS[kind], values, where)


def _coerced(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """As :func:`_coerce`, but add the message of an error to ``problems``."""
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
