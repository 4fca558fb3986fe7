/* The three stages of the network, each a loop over groups of tokens that threads share. */

enum {
    GROUP_TOKENS = 256, /* tokens that go through a block together; they stay in the L2 cache */
    MLP_TILES = 4       /* tiles that go through the MLP together */
};

/* Scratch memory of a thread, at least `n` floats on a 64-byte boundary; NULL if there is none. */
static float *scratch_of_thread(size_t n) {
    return aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
}

/* Rows of the tokens of a tile: tokens `first` to `first + TILE` of a piece of n. */
INLINE void rows_of_tile(float *x, int features, const int64_t *piece, int n, int first, float **row) {
    for (int i = 0; i < TILE; i++) {
        int64_t position = first + i < n ? piece[first + i] : -1;
        row[i] = position < 0 ? NULL : x + position * features;
    }
}

/* residual += proj(attention(normed)) for the tiles of some pieces of n tokens. */
static void mix_by_attention(const struct block *b, const float *normed, float *residual, int tiles,
                             int n, float *scratch) {
    const int features = b->features, tiles_per_piece = (n + TILE - 1) / TILE;
    const size_t size = (size_t)features * TILE;
    float *qkv = scratch, *attended = qkv + 3 * tiles * size, *rest = attended + tiles * size;
    for (int t = 0; t < tiles; t++)
        linear_store(b->qkv, b->qkv_bias, 3 * features, features, normed + t * size,
                     qkv + 3 * t * size);
    for (int t = 0; t < tiles; t += tiles_per_piece)
        attend(qkv + 3 * t * size, attended + t * size, features, b->heads, n, rest);
    for (int t = 0; t < tiles; t++)
        linear_add(b->proj, b->proj_bias, features, features, attended + t * size,
                   residual + t * size);
}

/* Some pieces through the whole block. */
static void block_of_pieces(const struct block *b, float *x, const int64_t *index, int pieces, int n,
                            float *scratch) {
    const int features = b->features, hidden = b->hidden, tiles_per_piece = (n + TILE - 1) / TILE;
    const int tiles = pieces * tiles_per_piece;
    const size_t size = (size_t)features * TILE; /* of a tile */
    float *residual = scratch, *normed = residual + tiles * size, *mlp = normed + tiles * size;
    float *rest = mlp + (size_t)MLP_TILES * hidden * TILE, *row[TILE];
    for (int t = 0; t < tiles; t++) {
        const int64_t *piece = index + (size_t)(t / tiles_per_piece) * n;
        rows_of_tile(x, features, piece, n, t % tiles_per_piece * TILE, row);
        gather((const float *const *)row, features, residual + t * size);
        layer_norm(residual + t * size, normed + t * size, features, b->norm1_gain, b->norm1_bias);
        /* Tokens that pad the piece are zeros after the norm, and take part. */
        for (int i = 0; i < TILE; i++)
            if (!row[i])
                for (int c = 0; c < features; c++) normed[t * size + (size_t)c * TILE + i] = 0;
    }
    if (b->mamba)
        for (int t = 0; t < tiles; t += tiles_per_piece)
            mix_by_mamba(b->mamba, normed + t * size, residual + t * size, features, n, rest);
    else
        mix_by_attention(b, normed, residual, tiles, n, rest);
    for (int t = 0; t < tiles; t++)
        layer_norm(residual + t * size, normed + t * size, features, b->norm2_gain, b->norm2_bias);
    for (int first = 0; first < tiles; first += MLP_TILES) {
        const int end = first + MLP_TILES < tiles ? first + MLP_TILES : tiles;
        for (int t = first; t < end; t++)
            linear_gelu(b->linear1, b->linear1_bias, hidden, features, normed + t * size,
                        mlp + (size_t)(t - first) * hidden * TILE);
        for (int t = first; t < end; t++)
            linear_add(b->linear2, b->linear2_bias, features, hidden,
                       mlp + (size_t)(t - first) * hidden * TILE, residual + t * size);
    }
    for (int t = 0; t < tiles; t++) {
        const int64_t *piece = index + (size_t)(t / tiles_per_piece) * n;
        rows_of_tile(x, features, piece, n, t % tiles_per_piece * TILE, row);
        scatter(row, features, residual + t * size);
    }
}

static void block(const struct block *b, float *x, int64_t batch, int64_t grid, const int64_t *index,
                  int64_t pieces, int32_t n, int32_t threads) {
    int group = n < GROUP_TOKENS ? GROUP_TOKENS / n : 1;
    while (group > 1 && batch * ((pieces + group - 1) / group) < threads) group--;
    const int64_t groups = (pieces + group - 1) / group;
    const size_t tiles = (size_t)group * ((n + TILE - 1) / TILE);
    const size_t mixing = b->mamba ? mamba_scratch(b->mamba, n)
                                   : tiles * 4 * b->features * TILE +
                                         attention_scratch(n, b->features / b->heads);
    const size_t floats =
        (tiles * 2 * b->features + (size_t)MLP_TILES * b->hidden) * TILE + mixing;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = scratch_of_thread(floats);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < batch * groups; i++) {
            int64_t first = i % groups * group;
            int some = pieces - first < group ? (int)(pieces - first) : group;
            block_of_pieces(b, x + i / groups * grid * b->features, index + first * n, some, n,
                            scratch);
        }
        free(scratch);
    }
}

