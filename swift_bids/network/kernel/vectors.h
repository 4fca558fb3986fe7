/* Vectors of float32, and the functions of one variable that the network needs.
 *
 * Included by one C file per instruction set, which defines
 *   LANES    floats in a vector,
 *   VECTORS  vectors in a tile row (a tile holds TILE tokens),
 *   ROWS     rows of a matrix product that are summed in registers at the same time: ROWS x VECTORS
 *            sums, and one vector of each input, must fit in the registers.
 * The compiler must not reorder sums (no -ffast-math): exp2_of rounds by adding a large number. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TILE (VECTORS * LANES)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const unaligned_vec *)from; }
INLINE void store(float *to, vec v) { *(unaligned_vec *)to = v; }
INLINE vec all(float value) { return value - (vec){0}; }

/* The larger and the smaller value in each lane; if one is NaN, b. */
#if LANES == 16 && defined(__AVX512F__)
#include <immintrin.h>
INLINE vec max_of(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec min_of(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif LANES == 8 && defined(__AVX__)
#include <immintrin.h>
INLINE vec max_of(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec min_of(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vec max_of(vec a, vec b) {
    ivec larger = a > b;
    return (vec)((larger & (ivec)a) | (~larger & (ivec)b));
}
INLINE vec min_of(vec a, vec b) {
    ivec smaller = a < b;
    return (vec)((smaller & (ivec)a) | (~smaller & (ivec)b));
}
#endif

/* 2^x for |x| < 126.
 * x = n + f with n an integer and |f| <= 1/2. The polynomial for 2^f is a minimax fit of degree 5
 * with a relative error of 7.5e-8. A product, not an integer sum, puts n into the exponent: on some
 * processors integer sums compete with multiply-adds. */
INLINE vec exp2_of(vec x) {
    const float rounding = 12582912.0f + 127; /* 1.5 * 2^23: its last binary digit is worth 1 */
    vec shifted = x + rounding, f = x - (shifted - rounding), f2 = f * f;
    vec two_to_n = (vec)((ivec)shifted << 23);
    vec low = f * 0.6931469440460205f + 1.0000001192092896f;
    vec middle = f * 0.05550713092088699f + 0.24022120237350464f;
    vec high = f * 0.0013276472454890609f + 0.009675541892647743f;
    return ((high * f2 + middle) * f2 + low) * two_to_n;
}

/* e^x for x <= 0. */
INLINE vec exp_of_negative(vec x) { return exp2_of(max_of(all(-125.0f), x * 1.4426950408889634f)); }

/* SiLU(x) = x / (1 + e^-x); NaN stays NaN: see max_of. */
INLINE vec silu_of(vec x) {
    vec e = exp_of_negative(min_of(x, -x)); /* of -|x|, which does not overflow */
    ivec positive = x > 0;
    vec numerator = (vec)((positive & (ivec)all(1)) | (~positive & (ivec)e));
    return x * numerator / (1 + e);
}

/* softplus(x) = log(1 + e^x) = max(x, 0) + log(1 + u) with u = e^-|x|, and log(1 + u) = 2 artanh(s)
 * with s = u / (2 + u) <= 1/3. The polynomial in s^2 for artanh(s) / s has a relative error of
 * 4e-9. */
INLINE vec softplus_of(vec x) {
    vec u = exp_of_negative(min_of(x, -x)), s = u / (2 + u), s2 = s * s;
    vec p = s2 * 0.1408732831478119f + 0.1398070901632309f;
    p = p * s2 + 0.20012426376342773f;
    p = p * s2 + 0.3333315849304199f;
    p = p * s2 + 1.0f;
    return max_of(all(0), x) + 2 * s * p;
}

/* GELU(x) = x Phi(x), with Phi(x) - 1/2 = x P(x^2) / Q(x^2).
 * P and Q are a minimax fit of degree 5 over |x| <= 5.6 with an absolute error of 1e-8; beyond, Phi
 * is 0 or 1 in float32. */
INLINE vec gelu_of(vec x) {
    vec c = min_of(max_of(all(-5.6f), x), all(5.6f)); /* NaN stays NaN: see max_of */
    vec u = c * c;
    vec p = u * 2.2145449918298254e-08f + 6.3565225900674704e-06f;
    vec q = u * 1.180215349450009e-06f + 7.510140130762011e-05f;
    p = p * u + 0.00017384905368089676f;
    q = q * u + 0.0019129683496430516f;
    p = p * u + 0.004707248881459236f;
    q = q * u + 0.0289399903267622f;
    p = p * u + 0.03437593951821327f;
    q = q * u + 0.25283342599868774f;
    p = p * u + 0.398942232131958f;
    q = q * u + 1.0f;
    return x * (c * p / q) + x * 0.5f;
}
