/* The kernel for AVX-512. */
#define LANES 16
#define VECTORS 2
#define ROWS 12
#include "kernel.h"
#include "vectors.h"
#include "tiles.h"
#include "attention.h"
#include "mamba.h"
#include "stages.h"

const struct kernel swift_kernel_avx512 = {"AVX-512", ROWS, block, patches, merge};
