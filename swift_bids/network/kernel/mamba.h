/* A Mamba over one piece: projections and convolution, then the selective scan.
 *
 * The projections work on tiles, whose lanes are tokens. The scan goes from token to token, so its
 * lanes are channels: between the two, tiles become rows, row[token][channel], whose channels are
 * padded to `stride`, a multiple of 16, with zeros. */

enum { STATES = 16, TAPS = 4 };

/* Floats of scratch memory that `mix_by_mamba` needs for a piece of n tokens. */
INLINE size_t mamba_scratch(const struct mamba *m, int n) {
    return (size_t)n * (3 * m->stride + 2 * STATES) +
           (size_t)(2 * m->channels + m->rank + 2 * STATES) * TILE;
}

/* `features` features of a tile -> rows of the tokens from `first` on. */
INLINE void tile_to_rows(const float *tile, int features, float *rows, int stride, int first, int n) {
    float *row[TILE];
    for (int i = 0; i < TILE; i++)
        row[i] = first + i < n ? rows + (size_t)(first + i) * stride : NULL;
    scatter(row, features, tile);
}

INLINE void rows_to_tile(const float *rows, int stride, int features, float *tile, int first, int n) {
    const float *row[TILE];
    for (int i = 0; i < TILE; i++)
        row[i] = first + i < n ? rows + (size_t)(first + i) * stride : NULL;
    gather(row, features, tile);
}

/* x = SiLU(bias + sum over taps of w[tap] x[token - 3 + tap]), in place from the last token on. */
NOINLINE void convolve(const struct mamba *m, float *x, int n) {
    const int stride = m->stride;
    for (int c = 0; c < stride; c += LANES)
        for (int t = n - 1; t >= 0; t--) {
            vec sum = load(m->conv_bias + c);
            for (int tap = TAPS - 1, from = t; tap >= 0 && from >= 0; tap--, from--)
                sum += load(m->conv + tap * stride + c) * load(x + (size_t)from * stride + c);
            store(x + (size_t)t * stride + c, silu_of(sum));
        }
}

/* y = (scan + D x) SiLU(gate), stored in x. bc[token] is B, then C. */
NOINLINE void scan(const struct mamba *m, float *x, const float *gate, const float *delta,
                   const float *bc, int n) {
    const int stride = m->stride;
    for (int c = 0; c < stride; c += LANES) {
        vec state[STATES], rate[STATES]; /* A log2(e), so that decays are powers of two */
        const vec skip = load(m->skip + c);
        UNROLL for (int s = 0; s < STATES; s++) {
            state[s] = all(0);
            rate[s] = load(m->rate + s * stride + c);
        }
        for (int t = 0; t < n; t++, bc += 2 * STATES) {
            const size_t at = (size_t)t * stride + c;
            const vec step = load(delta + at), in = load(x + at), scaled = step * in;
            vec y = skip * in, other = all(0); /* two sums: the second hides the latency */
            UNROLL for (int s = 0; s < STATES; s += 2) {
                vec decay = exp2_of(max_of(all(-125.0f), step * rate[s]));
                vec next = exp2_of(max_of(all(-125.0f), step * rate[s + 1]));
                state[s] = decay * state[s] + scaled * bc[s];
                state[s + 1] = next * state[s + 1] + scaled * bc[s + 1];
                y += state[s] * bc[STATES + s];
                other += state[s + 1] * bc[STATES + s + 1];
            }
            store(x + at, (y + other) * silu_of(load(gate + at)));
        }
        bc -= (size_t)n * 2 * STATES;
    }
}

/* residual += out_proj(mamba(normed)), both as tiles of the piece's n tokens. */
static void mix_by_mamba(const struct mamba *m, const float *normed, float *residual, int features,
                         int n, float *scratch) {
    const int channels = m->channels, stride = m->stride, rank = m->rank;
    const size_t rows = (size_t)n * stride, size = (size_t)features * TILE;
    float *x = scratch, *gate = x + rows, *delta = gate + rows, *bc = delta + rows;
    float *tile = bc + (size_t)n * 2 * STATES, *projected = tile + (size_t)2 * channels * TILE;
    memset(x, 0, 3 * rows * sizeof(float)); /* the channels that pad a row */
    for (int t = 0; t < n; t += TILE) {
        linear_store(m->in, NULL, 2 * channels, features, normed + t / TILE * size, tile);
        tile_to_rows(tile, channels, x, stride, t, n);
        tile_to_rows(tile + (size_t)channels * TILE, channels, gate, stride, t, n);
    }
    convolve(m, x, n);
    for (int t = 0; t < n; t += TILE) {
        rows_to_tile(x, stride, channels, tile, t, n);
        linear_store(m->project, NULL, rank + 2 * STATES, channels, tile, projected);
        tile_to_rows(projected + (size_t)rank * TILE, 2 * STATES, bc, 2 * STATES, t, n);
        linear_store(m->step, m->step_bias, channels, rank, projected, tile);
        for (int i = 0; i < channels * TILE; i += LANES)
            store(tile + i, softplus_of(load(tile + i)));
        tile_to_rows(tile, channels, delta, stride, t, n);
    }
    scan(m, x, gate, delta, bc, n);
    for (int t = 0; t < n; t += TILE) {
        rows_to_tile(x, stride, channels, tile, t, n);
        linear_add(m->out, NULL, features, channels, tile, residual + t / TILE * size);
    }
}
