/* Rows of references: whether they hold, turned round, and shortest ways through them. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

int rows_check(const struct rows *rows)
{
    if (rows->nodes > MOST_NODES || rows->indptr[0] != 0 ||
        rows->indptr[rows->nodes] != (i64)rows->edges)
        return GRAPH_DAMAGED;
    for (u64 node = 0; node < rows->nodes; node++)
        if (rows->indptr[node] > rows->indptr[node + 1])
            return GRAPH_DAMAGED;
    for (u64 at = 0; at < rows->edges; at++)
        if ((u32)rows->targets[at] >= rows->nodes)
            return GRAPH_DAMAGED;
    return GRAPH_OK;
}

int graph_reverse(const struct rows *rows, i64 *indptr, i32 *sources)
{
    if (rows_check(rows) != GRAPH_OK)
        return GRAPH_DAMAGED;
    memset(indptr, 0, (rows->nodes + 1) * sizeof *indptr);
    for (u64 at = 0; at < rows->edges; at++)
        indptr[rows->targets[at] + 1]++;
    for (u64 node = 0; node < rows->nodes; node++)
        indptr[node + 1] += indptr[node];
    /* Filled from behind, each row's end moves to its beginning. */
    for (u64 node = rows->nodes; node-- > 0;)
        for (i64 at = rows->indptr[node + 1]; at-- > rows->indptr[node];)
            sources[--indptr[rows->targets[at] + 1]] = (i32)node;
    memmove(indptr, indptr + 1, rows->nodes * sizeof *indptr);
    indptr[rows->nodes] = (i64)rows->edges;
    return GRAPH_OK;
}

int graph_ways(const struct rows *rows, const i32 *roots, const u64 *ends, u64 tiers, i32 *before)
{
    if (rows_check(rows) != GRAPH_OK)
        return GRAPH_DAMAGED;
    i32 *queue = malloc((rows->nodes + 1) * sizeof *queue);
    if (!queue)
        return GRAPH_NO_MEMORY;
    for (u64 node = 0; node < rows->nodes; node++)
        before[node] = -1;
    u64 head = 0, tail = 0, root = 0;
    for (u64 tier = 0; tier < tiers; tier++) {
        for (; root < ends[tier]; root++) {
            if ((u32)roots[root] >= rows->nodes) {
                free(queue);
                return GRAPH_DAMAGED;
            }
            if (before[roots[root]] < 0) {
                before[roots[root]] = (i32)rows->nodes;
                queue[tail++] = roots[root];
            }
        }
        while (head < tail) {
            i32 node = queue[head++];
            for (i64 at = rows->indptr[node]; at < rows->indptr[node + 1]; at++)
                if (before[rows->targets[at]] < 0) {
                    before[rows->targets[at]] = node;
                    queue[tail++] = rows->targets[at];
                }
        }
    }
    free(queue);
    return GRAPH_OK;
}

int graph_reached(const struct rows *rows, const i32 *roots, u64 count, u8 *reached)
{
    enum { NO, GONE, YES };
    if (rows_check(rows) != GRAPH_OK)
        return GRAPH_DAMAGED;
    i32 *queue = malloc((rows->nodes + 1) * sizeof *queue);
    if (!queue)
        return GRAPH_NO_MEMORY;
    int status = GRAPH_OK;
    u64 tail = 0;
    for (u64 at = 0; at < count; at++) {
        if ((u32)roots[at] >= rows->nodes) {
            status = GRAPH_DAMAGED;
            break;
        }
        if (reached[roots[at]] == NO) {
            reached[roots[at]] = YES;
            queue[tail++] = roots[at];
        }
    }
    for (u64 head = 0; status == GRAPH_OK && head < tail; head++)
        for (i64 at = rows->indptr[queue[head]]; at < rows->indptr[queue[head] + 1]; at++)
            if (reached[rows->targets[at]] == NO) {
                reached[rows->targets[at]] = YES;
                queue[tail++] = rows->targets[at];
            }
    free(queue);
    for (u64 node = 0; node < rows->nodes; node++)
        reached[node] = reached[node] == YES;
    return status;
}
