"""How long one imagined frame takes, beside Hugging Face's LLaMA with its own cache.

Run it: ``python tests/benchmarks/bench_transformer.py``.

The architecture is that of the small models: 6 layers x 320, one key/value head, a context of 129 positions.
"""

import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from worldgym.config import TransformerConfig
from worldgym.tokens import TokenLayout
from worldgym.transformer.decoding.frame import imagine_frame, read_context
from worldgym.transformer.transformer import Transformer

CONFIG = TransformerConfig(layers=6, heads=5, key_value_heads=1, hidden_size=320, mlp_size=960, max_positions=512)
LAYOUT = TokenLayout(
    context_length=2, tokens_per_context_frame=64, tokens_per_frame=16, context_codes=512, dynamics_codes=512
)
ACTION_DIM = 4


def hugging_face(model: Transformer) -> LlamaForCausalLM:
    """The same weights in Hugging Face's model."""
    config = LlamaConfig(
        vocab_size=model.layout.vocab_size,
        hidden_size=model.config.hidden_size,
        intermediate_size=model.config.mlp_size,
        num_hidden_layers=model.config.layers,
        num_attention_heads=model.config.heads,
        num_key_value_heads=model.config.key_value_heads,
        max_position_embeddings=model.config.max_positions,
        rms_norm_eps=model.config.norm_eps,
    )
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.llm.state_dict())
    return other


def ours(model: Transformer, batch: int) -> Callable[[], None]:
    """One frame behind the context; the cache is set back each time."""
    cache = read_context(model, torch.zeros(batch, LAYOUT.context_length, LAYOUT.tokens_per_context_frame).long())
    action, uniforms = torch.zeros(batch, ACTION_DIM), torch.rand(batch, LAYOUT.tokens_per_frame)

    def frame() -> None:
        cache.set_filled(LAYOUT.prefix_length)
        imagine_frame(model, cache, action, uniforms, top_k=100)

    return frame


def theirs(model: Transformer, batch: int) -> Callable[[], None]:
    """The same frame through Hugging Face's forward pass and cache, tokens drawn by multinomial from the top 100."""
    other, cache, action = hugging_face(model), DynamicCache(), torch.zeros(batch, ACTION_DIM)
    other(torch.zeros(batch, LAYOUT.prefix_length).long(), past_key_values=cache, use_cache=True)

    def frame() -> None:
        x = model.slot_embedding(action, action)
        for _ in range(LAYOUT.step_length):
            logits = other(inputs_embeds=x, past_key_values=cache, use_cache=True).logits[:, -1, LAYOUT.dynamics_ids]
            values, indices = logits.topk(100)
            drawn = indices.gather(1, values.softmax(-1).multinomial(1))
            x = model.embed(LAYOUT.dynamics_id(drawn))
        cache.crop(-LAYOUT.step_length)

    return frame


def milliseconds(job: Callable[[], None], repeats: int = 15) -> float:
    """The fastest of several runs, which other jobs on the machine disturb least."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, ms a frame of the whole batch")
    print(f"{'dtype':>9} {'batch':>5} {'worldgym':>9} {'transformers':>12}")
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        model = Transformer(CONFIG, LAYOUT, ACTION_DIM, reward=True).eval()
        for batch in (1, 8, 32):
            row = milliseconds(ours(model, batch)), milliseconds(theirs(model, batch))
            print(f"{str(dtype)[6:]:>9} {batch:>5} {row[0]:>9.1f} {row[1]:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
