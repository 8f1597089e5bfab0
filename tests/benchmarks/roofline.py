"""What a machine could do at best: the work of one imagined frame, counted from its shapes, over two measured ceilings.

The count is what cannot be avoided. Transformer: every weight is read once a position and every cached key and value of
every row once; nothing between two products touches memory. Decoder: weights, the rows' context features and the frame
move once; nothing between two layers touches memory. Embeddings, norms, sampling and activations count as free.

The ceilings are the best that this machine showed in the same run: the fastest of some large matrix products and of a
large convolution in the dtype (which of them is faster differs by library and processor), and the fastest read of a
buffer as large as what a part reads again and again. A small model lives in the last cache, which is many times faster
than memory, so that one bandwidth for all would flatter small models.
"""

import functools
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from measuring import Job, timed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from worldgym import WorldModel
from worldgym.tokenizer.base import ContextFeatures

LARGE = 2**29  # bytes, beyond every cache
PRODUCTS = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}  # sides of square matrices
CONVOLUTIONS = {"cpu": (16, 16), "cuda": (64, 64)}  # images, side; 256 channels


class Work(NamedTuple):
    """Of one frame in all rows."""

    flops: float
    bytes: float
    working_set: float
    """Bytes that are read again and again, or all of them where nothing is."""


def transformer_work(model: WorldModel, batch: int, past: int) -> Work:
    """A slot and its codes behind ``past`` positions."""
    config, layout, size = model.config.transformer, model.layout, model.dtype.itemsize
    queries, keys = config.heads * config.head_dim, config.key_value_heads * config.head_dim
    blocks = config.layers * config.hidden_size * (2 * queries + 2 * keys + 3 * config.mlp_size)
    head = layout.dynamics_codes * config.hidden_size
    products = layout.step_length * blocks + layout.tokens_per_frame * head
    seen = config.layers * sum(range(past + 1, past + layout.step_length + 1))
    longest = config.layers * (past + layout.step_length)
    return Work(
        flops=2 * batch * (products + 2 * queries * seen),
        bytes=size * (products + batch * 2 * keys * seen),
        working_set=size * (blocks + head + batch * 2 * keys * longest),
    )


def decoder_work(model: WorldModel, batch: int, features: ContextFeatures) -> Work:
    """From codes to pixels, counted on one row: rows share nothing but the weights."""
    one = features.select(torch.zeros(1, dtype=torch.int64, device=model.device))
    codes = torch.zeros(1, 1, model.layout.tokens_per_frame, dtype=torch.int64, device=model.device)
    # Out of inference mode, in which composite operators would not show what they are made of.
    with torch.inference_mode(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        model.tokenizer.decode_future(codes, one)
    assert counter.flops, "the decoder ran outside PyTorch's operators, where nothing can be counted"
    weights = sum(each.nbytes for each in model.tokenizer.parameters() if _place(each) in counter.touched)
    row = sum(each.nbytes for each in one.tensors if _place(each) in counter.touched) + 3 * model.config.resolution**2
    moved = weights + batch * row
    return Work(batch * counter.flops, moved, moved)


class _Counter(TorchDispatchMode):
    """Operations of all products and convolutions, and where in memory all operators' arguments lie."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.touched = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.touched.update(_place(each) for each in args if isinstance(each, torch.Tensor))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


class Ceilings:
    """The best rates seen so far; measuring again can only raise them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flops: dict[torch.dtype, float] = {}
        self.reads: dict[int, float] = {}

    def measure(self, dtypes: Collection[torch.dtype], sizes: Collection[float], seconds: float = 0.2) -> None:
        """Time large jobs in each dtype, and reads of buffers of each size in bytes and of one beyond every cache."""
        for dtype in dtypes:
            for flops, job in _large_jobs(dtype, self.device):
                self.flops[dtype] = max(flops / self._fastest(job, seconds), self.flops.get(dtype, 0))
        for size in {LARGE, *(min(int(size), LARGE) for size in sizes)}:
            buffer = torch.ones(size // 4, device=self.device)  # zeros might be one page, seen many times
            rate = size / self._fastest(buffer.sum, seconds)
            self.reads[size] = max(rate, self.reads.get(size, 0))

    def bandwidth(self, size: float) -> float:
        """Bytes a second from a buffer of so many bytes. None is slower than a larger one: that was noise."""
        return max(rate for other, rate in self.reads.items() if other >= min(size, LARGE) - 1)

    def seconds(self, work: Work, dtype: torch.dtype) -> float:
        """The longer of computing and reading: at best they overlap."""
        return max(work.flops / self.flops[dtype], work.bytes / self.bandwidth(work.working_set))

    def values(self) -> dict[str, dict[str, float]]:
        """For a file: operations a second by dtype, bytes a second by the size of the buffer."""
        reads = {str(size): self.bandwidth(size) for size in sorted(self.reads)}
        return {"flops": {str(dtype)[6:]: rate for dtype, rate in self.flops.items()}, "reads": reads}

    def _fastest(self, job: Job, seconds: float) -> float:
        """Seconds a call; on a GPU of many in a row, so that starting them counts little."""
        calls, fastest, until = 1 if self.device.type == "cpu" else 20, float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until or fastest == float("inf"):
            fastest = min(fastest, timed(lambda: [job() for _ in range(calls)], self.device) / calls)
        return fastest


def _large_jobs(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[float, Job]]:
    """Products and a convolution, one at a time, with their operations."""
    for side in PRODUCTS[device.type]:
        x, y = (torch.rand(side, side, dtype=dtype, device=device) for _ in range(2))
        yield 2 * side**3, functools.partial(torch.mm, x, y)
    images, side = CONVOLUTIONS[device.type]
    maps, weight = torch.rand(images, 256, side, side), torch.rand(256, 256, 3, 3)
    maps, weight = (each.to(device, dtype, memory_format=torch.channels_last) for each in (maps, weight))
    yield 2 * 9 * 256**2 * images * side**2, functools.partial(F.conv2d, maps, weight, padding=1)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
