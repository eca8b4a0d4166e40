#include "api.h"

#include <stdlib.h>

enum { FLAG_HAVE_GC = 1 << 14, LOW_BITS = 3, WORK_PER_WORD = 4, WORK_MORE = 1 << 20 };

const char *walk_offset_names(void)
{
#define X(field, name) name "\n"
    return OFFSETS(X);
#undef X
}

const char *walk_kind_names(void)
{
    /* in the order of enum kind */
    return "scan\nplain\nfields\nint\nstr\nbytearray\nlist\ntuple\ndict\nordered_dict\nset\n"
           "type\nframe\ngenerator\ncode\nmodule\nweakref\ndatetime\ndeque\narray\nlru_cache\n"
           "lru_link\nbuffered\nelement\nring\nndarray\n";
}

static bool prepare(struct walk *walk)
{
    walk->marking = calloc(1, sizeof *walk->marking);
    walk->type_table_size = 1 << 12;
    walk->type_table = calloc(walk->type_table_size, sizeof *walk->type_table);
    walk->types.room = walk->image.size / 256 + 64;
    walk->types.items = lazy_new(walk->types.room, sizeof(struct type));
    walk->work_limit = walk->image.size / 8 * WORK_PER_WORD + WORK_MORE;
    if (!walk->marking || !walk->type_table || !walk->types.items)
        return false;
    walk->marking->walk = walk;
    return true;
}

/* A walk over `count` segments (start, end, offset into base), each within `size` bytes at
 * `base`, which must stay there. NULL when they are no image or memory is short. */
struct walk *walk_new(const u64 (*segments)[3], u32 count, const u8 *base, u64 size,
                      const i32 *offsets, const u32 *constants)
{
    struct walk *walk = calloc(1, sizeof *walk);
    if (!walk)
        return NULL;
    memcpy(&walk->off, offsets, sizeof walk->off);
    memcpy(&walk->constant, constants, sizeof walk->constant);
    if (!image_open(&walk->image, segments, count, base, size) || !prepare(walk)) {
        walk_free(walk);
        return NULL;
    }
    return walk;
}

static void columns_free(struct columns *columns)
{
    lazy_free(columns->address, columns->nodes, 8);
    lazy_free(columns->size, columns->nodes, 8);
    lazy_free(columns->type, columns->nodes, 4);
    lazy_free(columns->refcount, columns->nodes, 4);
    lazy_free(columns->degree, columns->nodes, 4);
    lazy_free(columns->shape, columns->nodes, 4);
    lazy_free(columns->in_degree, columns->nodes, 4);
    lazy_free(columns->guesses, columns->nodes, 4);
    lazy_free(columns->target, columns->edge_room, 4);
}

void walk_free(struct walk *walk)
{
    if (!walk)
        return;
    lazy_free(walk->types.items, walk->types.room, sizeof(struct type));
    columns_free(&walk->columns);
    shapes_free(&walk->shapes);
    list_free(&walk->known);
    list_free(&walk->fields);
    list_free(&walk->names);
    list_free(&walk->static_types);
    list_free(&walk->frames);
    list_free(&walk->references);
    list_free(&walk->roots);
    list_free(&walk->running);
    list_free(&walk->interned);
    free(walk->type_table);
    free(walk->stack);
    free(walk->marking);
    image_close(&walk->image);
    free(walk);
}

/* Registers how a type's instances are visited; `fields` are rows (offset, name). */
int walk_know(struct walk *walk, u64 address, const char *name, u32 kind, u32 scan_from,
              const u32 *fields, u32 count)
{
    struct known *known = list_add(&walk->known, sizeof *known);
    if (!known || kind >= KIND_COUNT || strlen(name) >= sizeof known->name)
        return walk->status = known ? WALK_IMPLAUSIBLE : WALK_NO_MEMORY;
    known->address = address;
    strcpy(known->name, name);
    known->kind = kind;
    known->scan_from = scan_from;
    known->first_field = (u32)walk->fields.count;
    known->field_count = count;
    for (u32 at = 0; at < count; at++) {
        struct field *field = list_add(&walk->fields, sizeof *field);
        if (!field)
            return walk->status = WALK_NO_MEMORY;
        *field = (struct field){fields[2 * at], L_FIELD, fields[2 * at + 1]};
    }
    if (kind == K_TYPE)
        walk->type_type = address;
    return walk->status;
}

