/* Runs the kernel on odd sizes and prints its results, for sanitizers and for processors that are
 * emulated. The numbers are the same for every build, except for rounding. */
#include "../../swift_bids/network/kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 1;

/* Exactly as long as asked for, so that a sanitizer sees every read or write beyond the end. */
static float *numbers(size_t n, float scale) {
    float *made = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        made[i] = scale * ((int32_t)state / 2147483648.0f);
    }
    return made;
}

/* Weights (outputs, inputs), packed as in `swift_bids.network.compiled`. */
static float *packed(int outputs, int inputs, int rows) {
    float *weights = numbers((size_t)outputs * inputs, 0.3f);
    float *made = malloc((size_t)outputs * inputs * sizeof(float)), *to = made;
    for (int first = 0; first < outputs; first += rows)
        for (int k = 0; k < inputs; k++)
            for (int r = first; r < first + rows && r < outputs; r++)
                *to++ = weights[(size_t)r * inputs + k];
    free(weights);
    return made;
}

static void print(const char *name, float *values, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += values[i] * (1 + i % 7), squares += values[i] * values[i];
    printf("%s %.9g %.9g %.9g %.9g\n", name, values[0], values[n - 1], sum, squares);
    free(values);
}

static void check_block(const struct kernel *kernel, int head, int heads, int n, int pieces, int batch) {
    const int c = head * heads, hidden = 4 * c, rows = kernel->rows;
    const int64_t grid = (int64_t)n * pieces - (n > 2); /* one token only pads the last piece */
    const float *weights[12] = {
        numbers(c, 1), numbers(c, 1), numbers(c, 1), numbers(c, 1),
        packed(hidden, c, rows), numbers(hidden, 1), packed(c, hidden, rows), numbers(c, 1),
        packed(3 * c, c, rows), numbers(3 * c, 1), packed(c, c, rows), numbers(c, 1)};
    struct block block;
    memcpy(&block, weights, sizeof weights);
    block.mamba = NULL;
    block.features = c, block.hidden = hidden, block.heads = heads;
    int64_t *index = malloc(sizeof(int64_t) * n * pieces);
    for (int i = 0; i < n * pieces; i++) index[i] = i < grid ? grid - 1 - i : -1;
    float *x = numbers((size_t)batch * grid * c, 1);
    kernel->block(&block, x, batch, grid, index, pieces, n, 2);
    char name[40];
    snprintf(name, sizeof name, "block %d %d %d", head, n, pieces);
    print(name, x, (size_t)batch * grid * c);
    for (int i = 0; i < 12; i++) free((void *)weights[i]);
    free(index);
}

/* `n` numbers, then zeros up to `stride`, for each of `rows`. */
static float *padded(int rows, int n, int stride, float scale) {
    float *values = numbers((size_t)rows * n, scale), *made = calloc((size_t)rows * stride, sizeof(float));
    for (int r = 0; r < rows; r++)
        memcpy(made + (size_t)r * stride, values + (size_t)r * n, n * sizeof(float));
    free(values);
    return made;
}

static void check_mamba(const struct kernel *kernel, int c, int n, int pieces, int batch) {
    const int hidden = 4 * c, channels = 2 * c, rank = (c + 15) / 16, rows = kernel->rows;
    const int stride = (channels + 15) / 16 * 16;
    const int64_t grid = (int64_t)n * pieces - (n > 2); /* one token only pads the last piece */
    float *rate = padded(16, channels, stride, 4);
    for (int i = 0; i < 16 * stride; i++) rate[i] = rate[i] > 0 ? -rate[i] : rate[i];
    const float *of_mamba[9] = {
        packed(4 * c, c, rows), packed(rank + 32, channels, rows), packed(channels, rank, rows),
        numbers(channels, 1), packed(c, channels, rows), padded(4, channels, stride, 1),
        padded(1, channels, stride, 1), rate, padded(1, channels, stride, 1)};
    struct mamba mamba;
    memcpy(&mamba, of_mamba, sizeof of_mamba);
    mamba.channels = channels, mamba.stride = stride, mamba.rank = rank;
    const float *weights[8] = {
        numbers(c, 1), numbers(c, 1), numbers(c, 1), numbers(c, 1),
        packed(hidden, c, rows), numbers(hidden, 1), packed(c, hidden, rows), numbers(c, 1)};
    struct block block;
    memset(&block, 0, sizeof block);
    memcpy(&block, weights, sizeof weights);
    block.mamba = &mamba;
    block.features = c, block.hidden = hidden;
    int64_t *index = malloc(sizeof(int64_t) * n * pieces);
    for (int i = 0; i < n * pieces; i++) index[i] = i < grid ? grid - 1 - i : -1;
    float *x = numbers((size_t)batch * grid * c, 1);
    kernel->block(&block, x, batch, grid, index, pieces, n, 2);
    char name[40];
    snprintf(name, sizeof name, "mamba %d %d %d", c, n, pieces);
    print(name, x, (size_t)batch * grid * c);
    for (int i = 0; i < 9; i++) free((void *)of_mamba[i]);
    for (int i = 0; i < 8; i++) free((void *)weights[i]);
    free(index);
}

int main(int argc, char **argv) {
    const struct kernel *kernel = swift_kernel(argc > 1 ? argv[1] : NULL);
    if (kernel == NULL) return 77;
    fprintf(stderr, "%s\n", kernel->name);
    for (int n = 1; n < 300; n += n < 40 ? 1 : 37) check_block(kernel, 12, 2, n, 3, 2);
    check_block(kernel, 4, 3, 50, 2, 1);
    check_block(kernel, 16, 1, 33, 2, 1);
    for (int n = 1; n < 300; n += n < 40 ? 3 : 37) check_mamba(kernel, 12, n, 3, 2);
    check_mamba(kernel, 36, 65, 2, 1);
    check_mamba(kernel, 8, 256, 2, 1);
    for (int times = 1; times <= 20; times += 3) {
        const int32_t shape[7] = {12, 6, 18, times, 6, 3, 6};
        const int c = 20, tokens = 2 * 2 * 3 * times;
        float *volumes = numbers((size_t)2 * 12 * 6 * 18 * times, 1), *out = numbers((size_t)2 * tokens * c, 0);
        float *w = packed(c, 6 * 3 * 6, kernel->rows), *table = numbers((size_t)tokens * c, 1);
        kernel->patches(volumes, w, table, out, 2, shape, c, 2);
        free(volumes), free(w), free(table);
        print("patches", out, (size_t)2 * tokens * c);
        const int32_t grid[4] = {2, 4, 6, times};
        float *x = numbers((size_t)2 * 48 * times * c, 1), *gain = numbers(8 * c, 1), *bias = numbers(8 * c, 1);
        w = packed(44, 8 * c, kernel->rows), table = numbers((size_t)6 * times * 44, 1);
        float *merged = numbers((size_t)2 * 6 * times * 44, 0);
        kernel->merge(x, gain, bias, w, table, merged, 2, grid, c, 44, 2);
        free(x), free(gain), free(bias), free(w), free(table);
        print("merge", merged, (size_t)2 * 6 * times * 44);
    }
    return 0;
}
