// Two functions: decode_codes samples the codes of one frame for all rows in one call (the operators of
// transformer/decoding/eager.py), norm_silu is GroupNorm with SiLU (tokenizer/norm.py).
//
// At batch 1 a position costs little more than one pass over the weights, and calling some 40 small operators per layer
// costs several times that. Here all positions of a frame, sampling included, run in one parallel region.
//
// Matrices are row-major. Weights and cache are float32, or bfloat16 if `half` is set; everything else is float32,
// rounded to bfloat16 only as an operand of a product. Plain C with vector extensions (GCC, Clang).
//
// Nothing is checked here: worldgym/native.py checks dtype, device, order and size of every tensor it passes.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

// Vectors are as wide as the registers: compilers split wider ones through memory. TILE vectors of sums stay in registers
// at a time, beside the operands.
#if defined(__AVX512F__)
#define LANES 16
#define TILE 16
#elif defined(__AVX__)
#define LANES 8
#define TILE 8
#else
#define LANES 4
#define TILE 16
#endif
// Without this, GCC loads an operand again for every product: it makes the register look modified.
#if defined(__AVX512F__)
#define HOLD(x) __asm__("" : "+v"(x))
#elif defined(__SSE__)
#define HOLD(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define HOLD(x) __asm__("" : "+w"(x))
#else
#define HOLD(x)
#endif
// With at least OWN_ROWS rows per thread, each thread processes rows of its own. In half precision it takes NEAR_ROWS of
// them at a time, which then stay in its cache. In float32 it takes all, because reading the weights again takes longer.
#define OWN_ROWS(half) ((half) ? 4 : 8)
#define NEAR_ROWS 16
// How far ahead memory is prefetched: strips of weights or keys, which are as wide as a tile, and positions of values.
#define STRIPS_AHEAD 2
#define VALUES_AHEAD 32
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint16_t bf16;

typedef struct {
    const void *input_norm, *q, *k, *v, *o, *output_norm, *gate, *up, *down;
    void *keys, *values;                      // [B, K, capacity, E]
    const void *shared_keys, *shared_values;  // [R, K, shared_capacity, E] or null
} Layer;

typedef struct {
    int64_t batch, layers, hidden, heads, kv_heads, head_dim, mlp, codes, tokens, capacity, shared_capacity;
    int64_t top_k, half, threads;
    float eps, temperature;
    const Layer *layer;
    const void *norm, *head, *embedding, *position;  // [D], [V, D], [V, D], [tokens + 1, D] or null
    const float *cosines, *sines;                 // [positions, E / 2]
    const int64_t *lengths, *shared_lengths, *shared_rows;  // [B]: own positions filled, shared ones, row of the shared
    const float *slots, *uniforms;                // [B, D], [B, tokens]
    int64_t *sampled;                               // [B, tokens]
    float *entropy, *last;                        // [B], [B, D]
} DecodeCall;

