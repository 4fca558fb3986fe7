/* Tiles of tokens: tile[feature][TILE]. The lanes of a vector are tokens, so the number of features
 * needs no padding, and LayerNorm and softmax need no sums across lanes. */

typedef float vec4 __attribute__((vector_size(16)));
typedef float unaligned_vec4 __attribute__((vector_size(16), aligned(4), may_alias));

INLINE vec4 load4(const float *from) { return *(const unaligned_vec4 *)from; }
INLINE void store4(float *to, vec4 v) { *(unaligned_vec4 *)to = v; }

/* Transpose four vectors of four. */
INLINE void transpose4(vec4 *v) {
    vec4 ab_low = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
    vec4 ab_high = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    vec4 cd_low = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
    vec4 cd_high = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    v[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

/* Rows of tokens -> a tile; token[i] is the features of token i, or NULL for zeros. The number of
 * features must be a multiple of 4. */
static void gather(const float *const *token, int features, float *tile) {
    for (int t = 0; t < TILE; t += 4)
        for (int c = 0; c < features; c += 4) {
            vec4 v[4];
            for (int i = 0; i < 4; i++) v[i] = token[t + i] ? load4(token[t + i] + c) : (vec4){0};
            transpose4(v);
            for (int i = 0; i < 4; i++) store4(tile + (size_t)(c + i) * TILE + t, v[i]);
        }
}

/* A tile -> rows of tokens; tokens that are NULL are left out. */
static void scatter(float *const *token, int features, const float *tile) {
    for (int t = 0; t < TILE; t += 4)
        for (int c = 0; c < features; c += 4) {
            vec4 v[4];
            for (int i = 0; i < 4; i++) v[i] = load4(tile + (size_t)(c + i) * TILE + t);
            transpose4(v);
            for (int i = 0; i < 4; i++)
                if (token[t + i]) store4(token[t + i] + c, v[i]);
        }
}

/* LayerNorm over the features of each token, with torch's default epsilon. */
static void layer_norm(const float *x, float *y, int features, const float *gain, const float *bias) {
    for (int v = 0; v < TILE; v += LANES) {
        vec mean = {0}, variance = {0}, scale;
        for (int c = 0; c < features; c++) mean += load(x + (size_t)c * TILE + v);
        mean *= 1.0f / features;
        for (int c = 0; c < features; c++) {
            vec d = load(x + (size_t)c * TILE + v) - mean;
            variance += d * d;
        }
        variance = variance * (1.0f / features) + 1e-5f;
        for (int lane = 0; lane < LANES; lane++) scale[lane] = 1.0f / sqrtf(variance[lane]);
        for (int c = 0; c < features; c++) {
            vec d = load(x + (size_t)c * TILE + v) - mean;
            store(y + (size_t)c * TILE + v, d * scale * gain[c] + bias[c]);
        }
    }
}

enum epilogue { STORE, ADD };

/* `rows` rows of y = w x + bias; w is packed as w[inputs][rows]. */
INLINE void linear_rows(const float *restrict w, const float *restrict bias, int rows, int inputs,
                        const float *restrict x, float *restrict y, enum epilogue epilogue) {
    vec sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] = all(0);
    for (int k = 0; k < inputs; k++, w += rows) {
        vec xk[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) xk[v] = load(x + (size_t)k * TILE + v * LANES);
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] += w[r] * xk[v];
    }
    /* The bias and the residual come last, so that the sum of small products loses less. */
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < VECTORS; v++) {
        float *to = y + (size_t)r * TILE + v * LANES;
        vec offset = bias ? all(bias[r]) : all(0);
        store(to, (epilogue == ADD ? load(to) + offset : offset) + sum[r][v]);
    }
}

/* y = w x + bias, stored or added to y. w is packed in blocks of ROWS outputs; the last block has
 * the rows that are left. */
INLINE void linear(const float *w, const float *bias, int outputs, int inputs, const float *x,
                   float *y, enum epilogue epilogue) {
    int n = 0;
    for (; n + ROWS <= outputs; n += ROWS)
        linear_rows(w + (size_t)n * inputs, bias ? bias + n : NULL, ROWS, inputs, x,
                    y + (size_t)n * TILE, epilogue);
    if (n < outputs)
        linear_rows(w + (size_t)n * inputs, bias ? bias + n : NULL, outputs - n, inputs, x,
                    y + (size_t)n * TILE, epilogue);
}

NOINLINE void linear_store(const float *w, const float *bias, int outputs, int inputs,
                           const float *x, float *y) {
    linear(w, bias, outputs, inputs, x, y, STORE);
}

NOINLINE void linear_add(const float *w, const float *bias, int outputs, int inputs, const float *x,
                         float *y) {
    linear(w, bias, outputs, inputs, x, y, ADD);
}

NOINLINE void linear_gelu(const float *w, const float *bias, int outputs, int inputs,
                          const float *x, float *y) {
    linear(w, bias, outputs, inputs, x, y, STORE);
    for (int i = 0; i < outputs * TILE; i += 4 * LANES) { /* four side by side hide the division */
        vec v[4];
        UNROLL for (int j = 0; j < 4; j++) v[j] = load(y + i + j * LANES);
        UNROLL for (int j = 0; j < 4; j++) v[j] = gelu_of(v[j]);
        UNROLL for (int j = 0; j < 4; j++) store(y + i + j * LANES, v[j]);
    }
}
