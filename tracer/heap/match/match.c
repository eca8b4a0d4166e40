/* Which objects of two dumps of one process are the same: what tracer/heap/matching.py calls.
 *
 * Rows of references are as in graph/graph.h, and were checked there. `pair` says for each
 * object of the first dump which one of the second stands at its address and may be it. */
#include <stdint.h>
#include <stdlib.h>

#define API __attribute__((visibility("default")))

enum { NONE = -1 };

struct rows {
    uint64_t nodes;
    const int64_t *indptr;  /* nodes + 1 */
    const int32_t *targets; /* indptr[nodes] */
};

/* Takes the pair from those of `fixed` objects, whose references never change, that refer to
 * other addresses in the second dump. How many were taken. */
API uint64_t match_fixed(const struct rows *first, const struct rows *second,
                         const uint8_t *fixed, int32_t *pair)
{
    uint64_t taken = 0;
    for (uint64_t node = 0; node < first->nodes; node++) {
        if (!fixed[node] || pair[node] == NONE)
            continue;
        int64_t at = first->indptr[node], other = second->indptr[pair[node]];
        int64_t count = first->indptr[node + 1] - at;
        int same = count == second->indptr[pair[node] + 1] - other;
        for (int64_t step = 0; same && step < count; step++)
            same = pair[first->targets[at + step]] == second->targets[other + step];
        if (!same) {
            pair[node] = NONE;
            taken++;
        }
    }
    return taken;
}

/* Marks in `same` (of the first dump) what a way of references leads to, from the `count`
 * roots on, of which every step is in both dumps. 0; -1 when there is no memory. */
API int match_ways(const struct rows *first, const struct rows *second, const int32_t *pair,
                   const int32_t *roots, uint64_t count, uint8_t *same)
{
    uint64_t waiting = 0;
    int32_t *stack = malloc((first->nodes + 1) * sizeof *stack);
    uint32_t *met = calloc(second->nodes + 1, sizeof *met); /* by whom, + 1 */
    if (!stack || !met) {
        free(stack);
        free(met);
        return -1;
    }
    for (uint64_t root = 0; root < count; root++)
        if (pair[roots[root]] != NONE && !same[roots[root]]) {
            same[roots[root]] = 1;
            stack[waiting++] = roots[root];
        }
    while (waiting) {
        int32_t node = stack[--waiting], other = pair[node];
        for (int64_t at = second->indptr[other]; at < second->indptr[other + 1]; at++)
            met[second->targets[at]] = (uint32_t)node + 1;
        for (int64_t at = first->indptr[node]; at < first->indptr[node + 1]; at++) {
            int32_t target = first->targets[at];
            if (same[target] || pair[target] == NONE ||
                met[pair[target]] != (uint32_t)node + 1)
                continue;
            same[target] = 1;
            stack[waiting++] = target;
        }
    }
    free(stack);
    free(met);
    return 0;
}
