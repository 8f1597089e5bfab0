"""Checkpoints on disk: our own layout, the published iVideoGPT layout, and where to find them.

    ours        config.json, tokenizer.safetensors, transformer.safetensors
    published   tokenizer/{config.json, diffusion_pytorch_model.safetensors},
                transformer/{config.json, model.safetensors}

Loading checks everything before it builds anything. One error lists whatever is missing, unknown, misshapen or not
finite; no weight keeps its initial value. Only JSON and safetensors are read. The metadata of our own weights contain
digests, by which changed files and a transformer beside the wrong tokenizer are found.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from worldgym.checkpoints import shipped
from worldgym.config import CompressiveTokenizerConfig, TransformerConfig, WorldModelConfig, from_dict, to_dict
from worldgym.errors import CheckpointError, ConfigError, nearest
from worldgym.isolation import torch_defaults
from worldgym.storage.files import atomic_folder, atomic_json, read_json
from worldgym.storage.tensors import DIGEST, FORMAT, TensorFile, Tensors, read_tensors, select_prefix, write_tensors
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.tokenizer.compressive import NORM_GROUPS, config_from_published, config_to_published
from worldgym.transformer.transformer import Transformer

CONFIG = "config.json"
TOKENIZER = "tokenizer.safetensors"
TRANSFORMER = "transformer.safetensors"
PUBLISHED_TOKENIZER = "tokenizer/diffusion_pytorch_model.safetensors"
PUBLISHED_TRANSFORMER = "transformer/model.safetensors"
PUBLISHED_CONFIGS = ("tokenizer/config.json", "transformer/config.json")
FIRST_FRAMES = "first_frames"  # a folder; see worldgym.data.first_frames
START_STATES = "start_states"  # a folder; see worldgym.data.start_states
OURS = (CONFIG, TOKENIZER, TRANSFORMER, f"{FIRST_FRAMES}/*.npz", f"{START_STATES}/*.npz")
NEEDED = (*OURS, PUBLISHED_TOKENIZER, PUBLISHED_TRANSFORMER, *PUBLISHED_CONFIGS)
# In some published files, and not used here: tables that are computed anew, and a head for training.
UNUSED = re.compile(r".*\.rotary_emb\.inv_freq|action_recon_linear\..*")
TOKENIZER_DIGEST = "tokenizer_sha256"  # in a transformer's metadata: digest of the tokenizer it was saved with
GOAL_CONDITIONED = "goal-cond"  # part of the names of published models that take a goal

T = TypeVar("T")


class Parts(NamedTuple):
    """The arguments of :class:`worldgym.WorldModel`."""

    config: WorldModelConfig
    tokenizer: Tokenizer
    transformer: Transformer


def load(
    name_or_path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    goal_conditioned: bool | None = None,
) -> Parts:
    """Find a checkpoint, check all of it and build it on the CPU; see ``WorldModel.from_pretrained``."""
    folder = locate(name_or_path, revision)
    problems: list[str] = []
    if (folder / CONFIG).is_file():
        files = [_read(folder / name, problems) for name in (TOKENIZER, TRANSFORMER)]
        config = _own_config(folder, goal_conditioned, problems)
        _check_pair(files[0], files[1], problems)
    elif any((folder / name).exists() for name in PUBLISHED_CONFIGS):
        files = [_read(folder / name, problems) for name in (PUBLISHED_TOKENIZER, PUBLISHED_TRANSFORMER)]
        if goal_conditioned is None:
            name = folder.absolute().name if Path(name_or_path).expanduser().is_dir() else os.fspath(name_or_path)
            goal_conditioned = GOAL_CONDITIONED in name
        config = _published_config(folder, files[-1].tensors if files[-1] else {}, goal_conditioned, problems)
        files[-1] = _prefixed(files[-1])
    else:
        raise CheckpointError(
            f"{folder}: expected {CONFIG}, or {' and '.join(PUBLISHED_CONFIGS)} of the published layout; "
            f"got {sorted(path.name for path in folder.iterdir()) or 'an empty folder'}"
        )
    tensors = [None if file is None else file.tensors for file in files]
    if config is None:
        raise _refusal(folder, problems)
    with torch_defaults("meta"):
        tokenizer = build_tokenizer(config.tokenizer)
        transformer = Transformer.build(config)
    for module, name, found in zip((tokenizer, transformer), ("tokenizer", "transformer"), tensors, strict=True):
        if found is not None:
            problems += differences(name, module.state_dict(), found)
    if problems:
        raise _refusal(folder, problems)
    for module, found in zip((tokenizer, transformer), tensors, strict=True):
        _assign(module, found or {}, dtype)
    return Parts(config, tokenizer, transformer)


def save(
    folder: str | os.PathLike[str],
    config: WorldModelConfig,
    tokenizer: Tokenizer,
    transformer: Transformer,
    dtype: torch.dtype | None = None,
) -> None:
    """Write our own layout; see ``WorldModel.save_pretrained``."""
    with atomic_folder(folder) as temporary:
        pair = write_tensors(temporary / TOKENIZER, _stored(tokenizer, dtype), {FORMAT: "pt"})
        metadata = {FORMAT: "pt", TOKENIZER_DIGEST: pair}
        write_tensors(temporary / TRANSFORMER, _stored(transformer, dtype), metadata)
        atomic_json(temporary / CONFIG, to_dict(config))


def save_published(
    folder: str | os.PathLike[str],
    config: WorldModelConfig,
    tokenizer: Tokenizer,
    transformer: Transformer,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the published layout; see ``WorldModel.save_pretrained``.

    Raises:
        ConfigError: for a model that this layout cannot hold; lists every reason.
        StorageError: if the folder cannot be written.
    """
    entries = published_configs(config)
    weights = _stored(transformer, dtype)
    if not config.action_dim:  # published action-free checkpoints contain the language model alone
        weights = select_prefix("llm", weights)
    with (
        atomic_folder(Path(folder) / "tokenizer") as tokenizer_folder,
        atomic_folder(Path(folder) / "transformer") as transformer_folder,
    ):
        write_tensors(tokenizer_folder / Path(PUBLISHED_TOKENIZER).name, _stored(tokenizer, dtype), {FORMAT: "pt"})
        write_tensors(transformer_folder / Path(PUBLISHED_TRANSFORMER).name, weights, {FORMAT: "pt"})
        for place, values in zip((tokenizer_folder, transformer_folder), entries, strict=True):
            atomic_json(place / CONFIG, values)


