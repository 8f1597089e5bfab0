from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from worldgym import native
from worldgym.config import CompressiveTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.tokenizer.compressive import CompressiveTokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

TINY_TOKENIZER = CompressiveTokenizerConfig(
    resolution=32,
    channels=(8, 8, 16),
    layers_per_block=1,
    latent_channels=4,
    context_codes=20,
    dynamics_codes=24,
    max_attention_resolution=8,
    norm_groups=4,
)
TINY_TRANSFORMER = TransformerConfig(
    layers=2, heads=4, key_value_heads=2, hidden_size=32, mlp_size=48, max_positions=129 + 4 * 5 + 3
)
MakeModel = Callable[..., WorldModel]


@pytest.fixture
def make_model() -> MakeModel:
    """A small world model with random weights, whose outputs depend strongly on its inputs."""

    def make(**changes: Any) -> WorldModel:
        options = {"action_dim": 3, "reward": True, **changes}
        config = WorldModelConfig(
            options.pop("tokenizer", TINY_TOKENIZER), options.pop("transformer", TINY_TRANSFORMER), **options
        )
        torch.manual_seed(0)
        transformer = Transformer.build(config)
        for parameter in transformer.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
        assert isinstance(config.tokenizer, CompressiveTokenizerConfig)
        tokenizer = CompressiveTokenizer(config.tokenizer)
        for quantizer in (tokenizer.quantize, tokenizer.dynamics_quantize):
            torch.nn.init.normal_(quantizer.embedding.weight)
        return WorldModel(config, tokenizer, transformer)

    return make


@pytest.fixture
def model(make_model: MakeModel) -> WorldModel:
    return make_model()


@pytest.fixture(scope="session")
def parity() -> Path:
    """A folder in the published layout, with results of the reference implementation."""
    return Path(__file__).parents[1] / "parity" / "ctx2-64px"


@pytest.fixture(scope="session")
def expected(parity: Path) -> dict[str, torch.Tensor]:
    return load_file(parity / "expected.safetensors")


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache folder of a user who has not built the library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CC", native.SWITCH):
        monkeypatch.delenv(name, raising=False)
    native.library.cache_clear()
    yield tmp_path / "cache" / "worldgym"
    native.library.cache_clear()


@pytest.fixture
def make_compiler(tmp_path: Path) -> Callable[[str, str], str]:
    """CC for a compiler that refuses flags matching ``refuses``, a shell pattern, and adds ``flags``."""

    def make(refuses: str, flags: str) -> str:
        script = tmp_path / "my cc"
        script.write_text(
            f'for flag; do case "$flag" in {refuses}) echo "error: unknown $flag" >&2; exit 1;; esac; done\n'
            f'exec cc "$@" {flags}\n'
        )
        return f"sh '{script}'"

    return make


@pytest.fixture
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def threads_of() -> Callable[[int], AbstractContextManager[None]]:
    """A context with this number of PyTorch threads."""

    @contextmanager
    def threads(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        yield
        torch.set_num_threads(before)

    return threads


@pytest.fixture(scope="session")
def torch_settings() -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """PyTorch settings that a caller may have, by name: contexts in which they hold."""
    return {
        "float64": lambda: _default_dtype(torch.float64),
        "bfloat16": lambda: _default_dtype(torch.bfloat16),
        "default device": lambda: _default_device("meta"),
        "device context": lambda: torch.device("meta"),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference mode": torch.inference_mode,
        "no gradients": torch.no_grad,
        "deterministic": _deterministic,
    }


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
