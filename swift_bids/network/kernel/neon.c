/* The kernel for NEON. */
#define LANES 4
#define VECTORS 4
#define ROWS 6
#include "kernel.h"
#include "vectors.h"
#include "tiles.h"
#include "attention.h"
#include "mamba.h"
#include "stages.h"

const struct kernel swift_kernel_neon = {"NEON", ROWS, block, patches, merge};