INLINE float to_float(const void *x, int64_t i, int half) {
    if (!half) return ((const float *)x)[i];
    uint32_t bits = (uint32_t)((const bf16 *)x)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE vec load(const void *x, int64_t i, int half) {
    if (!half) return *(const vec *)((const float *)x + i);
    return (vec)(__builtin_convertvector(*(const halves *)((const bf16 *)x + i), words) << 16);
}

// exp, limited to the range of float32, without a branch so that loops over it are vectorised.
INLINE float fast_exp(float x) {
    x = x > -87.0f ? x : -87.0f;  // NaN becomes -87 too: converting it to an integer would be undefined
    x = x < 88.0f ? x : 88.0f;
    float scaled = x * 1.44269504f, whole = (scaled + 12582912.0f) - 12582912.0f;
    float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

// Of x and y, concatenated, every second group of w lanes: the first, third, ... or, if `high`, the others.
#define PICK(i, w, high) ((i) / (w) * 2 * (w) + (i) % (w) + ((high) ? (w) : 0))
#define PICKS4(i, w, h) PICK(i, w, h), PICK(i + 1, w, h), PICK(i + 2, w, h), PICK(i + 3, w, h)
#define PICKS8(i, w, h) PICKS4(i, w, h), PICKS4(i + 4, w, h)
#if LANES == 16
#define PICKS(w, h) PICKS8(0, w, h), PICKS8(8, w, h)
#elif LANES == 8
#define PICKS(w, h) PICKS8(0, w, h)
#else
#define PICKS(w, h) PICKS4(0, w, h)
#endif
#ifdef __clang__
#define SHUFFLE2(x, y, w, h) __builtin_shufflevector(x, y, PICKS(w, h))
#else
#define SHUFFLE2(x, y, w, h) __builtin_shuffle(x, y, (lanes){PICKS(w, h)})
#endif
#define FOLD(w)                                  \
    for (int i = 0; i < TILE * (w) / LANES; i++) \
        a[i] = SHUFFLE2(a[2 * i], a[2 * i + 1], w, 0) + SHUFFLE2(a[2 * i], a[2 * i + 1], w, 1);

// TILE vectors become their TILE sums: each round adds the halves of each vector and merges the results of two.
INLINE void sums(vec *a) {
#if LANES > 8
    FOLD(8)
#endif
#if LANES > 4
    FOLD(4)
#endif
    FOLD(2)
    FOLD(1)
}

// ROWS x COLUMNS = TILE dot products of rows of x with rows of w; rows beyond the end are read from the last one.
INLINE void tile(const void *x, int64_t rows, const void *w, int64_t columns, int64_t depth, float *y, int64_t stride,
                 int add, int half, const int ROWS, const int COLUMNS) {
    const char *xs[4], *ws[TILE];
    const int64_t bytes = half ? 2 : 4;
    for (int i = 0; i < ROWS; i++) xs[i] = (const char *)x + (i < rows ? i : rows - 1) * depth * bytes;
    for (int j = 0; j < COLUMNS; j++) ws[j] = (const char *)w + (j < columns ? j : columns - 1) * depth * bytes;
    vec total[TILE];
    for (int i = 0; i < TILE; i++) total[i] = (vec){0};
    int64_t d = 0;
#ifdef __AVX512BF16__
    if (half)
        for (; d + 32 <= depth; d += 32) {
            __m512bh a[4];
            for (int i = 0; i < ROWS; i++) a[i] = (__m512bh)_mm512_loadu_si512(xs[i] + 2 * d);
            for (int j = 0; j < COLUMNS; j++) {
                __m512bh b = (__m512bh)_mm512_loadu_si512(ws[j] + 2 * d);
                for (int i = 0; i < ROWS; i++)
                    total[i * COLUMNS + j] = (vec)_mm512_dpbf16_ps((__m512)total[i * COLUMNS + j], a[i], b);
            }
        }
#endif
    for (; d + LANES <= depth; d += LANES) {
        vec a[4];
        for (int i = 0; i < ROWS; i++) {
            a[i] = load(xs[i], d, half);
            HOLD(a[i]);
        }
        for (int j = 0; j < COLUMNS; j++) {
            vec b = load(ws[j], d, half);
            HOLD(b);
            for (int i = 0; i < ROWS; i++) total[i * COLUMNS + j] += a[i] * b;
        }
    }
    float done[TILE];
    sums(total);
    for (int i = 0; i < TILE / LANES; i++) *(vec *)(done + i * LANES) = total[i];
    if (d < depth)
        for (int i = 0; i < TILE; i++)
            for (int64_t rest = d; rest < depth; rest++)
                done[i] += to_float(xs[i / COLUMNS], rest, half) * to_float(ws[i % COLUMNS], rest, half);
    if (rows >= ROWS && columns >= COLUMNS) {
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLUMNS; j++)
                y[i * stride + j] = done[i * COLUMNS + j] + (add ? y[i * stride + j] : 0.0f);
        return;
    }
    for (int i = 0; i < ROWS && i < rows; i++)
        for (int j = 0; j < COLUMNS && j < columns; j++)
            y[i * stride + j] = done[i * COLUMNS + j] + (add ? y[i * stride + j] : 0.0f);
}

INLINE void product_of(const void *x, int64_t rows, const void *w, int64_t columns, int64_t depth, float *y,
                       int64_t stride, int add, int half) {
    const int64_t bytes = half ? 2 : 4;
    const int wide = rows == 1 ? TILE : rows == 2 ? TILE / 2 : TILE / 4;
    const int64_t strip = wide * depth * bytes, tiles = (rows + 3) / 4;
    const int64_t fetched = (strip / tiles + 63) / 64 * 64;  // with each tile, in lines of the cache
    for (int64_t j = 0; j < columns; j += wide) {  // the weights are read once, the rows stay in the cache
        const char *wj = (const char *)w + j * depth * bytes;
        for (int64_t i = 0; i < rows; i += 4) {
            const char *xi = (const char *)x + i * depth * bytes;
            float *out = y + i * stride + j;
            // Prefetch a later strip meanwhile; beyond the end a prefetch does nothing. With fewer products the
            // processor's own prefetching is as good.
            if (tiles > 1 || (!half && wide == TILE / 4))
                for (int64_t ahead = i / 4 * fetched; ahead < (i / 4 + 1) * fetched && ahead < strip; ahead += 64)
                    __builtin_prefetch(wj + STRIPS_AHEAD * strip + ahead);
            if (wide == TILE) tile(xi, 1, wj, columns - j, depth, out, stride, add, half, 1, TILE);
            else if (wide == TILE / 2) tile(xi, 2, wj, columns - j, depth, out, stride, add, half, 2, TILE / 2);
            else tile(xi, rows - i, wj, columns - j, depth, out, stride, add, half, 4, TILE / 4);
        }
    }
}

// y[rows, columns] = or += x[rows, depth] w[columns, depth]^T; x and w are both float32 or both bfloat16.
static void product(const void *x, int64_t rows, const void *w, int64_t columns, int64_t depth, float *y,
                    int64_t stride, int add, int half) {
    if (half) product_of(x, rows, w, columns, depth, y, stride, add, 1);
    else product_of(x, rows, w, columns, depth, y, stride, add, 0);
}

static const void *operand(const float *x, int64_t count, bf16 *space, int half) {
    if (!half) return x;
    for (int64_t i = 0; i < count; i++) space[i] = to_bf16(x[i]);
    return space;
}

INLINE const void *offset(const void *x, int64_t elements, int half) {
    return (const char *)x + elements * (half ? 2 : 4);
}

static float total_of(const float *x, int64_t count) {
    vec total = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) total += load(x, i, 0);
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += total[l];
    for (; i < count; i++) sum += x[i];
    return sum;
}