/* One row of patches along z, tile by tile: token = patch along z x time. */
static void row_of_patches(const float *volumes, const float *w, const float *table, float *out,
                           const int32_t *shape, int features, float *scratch) {
    const int Y = shape[1], Z = shape[2], T = shape[3], px = shape[4], py = shape[5], pz = shape[6];
    const int voxels = px * py * pz, tokens = Z / pz * T;
    float *patch = scratch, *result = patch + (size_t)voxels * TILE, *row[TILE];
    for (int first = 0; first < tokens; first += TILE) {
        const int some = tokens - first < TILE ? tokens - first : TILE;
        memset(patch, 0, sizeof(float) * voxels * TILE);
        for (int i = 0; i < some;) { /* runs of times of one patch */
            const int z = (first + i) / T, t = (first + i) % T;
            const int run = T - t < some - i ? T - t : some - i;
            float *to = patch + i;
            for (int x = 0; x < px; x++)
                for (int y = 0; y < py; y++) {
                    const float *from = volumes + (((size_t)x * Y + y) * Z + (size_t)z * pz) * T + t;
                    for (int voxel = 0; voxel < pz; voxel++, to += TILE, from += T) {
                        int j = 0;
                        for (; j + 4 <= run; j += 4) store4(to + j, load4(from + j));
                        for (; j < run; j++) to[j] = from[j];
                    }
                    for (int ahead = 0; ahead < pz * T; ahead += 16) __builtin_prefetch(from + ahead);
                }
            i += run;
        }
        for (int i = 0; i < TILE; i++)
            row[i] = i < some ? (float *)table + (size_t)(first + i) * features : NULL;
        gather((const float *const *)row, features, result);
        linear_add(w, NULL, features, voxels, patch, result);
        for (int i = 0; i < TILE; i++)
            row[i] = i < some ? out + (size_t)(first + i) * features : NULL;
        scatter(row, features, result);
    }
}

static void patches(const float *volumes, const float *w, const float *table, float *out,
                    int64_t batch, const int32_t *shape, int32_t features, int32_t threads) {
    const int X = shape[0], Y = shape[1], Z = shape[2], T = shape[3];
    const int px = shape[4], py = shape[5], pz = shape[6], nx = X / px, ny = Y / py;
    const size_t tokens = (size_t)(Z / pz) * T; /* of a row */
#pragma omp parallel num_threads(threads)
    {
        float *scratch = scratch_of_thread((size_t)(px * py * pz + features) * TILE);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < batch * nx * ny; i++) {
            const int64_t image = i / (nx * ny), row = i % (nx * ny), x = row / ny, y = row % ny;
            const size_t corner = ((size_t)(image * X + x * px) * Y + y * py) * Z * T;
            row_of_patches(volumes + corner, w, table + row * tokens * features,
                           out + i * tokens * features, shape, features, scratch);
        }
        free(scratch);
    }
}

static void merge(const float *x, const float *gain, const float *bias, const float *w,
                  const float *table, float *out, int64_t batch, const int32_t *shape,
                  int32_t features, int32_t outputs, int32_t threads) {
    const int X = shape[0], Y = shape[1], Z = shape[2], T = shape[3];
    const int64_t tokens = (int64_t)(X / 2) * (Y / 2) * (Z / 2) * T; /* of an image, merged */
    const int64_t tiles = (tokens + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = scratch_of_thread((size_t)(8 * features + outputs) * TILE);
        float *merged = scratch, *result = merged + (size_t)8 * features * TILE, *row[TILE];
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < batch * tiles; i++) {
            const int64_t image = i / tiles, first = i % tiles * TILE;
            for (int corner = 0; corner < 8; corner++) { /* the corners (0,0,0), (0,0,1), ... */
                for (int j = 0; j < TILE; j++) {
                    int64_t token = first + j, t = token % T, z = token / T % (Z / 2);
                    int64_t y = token / T / (Z / 2) % (Y / 2), xx = token / T / (Z / 2) / (Y / 2);
                    int64_t at = image * X + 2 * xx + (corner >> 2);
                    at = (at * Y + 2 * y + (corner >> 1 & 1)) * Z + 2 * z + (corner & 1);
                    row[j] = token < tokens ? (float *)x + (at * T + t) * features : NULL;
                }
                gather((const float *const *)row, features, merged + (size_t)corner * features * TILE);
            }
            layer_norm(merged, merged, 8 * features, gain, bias);
            for (int j = 0; j < TILE; j++)
                row[j] = first + j < tokens ? (float *)table + (first + j) * outputs : NULL;
            gather((const float *const *)row, outputs, result);
            linear_add(w, NULL, outputs, 8 * features, merged, result);
            for (int j = 0; j < TILE; j++)
                row[j] = first + j < tokens ? out + (image * tokens + first + j) * outputs : NULL;
            scatter(row, outputs, result);
        }
        free(scratch);
    }
}