def published_configs(config: WorldModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The published ``tokenizer/config.json`` and ``transformer/config.json`` of a model.

    Raises:
        ConfigError: lists everything in the model that they cannot describe.
    """
    if not isinstance(config.tokenizer, CompressiveTokenizerConfig):
        raise ConfigError(
            f"the published layout cannot hold a tokenizer of {type(config.tokenizer).__name__}, which the reference "
            "implementation does not have; save this model in our own layout"
        )
    transformer = config.transformer
    problems = {
        "normalisation of the tokenizer with other than 32 groups": config.tokenizer.norm_groups != NORM_GROUPS,
        "cumulative actions": transformer.cumulative_actions,
        "place embeddings": transformer.place_embeddings,
        "a success head": config.success,
        "a termination head": config.termination,
        "a head for the error of frames": config.frame_error,
        "rewards in bins": bool(config.reward_bins),
        "rewards that are not learned under symlog": config.reward and config.reward_transform != "symlog",
        "a reward head without actions": config.reward and not config.action_dim,
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise ConfigError(
            f"the published layout cannot hold {', '.join(found)}, which the reference implementation does not have; "
            "save this model in our own layout"
        )
    return config_to_published(config.tokenizer), transformer_to_published(transformer, config.layout.vocab_size)


def locate(name_or_path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint.

    Args:
        name_or_path: a shipped name, a path, or a Hub id, which is downloaded if it is not cached yet.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        CheckpointError: if there is none.
    """
    name, known = os.fspath(name_or_path), shipped()
    folder = known.get(name, Path(name).expanduser())
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision {revision!r} belongs to a Hugging Face Hub id, but {name!r} is a folder: leave it out"
            )
        return folder
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return _download(name, revision)
    raise CheckpointError(
        f"no checkpoint {name!r}: expected a shipped name, a folder that exists, or a Hugging Face Hub id such as "
        f"'thuml/ivideogpt-oxe-64-act-free'; {nearest(name, known)}"
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(NEEDED)))
    except Exception as error:  # the client raises its own errors, those of its transport, and OSError
        raise CheckpointError(
            f"expected a folder {name!r} or a Hugging Face Hub id. There is no such folder, and the Hub gives "
            f"{type(error).__name__}: {str(error).rstrip('. ')}. Check the id, the connection and, for a private one, "
            "`hf auth login`; or download it elsewhere and give its folder"
        ) from error