static float highest_of(const float *x, int64_t count) {
    float highest = x[0];
    int64_t i = 0;
    if (count >= LANES) {
        vec top = load(x, 0, 0);
        for (i = LANES; i + LANES <= count; i += LANES) {
            vec next = load(x, i, 0);
            lanes more = next > top;
            top = (vec)(((lanes)next & more) | ((lanes)top & ~more));
        }
        for (int l = 0; l < LANES; l++) highest = top[l] > highest ? top[l] : highest;
    }
    for (; i < count; i++) highest = x[i] > highest ? x[i] : highest;
    return highest;
}

// RMS norm of all rows, as float32 or rounded for a product.
static const void *normed(const DecodeCall *f, const float *x, const void *weight, float *out, bf16 *space) {
    const int64_t width = f->hidden;
    for (int64_t b = 0; b < f->batch; b++) {
        const float *row = x + b * width;
        float *to = out + b * width;
        for (int64_t i = 0; i < width; i++) to[i] = row[i] * row[i];
        float scale = 1.0f / sqrtf(total_of(to, width) / (float)width + f->eps);
        for (int64_t i = 0; i < width; i++) to[i] = row[i] * scale * to_float(weight, i, f->half);
    }
    return operand(out, f->batch * width, space, f->half);
}

static void rotate(float *x, const float *cosines, const float *sines, int64_t half_dim) {
    for (int64_t i = 0; i < half_dim; i++) {
        float a = x[i], b = x[i + half_dim];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half_dim] = b * cosines[i] + a * sines[i];
    }
}

