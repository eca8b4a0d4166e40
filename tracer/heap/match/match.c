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

/* What is needed on the way: all of it freed at the end. */
struct search {
    const struct rows *first, *second;
    const int32_t *pair;
    uint8_t *same;
    int32_t *stack;
    uint64_t waiting;
    uint32_t *met;   /* of the second dump's objects: by whom, + 1 … */
    uint32_t *place; /* … and at which place of its row */
    int64_t *row;    /* of an ordered row: its references that lead to pairs … */
    int64_t *before; /* … which of those stands before each in the longest ordered part … */
    int64_t *ends;   /* … and where such parts of each length end */
};

static int search_new(struct search *search, uint64_t longest)
{
    search->stack = malloc((search->first->nodes + 1) * sizeof *search->stack);
    search->met = calloc(search->second->nodes + 1, sizeof *search->met);
    search->place = malloc((search->second->nodes + 1) * sizeof *search->place);
    search->row = malloc((longest + 1) * sizeof *search->row);
    search->before = malloc((longest + 1) * sizeof *search->before);
    search->ends = malloc((longest + 2) * sizeof *search->ends);
    return search->stack && search->met && search->place && search->row && search->before &&
           search->ends;
}

static void search_free(struct search *search)
{
    free(search->stack);
    free(search->met);
    free(search->place);
    free(search->row);
    free(search->before);
    free(search->ends);
}

static void reached(struct search *search, int32_t node)
{
    if (search->same[node])
        return;
    search->same[node] = 1;
    search->stack[search->waiting++] = node;
}

/* Whether reference `at` of `node` is in the second dump, too. */
static int in_both(const struct search *search, int32_t node, int64_t at)
{
    int32_t other = search->pair[search->first->targets[at]];
    return other != NONE && search->met[other] == (uint32_t)node + 1;
}

static uint32_t place_of(const struct search *search, int64_t at)
{
    return search->place[search->pair[search->first->targets[at]]];
}

/* Follows the references of an ordered row that have kept their order: the longest increasing
 * part of the places that they have in the second dump. */
static void follow_ordered(struct search *search, int32_t node)
{
    int64_t count = 0, length = 0;
    for (int64_t at = search->first->indptr[node]; at < search->first->indptr[node + 1]; at++)
        if (in_both(search, node, at))
            search->row[count++] = at;
    for (int64_t one = 0; one < count; one++) {
        uint32_t place = place_of(search, search->row[one]);
        int64_t low = 0, high = length;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (place_of(search, search->row[search->ends[middle]]) < place)
                low = middle + 1;
            else
                high = middle;
        }
        search->before[one] = low ? search->ends[low - 1] : NONE;
        search->ends[low] = one;
        if (low == length)
            length++;
    }
    for (int64_t one = length ? search->ends[length - 1] : NONE; one != NONE;
         one = search->before[one])
        reached(search, search->first->targets[search->row[one]]);
}

static void follow(struct search *search, int32_t node, int ordered)
{
    int32_t other = search->pair[node];
    const int64_t begin = search->second->indptr[other], end = search->second->indptr[other + 1];
    for (int64_t at = begin; at < end; at++) {
        search->met[search->second->targets[at]] = (uint32_t)node + 1;
        search->place[search->second->targets[at]] = (uint32_t)(at - begin);
    }
    if (ordered) {
        follow_ordered(search, node);
        return;
    }
    for (int64_t at = search->first->indptr[node]; at < search->first->indptr[node + 1]; at++)
        if (in_both(search, node, at))
            reached(search, search->first->targets[at]);
}

/* Marks in `same` (of the first dump) what a way of references leads to, from the `count`
 * roots on, of which every step is in both dumps; in an `ordered` object's row (of the first
 * dump), those that kept their order. 0; -1 when there is no memory. */
API int match_ways(const struct rows *first, const struct rows *second, const int32_t *pair,
                   const uint8_t *ordered, const int32_t *roots, uint64_t count, uint8_t *same)
{
    struct search search = {.first = first, .second = second, .pair = pair, .same = same};
    uint64_t longest = 0;
    for (uint64_t node = 0; node < first->nodes; node++) {
        uint64_t size = (uint64_t)(first->indptr[node + 1] - first->indptr[node]);
        if (ordered[node] && size > longest)
            longest = size;
    }
    int there = search_new(&search, longest);
    if (there) {
        for (uint64_t root = 0; root < count; root++)
            if (pair[roots[root]] != NONE)
                reached(&search, roots[root]);
        while (search.waiting) {
            int32_t node = search.stack[--search.waiting];
            follow(&search, node, ordered[node]);
        }
    }
    search_free(&search);
    return there ? 0 : -1;
}