def _read(path: Path, problems: list[str]) -> TensorFile | None:
    """A file without its unused tensors; None if it cannot be read."""
    try:
        tensors, metadata = read_tensors(path, "a safetensors file")
    except CheckpointError as error:
        problems.append(str(error))
        return None
    return TensorFile({key: value for key, value in tensors.items() if not UNUSED.fullmatch(key)}, metadata)


def _check_pair(tokenizer: TensorFile | None, transformer: TensorFile | None, problems: list[str]) -> None:
    """A transformer can use only the tokenizer that it was saved with."""
    if tokenizer is None or transformer is None or TOKENIZER_DIGEST not in transformer.metadata:
        return
    if transformer.metadata[TOKENIZER_DIGEST] != tokenizer.metadata.get(DIGEST):
        problems.append(
            f"{TRANSFORMER} was saved with another tokenizer than {TOKENIZER}: fetch or save both together again"
        )


def _json(folder: Path, name: str, problems: list[str]) -> Mapping[str, Any] | None:
    try:
        return read_json(folder / name, name)
    except ConfigError as error:
        problems.append(str(error))
        return None


def read_config(folder: Path) -> WorldModelConfig:
    """The configuration of a checkpoint in our layout, without its weights.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    return from_dict(WorldModelConfig, read_json(folder / CONFIG), str(folder / CONFIG))


def _own_config(folder: Path, goal_conditioned: bool | None, problems: list[str]) -> WorldModelConfig | None:
    config = _attempt(partial(from_dict, WorldModelConfig), _json(folder, CONFIG, problems), CONFIG, problems)
    if config is not None and goal_conditioned not in (None, config.goal_conditioned):
        problems.append(
            f"{CONFIG}: goal_conditioned: saved {config.goal_conditioned}, requested {goal_conditioned}: leave the "
            "argument out, it is for published folders only"
        )
    return config


def _published_config(
    folder: Path, tensors: Tensors, goal_conditioned: bool, problems: list[str]
) -> WorldModelConfig | None:
    """The configuration by the two published files and the names of the tensors; rewards are taken as symlog."""
    tokenizer, transformer = (_json(folder, name, problems) for name in PUBLISHED_CONFIGS)
    tokenizer_config = _attempt(config_from_published, tokenizer, PUBLISHED_CONFIGS[0], problems)
    transformer_config = _attempt(transformer_from_published, transformer, PUBLISHED_CONFIGS[1], problems)
    if tokenizer_config is None or transformer_config is None:
        return None
    conditioned = any(key.startswith(("llm.", "action_linear.")) for key in tensors)
    action = tensors.get("action_linear.weight", torch.empty(1, 1, device="cpu"))
    try:
        return WorldModelConfig(
            tokenizer_config,
            transformer_config,
            action_dim=action.shape[-1] if conditioned else 0,
            reward=any(key.startswith("reward_linear.") for key in tensors),
            goal_conditioned=goal_conditioned,
        )
    except ConfigError as error:
        problems.append(str(error))
        return None


def _attempt(
    read: Callable[[Mapping[str, Any], str], T], values: Mapping[str, Any] | None, name: str, problems: list[str]
) -> T | None:
    try:
        return None if values is None else read(values, name)
    except ConfigError as error:
        problems.append(str(error))
        return None


def transformer_from_published(values: Mapping[str, Any], where: str) -> TransformerConfig:
    """Read a published ``transformer/config.json`` (Hugging Face's LlamaConfig).

    Args:
        values: the file's content. Entries that have no effect here are ignored.
        where: the file's name, for error messages.

    Raises:
        ConfigError: lists all entries that are missing or not implemented.
    """
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"{where}: rope_parameters or rope_scaling: expected a JSON object, got {rope!r}")
    fixed = {
        "model_type": (values.get("model_type", "llama"), "llama"),
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "attention_bias": (values.get("attention_bias", False), False),
        "mlp_bias": (values.get("mlp_bias", False), False),
        "tie_word_embeddings": (values.get("tie_word_embeddings", False), False),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
    }
    if isinstance(heads, int) and isinstance(width, int) and heads > 0:
        fixed["head_dim"] = (values.get("head_dim") or width // heads, width // heads)
    required = {
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "hidden_size": "hidden_size",
        "intermediate_size": "mlp_size",
        "max_position_embeddings": "max_positions",
    }
    problems = [
        f"{name}: expected {want!r}, the only form implemented, got {got!r}"
        for name, (got, want) in fixed.items()
        if got != want
    ]
    problems += [f"entry {name!r} is missing" for name in required if values.get(name) is None]
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems))
    fields = {field: values[name] for name, field in required.items()}
    fields["key_value_heads"] = values.get("num_key_value_heads") or heads
    fields["rope_theta"] = rope.get("rope_theta", values.get("rope_theta", TransformerConfig.rope_theta))
    fields["norm_eps"] = values.get("rms_norm_eps", TransformerConfig.norm_eps)
    return from_dict(TransformerConfig, fields, where)


def transformer_to_published(config: TransformerConfig, vocab_size: int) -> dict[str, Any]:
    """Inverse of :func:`transformer_from_published`, with what Hugging Face's LlamaConfig needs beside it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _prefixed(file: TensorFile | None) -> TensorFile | None:
    """Published action-free checkpoints contain the language model alone, which here is the part ``llm``."""
    if file is None or any(key.startswith("llm.") for key in file.tensors):
        return file
    heads = ("action_linear.", "reward_linear.")
    named = {key if key.startswith(heads) else f"llm.{key}": value for key, value in file.tensors.items()}
    return file._replace(tensors=named)


def differences(part: str, expected: Mapping[str, Tensor], found: Tensors) -> list[str]:
    """All differences between two sets of tensors: names, shapes, kinds of dtype, and values that are not finite.

    Args:
        part: name of what they belong to, for the messages.
        expected: tensors of the right names, shapes and dtypes, such as a state dict.
        found: tensors to check.

    Returns:
        A message for each difference.
    """
    problems = [f"{part}: tensor {key!r} is missing" for key in expected if key not in found]
    problems += [f"{part}: tensor {key!r} is unknown" for key in found if key not in expected]
    for key in expected.keys() & found.keys():
        want, got = expected[key], found[key]
        if want.shape != got.shape:
            problems.append(f"{part}: tensor {key!r} has shape {list(got.shape)}, expected {list(want.shape)}")
        elif want.is_floating_point() != got.is_floating_point():
            problems.append(f"{part}: tensor {key!r} is {got.dtype}, expected {want.dtype}")
        elif got.is_floating_point() and not torch.isfinite(got).all():
            problems.append(f"{part}: tensor {key!r} holds values that are not finite")
    return problems


def _assign(module: nn.Module, tensors: Tensors, dtype: torch.dtype) -> None:
    """Make tensors the weights of a module that was built on the meta device."""
    weights = dict(module.named_parameters())  # the rest are statistics, which keep their dtype
    converted = {key: value.to(dtype) if key in weights else value for key, value in tensors.items()}
    module.load_state_dict(converted, strict=True, assign=True)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:  # not in the state dict: a statistic for training, which starts at zero
                setattr(owner, name, torch.zeros_like(buffer, device="cpu"))


def _stored(module: nn.Module, dtype: torch.dtype | None) -> Tensors:
    """The tensors that are written. Vectors keep their dtype: they are small, and statistics may not fit float16."""
    tensors: Tensors = module.state_dict()
    if dtype is None:
        return tensors
    return {
        name: value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
        for name, value in tensors.items()
    }


def _refusal(folder: Path, problems: list[str]) -> CheckpointError:
    listed = "\n".join(f"  - {problem}" for problem in sorted(set(problems)))
    return CheckpointError(f"{folder} cannot be loaded:\n{listed}")