// out[h, at : at + CHUNK * LANES] += sum over positions of share[h, j] * values[j, the same], for HEADS rows of both
INLINE void mix_chunk(const float *share, int64_t stride, const void *values, int64_t count, int64_t width, int64_t at,
                      float *out, int half, const int HEADS, const int CHUNK) {
    vec total[TILE];
    for (int h = 0; h < HEADS; h++)
        for (int c = 0; c < CHUNK; c++) total[h * CHUNK + c] = load(out, h * width + at + c * LANES, 0);
    for (int64_t j = 0; j < count; j++) {
        vec shares[4];
        for (int h = 0; h < HEADS; h++) {
            shares[h] = share[h * stride + j] - (vec){0};  // in every lane
            HOLD(shares[h]);
        }
        for (int c = 0; c < CHUNK; c++) {
            __builtin_prefetch(offset(values, (j + VALUES_AHEAD) * width + at + c * LANES, half));
            vec value = load(values, j * width + at + c * LANES, half);
            HOLD(value);
            for (int h = 0; h < HEADS; h++) total[h * CHUNK + c] += shares[h] * value;
        }
    }
    for (int h = 0; h < HEADS; h++)
        for (int c = 0; c < CHUNK; c++) *(vec *)(out + h * width + at + c * LANES) = total[h * CHUNK + c];
}

// out[h, E] += sum over positions of share[h, j] * values[j, E]: the values are read once for every four heads
INLINE void mix_of(const float *share, int64_t stride, int64_t heads, const void *values, int64_t count, int64_t width,
                   float *out, int half) {
    int64_t h = 0;
    for (; h < heads; h += heads - h >= 4 ? 4 : 1) {
        const float *rows = share + h * stride;
        float *to = out + h * width;
        int64_t at = 0;
        for (; at + TILE / 4 * LANES <= width; at += TILE / 4 * LANES) {
            if (heads - h >= 4) mix_chunk(rows, stride, values, count, width, at, to, half, 4, TILE / 4);
            else mix_chunk(rows, stride, values, count, width, at, to, half, 1, TILE / 4);
        }
        for (; at + LANES <= width; at += LANES) {
            if (heads - h >= 4) mix_chunk(rows, stride, values, count, width, at, to, half, 4, 1);
            else mix_chunk(rows, stride, values, count, width, at, to, half, 1, 1);
        }
        for (; at < width; at++)
            for (int64_t i = 0; i < (heads - h >= 4 ? 4 : 1); i++)
                for (int64_t j = 0; j < count; j++)
                    to[i * width + at] += rows[i * stride + j] * to_float(values, j * width + at, half);
    }
}

static void mix(const float *share, int64_t stride, int64_t heads, const void *values, int64_t count, int64_t width,
                float *out, int half) {
    if (half) mix_of(share, stride, heads, values, count, width, out, 1);
    else mix_of(share, stride, heads, values, count, width, out, 0);
}

typedef struct {
    float *norm, *scores;
    bf16 *space;
} Scratch;

// Attention of some query heads of one row that share a key/value head; q: [heads, E], rotated and scaled.
static void attend(const DecodeCall *f, const Layer *layer, int64_t row, int64_t kv, const float *q, int64_t heads,
                   int64_t step, float *out, Scratch *s) {
    const int64_t width = f->head_dim, half = f->half, own = f->lengths[row] + step + 1;
    const int64_t shared = f->shared_lengths ? f->shared_lengths[row] : 0, count = shared + own;
    const int64_t at = (row * f->kv_heads + kv) * f->capacity * width;
    const int64_t before = shared ? (f->shared_rows[row] * f->kv_heads + kv) * f->shared_capacity * width : 0;
    const void *queries = operand(q, heads * width, s->space, half);
    if (shared)
        product(queries, heads, offset(layer->shared_keys, before, half), shared, width, s->scores, count, 0, half);
    product(queries, heads, offset(layer->keys, at, half), own, width, s->scores + shared, count, 0, half);
    float scale[heads];
    for (int64_t h = 0; h < heads; h++) {
        float *score = s->scores + h * count, highest = highest_of(score, count);
        for (int64_t j = 0; j < count; j++) score[j] = fast_exp(score[j] - highest);
        scale[h] = 1.0f / total_of(score, count);
    }
    memset(out, 0, heads * width * sizeof(float));
    if (shared) mix(s->scores, count, heads, offset(layer->shared_values, before, half), shared, width, out, half);
    mix(s->scores + shared, count, heads, offset(layer->values, at, half), own, width, out, half);
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < width; i++) out[h * width + i] *= scale[h];
}

