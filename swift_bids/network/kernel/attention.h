/* Attention within one piece, head by head: queries of one tile against all keys of the piece. */

enum {
    KEYS = 6,       /* scored at the same time: KEYS x VECTORS sums in registers */
    KEY_CHUNK = 96, /* keys between two passes over the values; their weights stay in the L1 cache */
    USUAL_HEAD = 12 /* features of a head in the released networks, with a loop of its own */
};

/* weight[j] = keys[.][j] . queries for `n` keys; keys are keys[feature][stride]. */
INLINE void score(const float *queries, const float *keys, int stride, float *weight, int n, int head) {
    vec sum[KEYS][VECTORS];
    UNROLL for (int j = 0; j < n; j++) UNROLL for (int v = 0; v < VECTORS; v++) sum[j][v] = all(0);
    UNROLL for (int d = 0; d < head; d++) {
        vec q[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) q[v] = load(queries + d * TILE + v * LANES);
        UNROLL for (int j = 0; j < n; j++)
            UNROLL for (int v = 0; v < VECTORS; v++) sum[j][v] += keys[(size_t)d * stride + j] * q[v];
    }
    UNROLL for (int j = 0; j < n; j++)
        UNROLL for (int v = 0; v < VECTORS; v++) store(weight + j * TILE + v * LANES, sum[j][v]);
}

INLINE void scores(const float *queries, const float *keys, int stride, float *weight, int n, int head) {
    int j = 0;
    for (; j + KEYS <= n; j += KEYS) score(queries, keys + j, stride, weight + j * TILE, KEYS, head);
    for (; j < n; j++) score(queries, keys + j, stride, weight + j * TILE, 1, head);
}

/* weight = 2^weight, and the sum of the weights of each query is added to `sum`. */
NOINLINE void exponentials(float *weight, int n, vec *sum) {
    for (int j = 0; j < n; j++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            vec e = exp2_of(load(weight + j * TILE + v * LANES));
            sum[v] += e;
            store(weight + j * TILE + v * LANES, e);
        }
}

/* The same after the largest score of each query has been subtracted. */
NOINLINE void exponentials_of_large(float *weight, int n, vec *sum) {
    for (int v = 0; v < TILE; v += LANES) {
        vec largest = load(weight + v);
        for (int j = 1; j < n; j++) largest = max_of(largest, load(weight + j * TILE + v));
        for (int j = 0; j < n; j++) {
            /* the order of max_of's arguments keeps NaN */
            vec e = exp2_of(max_of(all(-125.0f), load(weight + j * TILE + v) - largest));
            sum[v / LANES] += e;
            store(weight + j * TILE + v, e);
        }
    }
}

/* out[d] += values[d][.] . weight for `rows` features; values are values[feature][stride]. */
INLINE void weigh_rows(const float *restrict values, int stride, const float *restrict weight, int n,
                       float *restrict out, int rows) {
    vec sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] = load(out + r * TILE + v * LANES);
    for (int j = 0; j < n; j++) {
        vec w[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) w[v] = load(weight + j * TILE + v * LANES);
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] += values[(size_t)r * stride + j] * w[v];
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) store(out + r * TILE + v * LANES, sum[r][v]);
}

INLINE void weigh(const float *values, int stride, const float *weight, int n, float *out, int head) {
    int d = 0;
    for (; d + ROWS <= head; d += ROWS)
        weigh_rows(values + (size_t)d * stride, stride, weight, n, out + d * TILE, ROWS);
    for (; d < head; d++)
        weigh_rows(values + (size_t)d * stride, stride, weight, n, out + d * TILE, 1);
}

/* Floats of scratch memory that `attend` needs for a piece of n tokens. */
INLINE size_t attention_scratch(int n, int head) {
    size_t tiles = (n + TILE - 1) / TILE;
    return 2 * head * (tiles * TILE + 16) + (size_t)n * TILE + 2 * (size_t)head * TILE;
}

/* One head: qkv[tile][3 x features][TILE] -> out[tile][features][TILE]. */
INLINE void attend_head(const float *qkv, float *out, int features, int head, int h, int n,
                        float *scratch) {
    const int tiles = (n + TILE - 1) / TILE, stride = tiles * TILE + 16;
    /* scores are multiplied by log2(e), so that the softmax can use powers of two */
    const float scale = 1.4426950408889634f / sqrtf((float)head);
    float *keys = scratch, *values = keys + (size_t)head * stride;
    float *weight = values + (size_t)head * stride;
    float *queries = weight + (size_t)n * TILE, *sums = queries + head * TILE;
    vec longest_query = all(0), longest_key = all(0);
    for (int t = 0; t < tiles; t++) {
        const float *q = qkv + (size_t)t * 3 * features * TILE + (size_t)h * head * TILE;
        const float *k = q + (size_t)features * TILE, *val = k + (size_t)features * TILE;
        for (int v = 0; v < TILE; v += LANES) {
            vec query2 = all(0), key2 = all(0);
            for (int d = 0; d < head; d++) {
                vec qd = load(q + d * TILE + v), kd = load(k + d * TILE + v);
                store(keys + (size_t)d * stride + t * TILE + v, kd);
                store(values + (size_t)d * stride + t * TILE + v, load(val + d * TILE + v));
                query2 += qd * qd;
                key2 += kd * kd;
            }
            longest_query = max_of(query2, longest_query);
            longest_key = max_of(key2, longest_key);
        }
    }
    float query2 = 0, key2 = 0;
    for (int lane = 0; lane < LANES; lane++) {
        if (longest_query[lane] > query2) query2 = longest_query[lane];
        if (longest_key[lane] > key2) key2 = longest_key[lane];
    }
    /* |score| <= |query| |key|: below 60, 2^score and its sums need no subtraction of the largest */
    const int small = sqrtf(query2) * sqrtf(key2) * scale < 60.0f; /* false for NaN */
    for (int t = 0; t < tiles; t++) {
        const float *q = qkv + (size_t)t * 3 * features * TILE + (size_t)h * head * TILE;
        for (int i = 0; i < head * TILE; i += LANES) {
            store(queries + i, load(q + i) * scale);
            store(sums + i, all(0));
        }
        vec total[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) total[v] = all(0);
        if (small)
            for (int j = 0; j < n; j += KEY_CHUNK) {
                int m = n - j < KEY_CHUNK ? n - j : KEY_CHUNK;
                scores(queries, keys + j, stride, weight, m, head);
                exponentials(weight, m, total);
                weigh(values + j, stride, weight, m, sums, head);
            }
        else {
            scores(queries, keys, stride, weight, n, head);
            exponentials_of_large(weight, n, total);
            weigh(values, stride, weight, n, sums, head);
        }
        float *to = out + (size_t)t * features * TILE + (size_t)h * head * TILE;
        for (int d = 0; d < head; d++)
            UNROLL for (int v = 0; v < VECTORS; v++) {
                int i = d * TILE + v * LANES;
                store(to + i, load(sums + i) / total[v]);
            }
    }
}

/* All heads of one piece of n tokens. */
NOINLINE void attend(const float *qkv, float *out, int features, int heads, int n, float *scratch) {
    const int head = features / heads;
    for (int h = 0; h < heads; h++)
        if (head == USUAL_HEAD)
            attend_head(qkv, out, features, USUAL_HEAD, h, n, scratch);
        else
            attend_head(qkv, out, features, head, h, n, scratch);
}
