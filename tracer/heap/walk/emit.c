/* The second pass: references as numbers, and the shape of each object's references. */
#include "walk.h"

#include <stdlib.h>

enum { MAX_LABELS = 1 << 20 };

static u64 mix(u64 hash, u64 value)
{
    hash ^= value * 0x9E3779B97F4A7C15ull;
    return (hash << 27 | hash >> 37) * 0x94D049BB133111EBull;
}

void emit_begin(struct visitor *visitor)
{
    visitor->labels.count = 0;
    visitor->hash = 0x2545F4914F6CDD1Dull;
    visitor->tail = TAIL_NONE;
    visitor->degree = 0;
}

static void add_label(struct visitor *visitor, u32 kind, u64 name)
{
    struct label *label = list_add(&visitor->labels, sizeof *label);
    if (!label) {
        visitor->status = WALK_NO_MEMORY;
        return;
    }
    *label = (struct label){name, kind};
    visitor->hash = mix(visitor->hash, name * 256 + kind);
}

/* Elements, and keys with their values, come last and repeat: they are the tail. */
static bool joins_tail(struct visitor *visitor, u32 kind)
{
    u32 base = kind & 0x7f;
    if (base != L_ELEMENT && base != L_KEY && base != L_VALUE && base != L_AGAIN)
        return false;
    u32 tail = base == L_ELEMENT ? TAIL_ELEMENTS : visitor->triples ? TAIL_TRIPLES : TAIL_PAIRS;
    visitor->tail = tail | (kind & L_BORROWED);
    return true;
}

bool emits(struct visitor *visitor, u64 target)
{
    const struct segment *segment = image_find(&visitor->walk->image, &visitor->hints, target);
    return target % 8 == 0 && segment &&
           mark_test(&visitor->walk->image, mark_bit(segment, target));
}

void emit(struct visitor *visitor, u64 target, u32 kind, u64 name)
{
    struct walk *walk = visitor->walk;
    const struct segment *segment = image_find(&walk->image, &visitor->hints, target);
    if (!segment)
        return;
    u64 bit = mark_bit(segment, target);
    if (!mark_test(&walk->image, bit) || visitor->edge_count == visitor->edge_room)
        return;
    u32 node = image_rank(&walk->image, bit);
    visitor->targets[visitor->edge_count++] = node;
    visitor->degree++;
    u32 base = kind & 0x7f;
    if (!(kind & L_BORROWED) && base != L_WEAK) {
        u32 *count = base == L_GUESS || base == L_MEMBER ? walk->columns.guesses
                                                         : walk->columns.in_degree;
        __atomic_fetch_add(&count[node], 1, __ATOMIC_RELAXED);
    }
    if (joins_tail(visitor, kind))
        return;
    if (visitor->labels.count < MAX_LABELS)
        add_label(visitor, kind, name);
    else
        visitor->status = WALK_IMPLAUSIBLE;
}

static bool same_labels(const struct shapes *shapes, const struct shape *shape,
                        const struct label *labels, u64 count)
{
    const struct label *own = (const struct label *)shapes->labels.items + shape->first;
    if (shape->count != count)
        return false;
    for (u64 at = 0; at < count; at++)
        if (own[at].name != labels[at].name || own[at].kind != labels[at].kind)
            return false;
    return true;
}

static bool shapes_grow(struct shapes *shapes)
{
    u64 size = shapes->table_size ? shapes->table_size * 2 : 1024;
    u32 *table = calloc(size, sizeof *table);
    if (!table)
        return false;
    const struct shape *rows = shapes->rows.items;
    for (u64 index = 0; index < shapes->rows.count; index++) {
        u64 at = rows[index].hash & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = (u32)index + 1;
    }
    free(shapes->table);
    shapes->table = table;
    shapes->table_size = size;
    return true;
}

/* The number of a shape, new or known; UINT32_MAX when they become too many. */
static u32 shape_number(struct shapes *shapes, u64 hash, const struct label *labels, u64 count,
                        u32 tail)
{
    if (shapes->rows.count * 2 >= shapes->table_size && !shapes_grow(shapes))
        return UINT32_MAX;
    hash = mix(hash, tail);
    u64 mask = shapes->table_size - 1, at = hash & mask;
    for (; shapes->table[at]; at = (at + 1) & mask) {
        const struct shape *row = (const struct shape *)shapes->rows.items + shapes->table[at] - 1;
        if (row->hash == hash && row->tail == tail && same_labels(shapes, row, labels, count))
            return shapes->table[at] - 1;
    }
    if (shapes->labels.count + count > shapes->most_labels)
        return UINT32_MAX;
    struct shape *row = list_add(&shapes->rows, sizeof *row);
    if (!row)
        return UINT32_MAX;
    *row = (struct shape){hash, (u32)shapes->labels.count, (u32)count, tail};
    for (u64 label = 0; label < count; label++) {
        struct label *copy = list_add(&shapes->labels, sizeof *copy);
        if (!copy)
            return UINT32_MAX;
        *copy = labels[label];
    }
    shapes->table[at] = (u32)shapes->rows.count;
    return (u32)shapes->rows.count - 1;
}

u32 emit_end(struct visitor *visitor)
{
    u32 number = shape_number(&visitor->shapes, visitor->hash, visitor->labels.items,
                              visitor->labels.count, visitor->tail);
    if (number == UINT32_MAX)
        visitor->status = WALK_NO_MEMORY;
    return number;
}

/* Adds the shapes of another thread; `numbers` says which number each has now. */
bool shapes_merge(struct shapes *into, const struct shapes *from, u32 **numbers)
{
    *numbers = calloc(from->rows.count + 1, sizeof **numbers);
    if (!*numbers)
        return false;
    const struct shape *rows = from->rows.items;
    for (u64 at = 0; at < from->rows.count; at++) {
        const struct label *labels = (const struct label *)from->labels.items + rows[at].first;
        u64 hash = 0x2545F4914F6CDD1Dull;
        for (u32 label = 0; label < rows[at].count; label++)
            hash = mix(hash, labels[label].name * 256 + labels[label].kind);
        u32 number = shape_number(into, hash, labels, rows[at].count, rows[at].tail);
        if (number == UINT32_MAX)
            return false;
        (*numbers)[at] = number;
    }
    return true;
}

void shapes_free(struct shapes *shapes)
{
    list_free(&shapes->rows);
    list_free(&shapes->labels);
    free(shapes->table);
    memset(shapes, 0, sizeof *shapes);
}