static void store(void *to, int64_t at, const float *x, int64_t count, int half) {
    for (int64_t i = 0; i < count; i++) {
        if (half) ((bf16 *)to)[at + i] = to_bf16(x[i]);
        else ((float *)to)[at + i] = x[i];
    }
}

// Rotate and store the new position of one row's key/value head; qkv: [H + 2K heads, E] of that row.
static void store_position(const DecodeCall *f, const Layer *layer, int64_t row, int64_t kv, float *qkv, int64_t step) {
    const int64_t width = f->head_dim, column = f->lengths[row] + step;
    const int64_t turn = (column + (f->shared_lengths ? f->shared_lengths[row] : 0)) * width / 2;
    const int64_t at = ((row * f->kv_heads + kv) * f->capacity + column) * width, group = f->heads / f->kv_heads;
    float *k = qkv + (f->heads + kv) * width, *v = k + f->kv_heads * width, *q = qkv + kv * group * width;
    rotate(k, f->cosines + turn, f->sines + turn, width / 2);
    for (int64_t h = 0; h < group; h++) rotate(q + h * width, f->cosines + turn, f->sines + turn, width / 2);
    const float scale = 1.0f / sqrtf((float)width);
    for (int64_t i = 0; i < group * width; i++) q[i] *= scale;
    store(layer->keys, at, k, width, f->half);
    store(layer->values, at, v, width, f->half);
}

// Index of the first element equal to `value`; the last index if none is, as with NaN.
static int64_t first_of(const float *x, int64_t count, float value) {
    int64_t i = 0;
    while (i + 1 < count && x[i] != value) i++;
    return i;
}

// Remove the largest value, lowest index first, and return its index; tops: the maxima of runs of LANES values.
static int64_t pull(float *x, int64_t count, float *tops, float *value) {
    const int64_t runs = (count + LANES - 1) / LANES;
    *value = highest_of(tops, runs);
    const int64_t run = first_of(tops, runs, *value), start = run * LANES;
    const int64_t width = count - start < LANES ? count - start : LANES;
    const int64_t index = start + first_of(x + start, width, *value);
    x[index] = -INFINITY;
    tops[run] = highest_of(x + start, width);
    return index;
}

// Sample an index from the top_k largest logits by inverse CDF, largest first; add the entropy of all to *entropy.
static int64_t sample(const DecodeCall *f, float *logits, float uniform, float *entropy, float *space) {
    const int64_t count = f->codes, k = f->top_k < count ? f->top_k : count;
    const float highest = highest_of(logits, count);
    for (int64_t i = 0; i < count; i++) space[i] = fast_exp(logits[i] - highest);
    const float total = total_of(space, count);
    for (int64_t i = 0; i < count; i++) space[i] *= logits[i] - highest;
    *entropy += logf(total) - total_of(space, count) / total;
    for (int64_t i = 0; i < count; i += LANES) space[i / LANES] = highest_of(logits + i, count - i < LANES ? count - i : LANES);
    int64_t order[k], n = 0;
    float cumulative[k], value;
    for (int64_t i = 0; i < k; i++) {
        order[i] = pull(logits, count, space, &value);
        cumulative[i] = (i ? cumulative[i - 1] : 0) + expf((value - highest) / f->temperature);
    }
    while (n < k - 1 && cumulative[n] <= uniform * cumulative[k - 1]) n++;
    return order[n];
}

#ifdef _OPENMP
#define BARRIER if (all > 1) { _Pragma("omp barrier") }
#else
#define BARRIER
#endif

typedef struct {
    int64_t from, to;
} Span;

// The part of `count` for one of several threads, in whole tiles if there are enough of them.
static Span span(int64_t count, int64_t thread, int64_t threads) {
    int64_t step = (count + threads - 1) / threads;
    step = (step + 15) / 16 * 16;
    Span part = {thread * step < count ? thread * step : count, (thread + 1) * step < count ? (thread + 1) * step : count};
    return part;
}

static Span even_span(int64_t count, int64_t thread, int64_t threads) {
    Span part = {count * thread / threads, count * (thread + 1) / threads};
    return part;
}

