/* Choose the kernel when the program runs: one binary serves all processors of an architecture. */
#include "kernel.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
extern const struct kernel swift_kernel_avx2, swift_kernel_avx512;
#elif defined(__aarch64__)
extern const struct kernel swift_kernel_neon;
#endif

static int asked_for(const struct kernel *kernel, const char *name) {
    return name == NULL || strcmp(name, kernel->name) == 0;
}

__attribute__((visibility("default"))) const struct kernel *swift_kernel(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* clang's __builtin_cpu_supports needs it */
    if (__builtin_cpu_supports("avx512f") && asked_for(&swift_kernel_avx512, name))
        return &swift_kernel_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        asked_for(&swift_kernel_avx2, name))
        return &swift_kernel_avx2;
#elif defined(__aarch64__)
    if (asked_for(&swift_kernel_neon, name)) return &swift_kernel_neon;
#endif
    return NULL;
}