/* What an interpreter keeps of a static type outside of the type object. */
int walk_static_type(struct walk *walk, u64 type, u64 dict, u64 subclasses)
{
    struct static_type *row = list_add(&walk->static_types, sizeof *row);
    if (!row)
        return walk->status = WALK_NO_MEMORY;
    *row = (struct static_type){type, dict, subclasses};
    return walk->status;
}

static u64 link_at(struct walk *walk, u64 head, i32 offset)
{
    return image_u64(&walk->image, &walk->marking->hints, head + (u64)offset) & ~(u64)LOW_BITS;
}

/* A word pair is the head of a GC list when both neighbours point back and the first member
 * is an object of a type with GC support. Empty lists have nothing to say. */
static bool is_head(struct walk *walk, u64 head)
{
    const struct offsets *off = &walk->off;
    struct visitor *visitor = walk->marking;
    u64 next = link_at(walk, head, off->gc_next), previous = link_at(walk, head, off->gc_prev);
    if (!next || next == head || next % 8 || link_at(walk, next, off->gc_prev) != head ||
        link_at(walk, previous, off->gc_next) != head)
        return false;
    u64 object = next + (u64)off->gc_head;
    u64 type = image_u64(&walk->image, &visitor->hints, object + (u64)off->ob_type);
    return type_index(visitor, type) >= 0 &&
           image_u64(&walk->image, &visitor->hints, type + (u64)off->tp_flags) & FLAG_HAVE_GC;
}

/* Addresses of GC list heads in [from, from + size), at most `room`. Returns how many.
 * In some releases (3.13.18 is one) PyGC_Head is aligned to 4 only. */
u64 walk_find_list_heads(struct walk *walk, u64 from, u64 size, u64 *heads, u64 room)
{
    u64 found = 0;
    for (u64 at = 0; at + 16 <= size && found < room; at += 4)
        if (is_head(walk, from + at))
            heads[found++] = from + at;
    return found;
}

/* Marks every member of a GC list and what they refer to. */
int walk_list(struct walk *walk, u64 head)
{
    const struct offsets *off = &walk->off;
    struct visitor *visitor = walk->marking;
    u64 previous = head, at = link_at(walk, head, off->gc_next);
    while (at != head && walk->status == WALK_OK) {
        if (!at || at % 8 || link_at(walk, at, off->gc_prev) != previous ||
            !mark_object(visitor, at + (u64)off->gc_head)) {
            walk->broken_lists++;
            break;
        }
        walk->gc_objects++;
        drain(visitor);
        if (++visitor->work > walk->work_limit)
            walk->status = WALK_IMPLAUSIBLE;
        previous = at;
        at = link_at(walk, at, off->gc_next);
    }
    return walk->status;
}

/* An object that is held from outside of the heap; `counted`: how often, in its count. */
int walk_root(struct walk *walk, u64 target, u32 kind, u32 name, u32 counted)
{
    if (!target || target % 8 || !mark_object(walk->marking, target))
        return walk->status;
    struct root *row = list_add(&walk->roots, sizeof *row);
    if (!row)
        return walk->status = WALK_NO_MEMORY;
    *row = (struct root){target, kind, name, counted, NO_NODE};
    return walk->status;
}

/* A dict of interned strings: its references are not in their counts. */
int walk_interned(struct walk *walk, u64 dict)
{
    u64 *row = list_add(&walk->interned, sizeof *row);
    if (!row)
        return walk->status = WALK_NO_MEMORY;
    *row = dict;
    return walk->status;
}

/* The innermost frame of a thread that executes bytecode at this moment. */
int walk_running(struct walk *walk, u64 frame)
{
    u64 *row = list_add(&walk->running, sizeof *row);
    if (!row)
        return walk->status = WALK_NO_MEMORY;
    *row = frame;
    return walk->status;
}

int walk_thread(struct walk *walk, u32 thread, u64 frame)
{
    thread_frames(walk->marking, thread, frame);
    return walk->status;
}

/* Ends the first pass: visits what is left and numbers the objects. */
int walk_mark(struct walk *walk)
{
    drain(walk->marking);
    if (walk->status != WALK_OK)
        return walk->status;
    i64 nodes = image_count_marks(&walk->image);
    if (nodes < 0)
        return walk->status = WALK_NO_MEMORY;
    walk->columns.nodes = (u64)nodes;
    free(walk->stack);
    walk->stack = NULL;
    walk->stack_count = walk->stack_room = 0;
    return walk->status;
}