// y[:, span] of x w^T for this thread's part of the columns
static void my_product(const DecodeCall *f, const void *x, const void *w, int64_t columns, int64_t depth, float *y,
                       int64_t stride, int add, int64_t thread, int64_t threads) {
    Span part = span(columns, thread, threads);
    if (part.from < part.to)
        product(x, f->batch, offset(w, part.from * depth, f->half), part.to - part.from, depth, y + part.from, stride,
                add, f->half);
}

typedef struct {
    float *x, *qkv, *mixed, *gate, *up, *logits;
} Shared;

static void run_layer(const DecodeCall *f, const Layer *l, int64_t step, Shared *g, Scratch *s, int64_t me, int64_t all) {
    const int64_t width = f->hidden, head = f->head_dim, group = f->heads / f->kv_heads;
    const int64_t queries = f->heads * head, keys = f->kv_heads * head, stride = queries + 2 * keys;
    const void *in = normed(f, g->x, l->input_norm, s->norm, s->space);
    my_product(f, in, l->q, queries, width, g->qkv, stride, 0, me, all);
    my_product(f, in, l->k, keys, width, g->qkv + queries, stride, 0, me, all);
    my_product(f, in, l->v, keys, width, g->qkv + queries + keys, stride, 0, me, all);
    BARRIER
    Span rows = even_span(f->batch * f->kv_heads, me, all);
    for (int64_t i = rows.from; i < rows.to; i++)
        store_position(f, l, i / f->kv_heads, i % f->kv_heads, g->qkv + i / f->kv_heads * stride, step);
    // with fewer rows than threads, the heads of a group are divided among threads
    const int64_t parts = f->batch * f->kv_heads < all ? group : 1;
    if (parts > 1) {
        BARRIER
        rows = even_span(f->batch * f->heads, me, all);
    }
    for (int64_t i = rows.from; i < rows.to; i++) {
        const int64_t per_row = f->kv_heads * parts, row = i / per_row, unit = i % per_row, heads = group / parts;
        attend(f, l, row, unit / parts, g->qkv + row * stride + unit * heads * head, heads, step,
               g->mixed + row * queries + unit * heads * head, s);
    }
    BARRIER
    in = operand(g->mixed, f->batch * queries, s->space, f->half);
    my_product(f, in, l->o, width, queries, g->x, width, 1, me, all);
    BARRIER
    in = normed(f, g->x, l->output_norm, s->norm, s->space);
    my_product(f, in, l->gate, f->mlp, width, g->gate, f->mlp, 0, me, all);
    my_product(f, in, l->up, f->mlp, width, g->up, f->mlp, 0, me, all);
    Span mine = span(f->mlp, me, all);
    for (int64_t b = 0; b < f->batch; b++) {
        float *gate = g->gate + b * f->mlp;
        const float *up = g->up + b * f->mlp;
        for (int64_t i = mine.from; i < mine.to; i++) gate[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
    }
    BARRIER
    in = operand(g->gate, f->batch * f->mlp, s->space, f->half);
    my_product(f, in, l->down, width, f->mlp, g->x, width, 1, me, all);
    BARRIER
}

// Sample each row's code; its embedding is the input of the next position.
static void next_inputs(const DecodeCall *f, int64_t step, Shared *g, Scratch *s, int64_t me, int64_t all) {
    Span rows = even_span(f->batch, me, all);
    for (int64_t b = rows.from; b < rows.to; b++) {
        float entropy = 0;
        int64_t code = sample(f, g->logits + b * f->codes, f->uniforms[b * f->tokens + step], &entropy, s->scores);
        f->sampled[b * f->tokens + step] = code;
        f->entropy[b] += entropy / (float)f->tokens;
        for (int64_t i = 0; i < f->hidden; i++) {
            float value = to_float(f->embedding, code * f->hidden + i, f->half);
            if (f->position) value += to_float(f->position, (step + 1) * f->hidden + i, f->half);
            g->x[b * f->hidden + i] = value;
        }
    }
}

static void decode_rows(const DecodeCall *f, Shared *g, Scratch *s, int64_t me, int64_t all) {
    for (int64_t step = 0; step <= f->tokens; step++) {
        for (int64_t l = 0; l < f->layers; l++) run_layer(f, f->layer + l, step, g, s, me, all);
        const void *hidden = normed(f, g->x, f->norm, s->norm, s->space);
        if (step == f->tokens) {
            if (me == 0) memcpy(f->last, s->norm, f->batch * f->hidden * sizeof(float));
            return;
        }
        my_product(f, hidden, f->head, f->codes, f->hidden, g->logits, f->codes, 0, me, all);
        BARRIER
        next_inputs(f, step, g, s, me, all);
        BARRIER
    }
}

// The call for some of the rows; fills `layers`.
static DecodeCall rows_of(const DecodeCall *f, Span rows, Layer *layers) {
    const int64_t cached = rows.from * f->kv_heads * f->capacity * f->head_dim;
    DecodeCall part = *f;
    for (int64_t l = 0; l < f->layers; l++) {
        layers[l] = f->layer[l];
        layers[l].keys = (void *)offset(layers[l].keys, cached, f->half);
        layers[l].values = (void *)offset(layers[l].values, cached, f->half);
    }
    part.layer = layers, part.batch = rows.to - rows.from;
    part.lengths += rows.from, part.slots += rows.from * f->hidden, part.uniforms += rows.from * f->tokens;
    if (f->shared_lengths) part.shared_lengths += rows.from, part.shared_rows += rows.from;
    part.sampled += rows.from * f->tokens, part.entropy += rows.from, part.last += rows.from * f->hidden;
    return part;
}

static Shared workspace(const DecodeCall *f, float *memory) {
    const int64_t b = f->batch, queries = f->heads * f->head_dim, keys = f->kv_heads * f->head_dim;
    Shared g = {.x = memory};
    g.qkv = g.x + b * f->hidden;
    g.mixed = g.qkv + b * (queries + 2 * keys);
    g.gate = g.mixed + b * queries;
    g.up = g.gate + b * f->mlp;
    g.logits = g.up + b * f->mlp;
    for (int64_t i = 0; i < b * f->hidden; i++)
        g.x[i] = f->slots[i] + (f->position ? to_float(f->position, i % f->hidden, f->half) : 0.0f);
    return g;
}

// Return 0, or 1 if memory ran out and nothing was done.
//
// Few rows are processed by all threads together, each with its part of the weights. Many rows are divided among the
// threads, which then never wait for each other.
int decode_codes(const DecodeCall *f) {
    if (f->batch < 1) return 0;
    const int64_t b = f->batch, queries = f->heads * f->head_dim, keys = f->kv_heads * f->head_dim;
    const int64_t widest = f->mlp > f->hidden ? (f->mlp > queries ? f->mlp : queries)
                                              : (f->hidden > queries ? f->hidden : queries);
    const int64_t scores = (f->capacity + f->shared_capacity) * (f->heads / f->kv_heads) + f->codes + LANES;
    const int64_t row = f->hidden + 2 * queries + 2 * keys + 2 * f->mlp + f->codes;
    const int64_t each = b * f->hidden + scores + (b * widest + queries + 1) / 2 + LANES;
    const int64_t threads = f->threads > 0 ? f->threads : 1;
    float *memory = malloc((b * row + threads * each) * sizeof(float));
    if (!memory) return 1;
    const int apart = b >= OWN_ROWS(f->half) * threads;
    Shared together = {0};
    if (!apart) together = workspace(f, memory);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
    {
        int64_t me = 0, all = 1;
#ifdef _OPENMP
        me = omp_get_thread_num(), all = omp_get_num_threads();
#endif
        float *mine = memory + b * row + me * each;
        Scratch s = {.norm = mine, .scores = mine + b * f->hidden};
        s.space = (bf16 *)(s.scores + scores);
        if (apart) {
            Layer layers[f->layers];
            const Span own = even_span(b, me, all);
            const int64_t near = f->half ? NEAR_ROWS : b;
            for (Span rows = {own.from, own.from}; rows.to < own.to; rows.from = rows.to) {
                rows.to = rows.from + near < own.to ? rows.from + near : own.to;
                DecodeCall part = rows_of(f, rows, layers);
                Shared g = workspace(&part, memory + rows.from * row);
                decode_rows(&part, &g, &s, 0, 1);
            }
        } else {
            decode_rows(f, &together, &s, me, all);
        }
    }
    free(memory);
    return 0;
}

// GroupNorm. A row is processed in strips of whole pixels, element by element, so that loops are long enough to be
// vectorised however few channels there are, and no sum depends on other rows.
#define STRIP 256
#define STRIPS 64  // number of strips that are summed in float32

typedef struct {
    int64_t rows, pixels, channels, groups, half, threads;
    float eps;
    const void *x, *weight, *bias;  // [rows, pixels, channels], [channels], [channels]
    void *y;                        // as x
} NormSiluCall;

// Add the sums of a strip's elements to those of their groups, and clear them.
static void gather(const NormSiluCall *n, float *sums, int64_t width, double *total) {
    const int64_t size = n->channels / n->groups;
    for (int64_t pixel = 0; pixel < width; pixel += n->channels)
        for (int64_t g = 0; g < n->groups; g++)
            for (int64_t c = 0; c < size; c++) total[g] += sums[pixel + g * size + c];
    memset(sums, 0, width * sizeof(float));
}

INLINE void norm_row(const NormSiluCall *n, int64_t row, int half) {
    const int64_t channels = n->channels, length = n->pixels * channels, size = channels / n->groups;
    const int64_t width = channels < STRIP ? STRIP / channels * channels : channels;
    const double count = (double)(n->pixels * size);
    const void *x = offset(n->x, row * length, half);
    void *y = (void *)offset(n->y, row * length, half);
    float sum[width], square[width], center[width], scale[width], shift[width], value[width], power[width];
    double total[n->groups], squares[n->groups];
    memset(sum, 0, sizeof sum), memset(square, 0, sizeof square);
    memset(total, 0, sizeof total), memset(squares, 0, sizeof squares);
    for (int64_t at = 0; at < length; at += width)
        for (int64_t i = 0; i < (length - at < width ? length - at : width); i++) sum[i] += to_float(x, at + i, half);
    gather(n, sum, width, total);
    for (int64_t i = 0; i < width; i++) center[i] = i < channels ? (float)(total[i / size] / count) : center[i - channels];
    // Relative to about the mean of its group a value loses no precision, however far from zero the mean is.
    memset(total, 0, sizeof total);
    for (int64_t at = 0, strips = 1; at < length; at += width, strips++) {
        for (int64_t i = 0; i < (length - at < width ? length - at : width); i++) {
            float apart = to_float(x, at + i, half) - center[i];
            sum[i] += apart;
            square[i] += apart * apart;
        }
        if (strips % STRIPS == 0 || at + width >= length)
            gather(n, sum, width, total), gather(n, square, width, squares);
    }
    for (int64_t g = 0; g < n->groups; g++) {
        const double mean = total[g] / count, variance = squares[g] / count - mean * mean;
        const float factor = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + n->eps));
        for (int64_t c = g * size; c < (g + 1) * size; c++) {
            scale[c] = factor * to_float(n->weight, c, half);
            shift[c] = to_float(n->bias, c, half) - (float)mean * scale[c];
        }
    }
    for (int64_t i = channels; i < width; i++) scale[i] = scale[i - channels], shift[i] = shift[i - channels];
    for (int64_t at = 0; at < length; at += width) {
        const int64_t some = length - at < width ? length - at : width;
        for (int64_t i = 0; i < some; i++) {
            value[i] = (to_float(x, at + i, half) - center[i]) * scale[i] + shift[i];
            power[i] = fast_exp(-value[i]);
        }
        for (int64_t i = 0; i < some; i++)  // a separate loop, as GCC would divide once for each branch of fast_exp
            if (half) ((bf16 *)y)[at + i] = to_bf16(value[i] / (1.0f + power[i]));
            else ((float *)y)[at + i] = value[i] / (1.0f + power[i]);
    }
}

// GroupNorm, then SiLU, of maps in channels-last order. One thread processes a row, so that it stays in its cache.
void norm_silu(const NormSiluCall *n) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(n->threads)
#endif
    for (int64_t row = 0; row < n->rows; row++) {
        if (n->half) norm_row(n, row, 1);
        else norm_row(n, row, 0);
    }
}
