/* Volume of the unit ball in d dimensions by Monte Carlo: a number cruncher as an action, in C99, nothing but libc.
 *
 *   {"dimension": 5, "samples": 2000000, "seed": 7}
 *   -> {"dimension": 5, "samples": 2000000, "seed": 7, "volume": 5.26, "standard_error": 0.008, "exact": 5.263789}
 *
 * Points are drawn in the cube [0, 1)^d; the share inside the ball, times 2^d, estimates the volume. Equal seeds give equal
 * results on every machine: the generator works on integers, and what is summed is a count.
 *
 * Build: make, or  cc -O2 -std=c99 -static -o exec ball.c -lm
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGUMENT_BYTES (1024 * 1024) /* an invocation's payload is at most this long */
#define MAX_DEPTH 64

/* The platform takes a result with "error" for an application error. Exit 0: the process itself did its work. */
static void fail(const char *message)
{
    printf("{\"error\": \"%s\"}\n", message);
    exit(0);
}

/* --- arguments: just enough JSON to walk over one object and pick whole numbers from its top level --- */

static const char *skip_space(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
        p++;
    return p;
}

/* p stands on the opening quote; returns the place after the closing one, or NULL. */
static const char *skip_string(const char *p)
{
    for (p++; *p != '"'; p++) {
        if (*p == '\\')
            p++;
        if ((unsigned char)*p < 0x20) /* the end of the text is one of these */
            return NULL;
    }
    return p + 1;
}

/* Returns the place after the value that begins at p, or NULL where there is none. */
static const char *skip_value(const char *p, int depth)
{
    if (*p == '"')
        return skip_string(p);
    if (*p == '{' || *p == '[') {
        const char close = *p == '{' ? '}' : ']';
        if (depth == MAX_DEPTH)
            return NULL;
        p = skip_space(p + 1);
        if (*p == close)
            return p + 1;
        for (;;) {
            if (close == '}') {
                if (*p != '"' || !(p = skip_string(p)))
                    return NULL;
                p = skip_space(p);
                if (*p++ != ':')
                    return NULL;
                p = skip_space(p);
            }
            if (!(p = skip_value(p, depth + 1)))
                return NULL;
            p = skip_space(p);
            if (*p == close)
                return p + 1;
            if (*p++ != ',')
                return NULL;
            p = skip_space(p);
        }
    }
    const char *begin = p; /* number, true, false, null: judged by whoever asks for it */
    while (isalnum((unsigned char)*p) || *p == '+' || *p == '-' || *p == '.')
        p++;
    return p > begin ? p : NULL;
}

/* The whole number under `name` in the object at p, `otherwise` when absent. Exits with a message when it is no such number. */
static uint64_t whole_number(const char *p, const char *name, uint64_t otherwise, uint64_t least, uint64_t greatest)
{
    static char message[160];
    const size_t length = strlen(name);
    uint64_t found = otherwise;
    for (p = skip_space(p + 1); *p == '"'; p = skip_space(*p == ',' ? p + 1 : p)) {
        const char *key = p + 1, *key_end = skip_string(p) - 1;
        const char *value = skip_space(skip_space(key_end + 1) + 1);
        p = skip_value(value, 1);
        if ((size_t)(key_end - key) == length && memcmp(key, name, length) == 0) {
            char *end;
            errno = 0;
            found = strtoull(value, &end, 10);
            if (errno || end != p || !isdigit((unsigned char)*value) || found < least || found > greatest) {
                snprintf(message, sizeof message, "%s must be a whole number from %llu to %llu", name,
                         (unsigned long long)least, (unsigned long long)greatest);
                fail(message);
            }
        }
        p = skip_space(p);
    }
    return found;
}

/* --- xoshiro256** 1.0 by Blackman and Vigna (public domain), seeded by splitmix64 --- */

static uint64_t state[4];

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static void seed_generator(uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        state[i] = z ^ (z >> 31);
    }
}

/* Uniform in [0, 1), a multiple of 2^-53. */
static double uniform(void)
{
    const uint64_t result = rotate_left(state[1] * 5, 7) * 9, t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotate_left(state[3], 45);
    return (double)(result >> 11) * (1.0 / 9007199254740992.0);
}

int main(void)
{
    static char text[ARGUMENT_BYTES + 1]; /* zero, so the text always ends */
    const size_t length = fread(text, 1, ARGUMENT_BYTES, stdin);
    const char *object = skip_space(text), *end = *object == '{' ? skip_value(object, 0) : NULL;
    if (!end || *skip_space(end) || strlen(text) != length)
        fail("the arguments are not one JSON object");

    const uint64_t dimension = whole_number(object, "dimension", 3, 1, 20);
    const uint64_t samples = whole_number(object, "samples", 1000000, 1, 1000000000);
    const uint64_t seed = whole_number(object, "seed", 1, 0, UINT64_C(9007199254740991));

    fprintf(stderr, "%llu points in %llu dimensions\n", (unsigned long long)samples, (unsigned long long)dimension);
    seed_generator(seed);
    uint64_t inside = 0;
    for (uint64_t i = 0; i < samples; i++) {
        double square = 0;
        for (uint64_t k = 0; k < dimension; k++) {
            const double x = uniform();
            square += x * x;
        }
        inside += square < 1;
    }

    const double cube = (double)(UINT64_C(1) << dimension), share = (double)inside / (double)samples;
    double exact = dimension % 2 ? 2 : 1; /* V_1 = 2, V_0 = 1, V_d = V_{d-2} 2 pi / d */
    for (uint64_t d = dimension % 2 + 2; d <= dimension; d += 2)
        exact *= 2 * 3.14159265358979323846 / (double)d;
    printf("{\"dimension\": %llu, \"samples\": %llu, \"seed\": %llu, \"volume\": %.9g, \"standard_error\": %.3g, \"exact\": %.9g}\n",
           (unsigned long long)dimension, (unsigned long long)samples, (unsigned long long)seed, cube * share,
           cube * sqrt(share * (1 - share) / (double)samples), exact);
    return 0;
}
