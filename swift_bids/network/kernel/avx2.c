/* The kernel for AVX2. */
#define LANES 8
#define VECTORS 2
#define ROWS 6
#include "kernel.h"
#include "vectors.h"
#include "tiles.h"
#include "attention.h"
#include "mamba.h"
#include "stages.h"

const struct kernel swift_kernel_avx2 = {"AVX2", ROWS, block, patches, merge};
