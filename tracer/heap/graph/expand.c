/* From the columns of a dump to rows of references. */
#include "graph.h"

#include <stddef.h>

/* enum label_kind and enum tail, walk/walk.h */
enum {
    ELEMENT = 0,
    KEY = 1,
    VALUE = 2,
    AGAIN = 11,
    WEAK = 12,
    TYPE_LABEL = 13,
    BORROWED = 0x80,
    ELEMENTS = 1,
    PAIRS = 2,
    TRIPLES = 3
};

/* Whether a reference keeps its target. One that is not counted does not, and the third of a
 * triple says nothing new. */
static bool keeps(u8 kind)
{
    return !(kind & BORROWED) && kind != WEAK && kind != AGAIN;
}

/* How many of the references in a shape's head keep their targets. */
static u64 kept_labels(const struct columns *columns, u64 shape)
{
    u64 kept = 0, first = columns->shape_first[shape];
    for (u64 at = 0; at < columns->shape_count[shape]; at++)
        kept += keeps(columns->label_kind[first + at]);
    return kept;
}

/* What repeats stands in the tail only; kinds from TYPE_LABEL on are not a dump's. */
static bool labels_hold(const struct columns *columns)
{
    for (u64 label = 0; label < columns->labels; label++) {
        u8 kind = columns->label_kind[label] & ~BORROWED;
        if (kind <= VALUE || kind == AGAIN || kind >= TYPE_LABEL)
            return false;
    }
    return true;
}

static bool shapes_hold(const struct columns *columns)
{
    for (u64 shape = 0; shape < columns->shapes; shape++) {
        u64 first = columns->shape_first[shape];
        if (first > columns->labels || columns->shape_count[shape] > columns->labels - first)
            return false;
        if ((columns->shape_tail[shape] & ~BORROWED) > TRIPLES)
            return false;
    }
    for (u64 type = 0; type < columns->types; type++)
        if (columns->type_heap[type] && columns->type_node[type] >= columns->nodes)
            return false;
    return true;
}

/* How many references of the tail are stored, and how many keep: false if that cannot be. */
static bool tail_of(const struct columns *columns, u64 node, u64 *stored, u64 *kept)
{
    u64 shape = columns->shape[node];
    if (columns->degree[node] < (i64)columns->shape_count[shape])
        return false;
    u8 tail = columns->shape_tail[shape], step = tail & ~BORROWED;
    *stored = (u64)columns->degree[node] - columns->shape_count[shape];
    if (step == 0 ? *stored != 0 : *stored % step != 0)
        return false;
    *kept = tail & BORROWED ? 0 : step == TRIPLES ? *stored / TRIPLES * PAIRS : *stored;
    return true;
}

int graph_indptr(const struct columns *columns, i64 *indptr)
{
    u64 kept = 0, seen = 0;
    if (columns->nodes > MOST_NODES || !shapes_hold(columns) || !labels_hold(columns))
        return GRAPH_DAMAGED;
    indptr[0] = 0;
    for (u64 node = 0; node < columns->nodes; node++) {
        u64 stored, tail;
        if (columns->shape[node] >= columns->shapes || columns->type[node] >= columns->types ||
            !tail_of(columns, node, &stored, &tail))
            return GRAPH_DAMAGED;
        seen += (u64)columns->degree[node];
        if (seen > columns->edges)
            return GRAPH_DAMAGED;
        kept += kept_labels(columns, columns->shape[node]) + tail +
                (columns->type_heap[columns->type[node]] != 0);
        indptr[node + 1] = (i64)kept;
    }
    return seen == columns->edges ? GRAPH_OK : GRAPH_DAMAGED;
}

struct out {
    i32 *targets;
    u8 *kinds;
    u32 *numbers;
    u64 at, end;
};

static void put(struct out *out, i32 target, u8 kind, u32 number)
{
    if (out->at >= out->end)
        return;
    out->targets[out->at] = target;
    if (out->kinds)
        out->kinds[out->at] = kind;
    if (out->numbers)
        out->numbers[out->at] = number;
    out->at++;
}

static void put_head(struct out *out, const struct columns *columns, u64 shape, const i32 *target)
{
    u64 first = columns->shape_first[shape];
    for (u64 at = 0; at < columns->shape_count[shape]; at++)
        if (keeps(columns->label_kind[first + at]))
            put(out, target[at], columns->label_kind[first + at], columns->label_name[first + at]);
}

static void put_tail(struct out *out, u8 step, u64 stored, const i32 *target)
{
    if (step == ELEMENTS) {
        for (u64 at = 0; at < stored; at++)
            put(out, target[at], ELEMENT, (u32)at);
        return;
    }
    for (u64 at = 0; at + 1 < stored; at += step) {
        put(out, target[at], KEY, (u32)(at / step));
        put(out, target[at + 1], VALUE, (u32)target[at]);
    }
}

/* Columns are checked once more while they are used: that costs next to nothing. */
int graph_targets(const struct columns *columns, const i64 *indptr, i32 *targets, u8 *kinds,
                  u32 *numbers)
{
    u64 seen = 0;
    for (u64 at = 0; at < columns->edges; at++)
        if ((u32)columns->target[at] >= columns->nodes)
            return GRAPH_DAMAGED;
    for (u64 node = 0; node < columns->nodes; node++) {
        struct out out = {targets, kinds, numbers, (u64)indptr[node], (u64)indptr[node + 1]};
        u64 shape = columns->shape[node], stored, kept, type = columns->type[node];
        if (!tail_of(columns, node, &stored, &kept))
            return GRAPH_DAMAGED;
        const i32 *target = columns->target + seen;
        put_head(&out, columns, shape, target);
        if (kept)
            put_tail(&out, columns->shape_tail[shape], stored, target + columns->shape_count[shape]);
        if (columns->type_heap[type])
            put(&out, (i32)columns->type_node[type], TYPE_LABEL, 0);
        if (out.at != out.end)
            return GRAPH_DAMAGED;
        seen += (u64)columns->degree[node];
    }
    return GRAPH_OK;
}
