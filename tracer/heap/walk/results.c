/* What came out, as plain arrays: tracer/heap/walker.py has the same forms. */
#include "api.h"

_Static_assert(sizeof(struct frame_row) == 32, "as in walker.py");
_Static_assert(sizeof(struct reference) == 24, "as in walker.py");
_Static_assert(sizeof(struct root) == 24, "as in walker.py");
_Static_assert(sizeof(struct label) == 16, "as in walker.py");
_Static_assert(sizeof(struct shape) == 24, "as in walker.py");

/* Names of the fields that the walker itself numbers, in the order of enum own_field. */
const char *walk_field_names(void)
{
    return "\n__dict__\ntp_cache\n__mro__\n__bases__\n__base__\ntp_subclasses\n__name__\n"
           "__qualname__\n__slots__\nht_module\ncode\nfunction\nf_locals\nframe\nco_code\n"
           "co_varnames\nco_cellvars\nco_freevars\nreferent\n__dict__\nargs\n__notes__\n"
           "__traceback__\n__context__\n__cause__\nstate\nnext\ntext\ntail\nattrib\n";
}

/* Objects found and written so far; each is counted twice by the end. */
u64 walk_progress(const struct walk *walk)
{
    return walk->marked + walk->visited;
}

void walk_totals(const struct walk *walk, u64 *totals)
{
    const u64 all[] = {
        walk->columns.nodes,    walk->columns.edges,      walk->types.count,
        walk->frames.count,     walk->references.count,   walk->roots.count,
        walk->shapes.rows.count, walk->shapes.labels.count, walk->gc_objects,
        walk->broken_lists,     walk->bad_pointers,       walk->bad_types,
        walk->marking->work,
    };
    memcpy(totals, all, sizeof all);
}

const void *walk_rows(const struct walk *walk, u32 which)
{
    const void *const rows[] = {
        walk->columns.address,   walk->columns.size,     walk->columns.type,
        walk->columns.refcount,  walk->columns.degree,   walk->columns.shape,
        walk->columns.in_degree, walk->columns.guesses,  walk->columns.target,
        walk->frames.items,      walk->references.items, walk->roots.items,
        walk->shapes.rows.items, walk->shapes.labels.items,
    };
    return which < sizeof rows / sizeof *rows ? rows[which] : NULL;
}

/* Five words for each type: address, flags, size of an instance with what precedes it,
 * node, kind. */
void walk_type_rows(const struct walk *walk, u64 *rows)
{
    const struct type *types = walk->types.items;
    for (u64 at = 0; at < walk->types.count; at++) {
        u64 *row = rows + 5 * at;
        row[0] = types[at].address;
        row[1] = types[at].flags;
        row[2] = types[at].basicsize + types[at].presize;
        row[3] = types[at].node;
        row[4] = types[at].kind;
    }
}

/* Sets the bits `labels[i]` in the nodes that references with label i lead to. */
void walk_flag_targets(const struct walk *walk, const u8 *labels, u8 *nodes)
{
    const struct columns *columns = &walk->columns;
    const struct shape *shapes = walk->shapes.rows.items;
    u64 first = 0;
    for (u64 node = 0; node < columns->nodes; first += columns->degree[node++]) {
        const struct shape *shape = &shapes[columns->shape[node]];
        for (u32 at = 0; at < shape->count; at++)
            if (labels[shape->first + at])
                nodes[columns->target[first + at]] |= labels[shape->first + at];
    }
}

/* Sets the bits `keys` in the keys of every dict that has one of the bits `dicts`, and in
 * the items of every tuple that has. */
void walk_flag_keys(const struct walk *walk, u8 dicts, u8 keys, u8 *nodes)
{
    const struct columns *columns = &walk->columns;
    const struct shape *shapes = walk->shapes.rows.items;
    u64 first = 0;
    for (u64 node = 0; node < columns->nodes; first += columns->degree[node++]) {
        const struct shape *shape = &shapes[columns->shape[node]];
        u32 tail = shape->tail & 0x7f, step = tail == TAIL_PAIRS ? 2 : 1;
        if (!(nodes[node] & dicts) || (tail != TAIL_PAIRS && tail != TAIL_ELEMENTS))
            continue;
        for (u32 at = shape->count; at < columns->degree[node]; at += step)
            nodes[columns->target[first + at]] |= keys;
    }
}
