/* What the kernel offers to `swift_bids.network.compiled`: one table of functions per instruction
 * set. All arrays are float32 in C order; weights of linear layers are packed (see tiles.h). */
#include <stdint.h>

/* Weights of a Mamba with 16 states per channel and a convolution over 4 tokens. Those of single
 * channels are padded with zeros to `stride` channels, a multiple of 16: conv[4][stride],
 * rate[16][stride] = A log2(e), and conv_bias, skip (D) with [stride]. */
struct mamba {
    const float *in, *project, *step, *step_bias, *out; /* linear layers */
    const float *conv, *conv_bias, *rate, *skip;
    int32_t channels, stride, rank;
};

/* Weights of a block: of its attention or, if `mamba` is not NULL, of its Mamba. The residual width
 * is `features`; `hidden` is that of the MLP. */
struct block {
    const float *norm1_gain, *norm1_bias;
    const float *norm2_gain, *norm2_bias, *linear1, *linear1_bias, *linear2, *linear2_bias;
    const float *qkv, *qkv_bias, *proj, *proj_bias;
    const struct mamba *mamba;
    int32_t features, hidden, heads;
};

struct kernel {
    const char *name; /* of the instruction set */
    int32_t rows;     /* outputs in a block of packed weights */
    /* A block, in place on x[batch][grid][features]. index[pieces][n] are positions in the grid; -1
     * is a token that only pads a piece. */
    void (*block)(const struct block *, float *x, int64_t batch, int64_t grid, const int64_t *index,
                  int64_t pieces, int32_t n, int32_t threads);
    /* volumes[batch][X][Y][Z][T] -> out[batch][token][features] = table[token] + w patch, for
     * patches of px x py x pz voxels. shape = {X, Y, Z, T, px, py, pz}. */
    void (*patches)(const float *volumes, const float *w, const float *table, float *out,
                    int64_t batch, const int32_t *shape, int32_t features, int32_t threads);
    /* x[batch][X][Y][Z][T][features] -> out[batch][X/2][Y/2][Z/2][T][outputs] = table + w LayerNorm
     * of 2 x 2 x 2 tokens. shape = {X, Y, Z, T}. */
    void (*merge)(const float *x, const float *gain, const float *bias, const float *w,
                  const float *table, float *out, int64_t batch, const int32_t *shape,
                  int32_t features, int32_t outputs, int32_t threads);
};

/* The best kernel for this processor, or NULL. `name` asks for an instruction set; NULL: any. */
const struct kernel *swift_kernel(const char *name);
