/* The graph of a heap: who keeps whom. What tracer/heap/graph_code.py calls.
 *
 * Nodes are 0 .. nodes - 1. References are rows (CSR): those of node v are targets[indptr[v]]
 * up to targets[indptr[v + 1]]. Arrays come from a file that nobody trusts: every function
 * checks each number before it is used as an index, and says GRAPH_DAMAGED. Nothing recurses.
 * The caller's arrays have the lengths that are stated here. */
#ifndef PARKSCOPE_GRAPH_H
#define PARKSCOPE_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

enum status { GRAPH_OK, GRAPH_NO_MEMORY, GRAPH_DAMAGED };

enum { MOST_NODES = 0x7ffffff0, NONE = 0xffffffff };

struct rows {
    u64 nodes;
    const i64 *indptr;  /* nodes + 1 */
    const i32 *targets; /* indptr[nodes] */
    u64 edges;          /* the length of targets */
};

/* The columns of a dump (tracer/heap/FORMAT.md), and the sums of their counts. */
struct columns {
    u64 nodes, edges, shapes, labels, types;
    const u32 *type, *shape; /* nodes */
    const i64 *degree;       /* nodes */
    const i32 *target;       /* edges; numbers of nodes */
    const u32 *shape_count;  /* shapes */
    const u64 *shape_first;  /* shapes: its first label */
    const u8 *shape_tail;    /* shapes */
    const u8 *label_kind;    /* labels */
    const u32 *label_name;   /* labels */
    const u32 *type_node;    /* types */
    const u8 *type_heap;     /* types: whether instances refer to it */
};

/* Whether the rows are what they should be. */
int rows_check(const struct rows *rows);

/* indptr (nodes + 1) of the references that keep their targets, those to types included. */
API int graph_indptr(const struct columns *columns, i64 *indptr);

/* Their targets, and, unless NULL, what each is called: its kind (enum label_kind, walk.h;
 * TYPE_LABEL for the one to the type) and a number: of the name in the strings, of the item
 * for elements and keys, of the key's node for values. */
API int graph_targets(const struct columns *columns, const i64 *indptr, i32 *targets, u8 *kinds,
                      u32 *numbers);

/* The same references by their targets; sources ascend in each row. */
API int graph_reverse(const struct rows *rows, i64 *indptr, i32 *sources);

/* Immediate dominators under one super-root that refers to the `count` roots, and the bytes
 * that each node keeps alive alone, itself included. The super-root is number `nodes`; nodes
 * that no root leads to are under number `nodes + 1`, which refers to as few of them as lead
 * to all the others; what they refer to elsewhere is left out. sums: bytes under either. */
API int graph_dominators(const struct rows *rows, const i32 *roots, u64 count, const u64 *sizes,
                         i32 *idom, u64 *retained, u64 *sums);

/* Of each group of nodes the retained bytes of those members that no other member dominates;
 * those are marked in `top`. Nodes of groups from `groups` on are in none. With `inherit`,
 * they are first put into the group of their immediate dominator. */
API int graph_grouped(u64 nodes, const i32 *idom, const u64 *retained, u32 *group, u64 groups,
                      bool inherit, u64 *bytes, u8 *top);

/* The node before each on a shortest way from the roots; `nodes` before a root, -1 where
 * there is none. What the first `ends[0]` roots lead to is found first, then what those up
 * to `ends[1]` lead to, and so on. */
API int graph_ways(const struct rows *rows, const i32 *roots, const u64 *ends, u64 tiers,
                   i32 *before);

/* Whether the roots lead to a node while those that are 1 in `reached` are not there; these
 * become 0. */
API int graph_reached(const struct rows *rows, const i32 *roots, u64 count, u8 *reached);

#endif
