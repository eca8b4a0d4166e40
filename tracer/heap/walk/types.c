/* Types: which addresses are type objects, and what is to be visited in their instances. */
#include "walk.h"

#include <stdlib.h>

enum {
    FLAG_INLINE_VALUES = 1u << 2, /* Include/object.h, the same from 3.11 on */
    FLAG_MANAGED_DICT = 1u << 4,
    FLAG_HEAP_TYPE = 1u << 9,
    FLAG_READY = 1u << 12,
    FLAG_HAVE_GC = 1u << 14,
    FLAG_TUPLE = 1u << 26,
    FLAG_EXCEPTION = 1u << 30,
    FLAG_TYPE = 1u << 31,
    MEMBER_OBJECT = 6,     /* Py_T_OBJECT, Include/descrobject.h */
    MEMBER_OBJECT_EX = 16, /* Py_T_OBJECT_EX */
    MAX_META = 8,
    MAX_BASES = 1000,
    MAX_MEMBERS = 4096,
    MAX_SCAN = 1 << 13,
    MAX_NAMES = 1 << 16,
    MAX_BASICSIZE = 1 << 24,
    MAX_ITEMSIZE = 1 << 20
};

static u64 read(struct visitor *visitor, u64 address)
{
    return image_u64(&visitor->walk->image, &visitor->hints, address);
}

static u64 hash_of(u64 address)
{
    return (address >> 3) * 0x9E3779B97F4A7C15ull >> 20;
}

i64 type_known_index(const struct walk *walk, u64 address)
{
    u64 mask = walk->type_table_size - 1;
    const struct type *types = walk->types.items;
    for (u64 at = hash_of(address) & mask;; at = (at + 1) & mask) {
        u32 index = walk->type_table[at];
        if (index == 0)
            return -1;
        if (types[index - 1].address == address)
            return index - 1;
    }
}

static bool table_grow(struct walk *walk)
{
    u64 size = walk->type_table_size * 2, mask = size - 1;
    u32 *table = calloc(size, sizeof *table);
    if (!table)
        return false;
    const struct type *types = walk->types.items;
    for (u64 index = 0; index < walk->types.count; index++) {
        u64 at = hash_of(types[index].address) & mask;
        while (table[at])
            at = (at + 1) & mask;
        table[at] = (u32)index + 1;
    }
    free(walk->type_table);
    walk->type_table = table;
    walk->type_table_size = size;
    return true;
}

/* A type object is ready, has sizes that make sense, and its own type is one in turn, up
 * to `type` itself. */
static bool is_type(struct visitor *visitor, u64 address, int depth)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    if (!address || address % 8)
        return false;
    const u8 *type = image_at(&walk->image, &visitor->hints, address, (u64)off->type_size);
    if (!type)
        return false;
    u64 flags = load64(type + off->tp_flags), basicsize = load64(type + off->tp_basicsize);
    if (!(flags & FLAG_READY) || basicsize < 16 || basicsize > MAX_BASICSIZE ||
        load64(type + off->tp_itemsize) > MAX_ITEMSIZE)
        return false;
    if (flags & FLAG_HEAP_TYPE &&
        !image_at(&walk->image, &visitor->hints, address, (u64)off->heap_type_size))
        return false;
    u64 meta = load64(type + off->ob_type);
    if (meta == walk->type_type)
        return true;
    if (depth >= MAX_META || !is_type(visitor, meta, depth + 1))
        return false;
    return read(visitor, meta + (u64)off->tp_flags) & FLAG_TYPE;
}

/* Whether a NUL-terminated string of the target is `text`. */
static bool names(struct visitor *visitor, u64 address, const char *text)
{
    u64 size = strlen(text) + 1;
    const u8 *bytes = image_at(&visitor->walk->image, &visitor->hints, address, size);
    return bytes && memcmp(bytes, text, size) == 0;
}

/* Classes written in Python have their tp_name inside of the str that is their __name__
 * (type_new_set_names); such a class may be called anything. */
static bool named_by_python(struct visitor *visitor, u64 address, u64 flags)
{
    const struct offsets *off = &visitor->walk->off;
    if (!(flags & FLAG_HEAP_TYPE))
        return false;
    u64 name = read(visitor, address + (u64)off->ht_name);
    u64 text = read(visitor, address + (u64)off->tp_name);
    return text == name + (u64)off->ascii_size || text == read(visitor, name + (u64)off->utf8);
}

static u32 known_of(struct visitor *visitor, u64 address, u64 flags)
{
    const struct walk *walk = visitor->walk;
    const struct known *known = walk->known.items;
    for (u64 at = 0; at < walk->known.count; at++)
        if (known[at].address == address)
            return (u32)at;
    if (named_by_python(visitor, address, flags))
        return NO_KNOWN;
    u64 name = read(visitor, address + (u64)walk->off.tp_name);
    for (u64 at = 0; at < walk->known.count; at++)
        if (!known[at].address && names(visitor, name, known[at].name))
            return (u32)at;
    return NO_KNOWN;
}

static bool covered(const struct walk *walk, const struct type *type, u64 offset)
{
    const struct field *fields = walk->fields.items;
    for (u64 at = type->first_field; at < walk->fields.count; at++)
        if (fields[at].offset == offset)
            return true;
    return false;
}

static void add_field(struct walk *walk, const struct type *type, u64 offset, u32 kind, u64 name)
{
    if (offset > MAX_BASICSIZE || covered(walk, type, offset))
        return;
    struct field *field = list_add(&walk->fields, sizeof *field);
    if (field)
        *field = (struct field){(u32)offset, kind, name};
    else
        walk->status = WALK_NO_MEMORY;
}

/* The fields of type objects that hold a reference to an object, from PyMemberDef rows at
 * `members`; slots are those of a class written in Python. */
static void add_members(struct visitor *visitor, const struct type *type, u64 members, u64 count,
                        u64 from, u64 to, u32 kind)
{
    struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    for (u64 at = 0; at < count && at < MAX_MEMBERS; at++) {
        const u8 *row = image_at(&walk->image, &visitor->hints,
                                 members + at * (u64)off->member_size, (u64)off->member_size);
        if (!row || !load64(row + off->member_name))
            return;
        u32 code = load32(row + off->member_type);
        u64 offset = load64(row + off->member_offset);
        if ((code == MEMBER_OBJECT || code == MEMBER_OBJECT_EX) && offset >= from &&
            offset + 8 <= to && offset % 8 == 0)
            add_field(walk, type, offset, kind, load64(row + off->member_name));
    }
}

/* What a class adds to its base in [from, to): its slots, then every other word. */
static void add_own_part(struct visitor *visitor, const struct type *type, u64 address, u64 flags,
                         u64 from, u64 to)
{
    struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    if (to <= from)
        return;
    bool python = named_by_python(visitor, address, flags);
    /* Behind items of one's own number there are no fixed places; a dict has its own way.
     * What C adds to tuples are more items (Objects/structseq.c). */
    if (type->itemsize && (python || flags & FLAG_TUPLE))
        return;
    if (python) {
        u64 meta = read(visitor, address + (u64)off->ob_type);
        u64 size = read(visitor, meta + (u64)off->tp_basicsize);
        if (size <= MAX_BASICSIZE)
            add_members(visitor, type, address + size, read(visitor, address + (u64)off->ob_size),
                        from, to, L_SLOT);
    }
    add_members(visitor, type, read(visitor, address + (u64)off->tp_members), MAX_MEMBERS, from,
                to, L_MEMBER);
    u64 dict = read(visitor, address + (u64)off->tp_dictoffset);
    u64 weak = read(visitor, address + (u64)off->tp_weaklistoffset);
    for (u64 offset = (from + 7) & ~7ull; offset + 8 <= to && offset < MAX_SCAN; offset += 8)
        if (offset != dict && offset != weak)
            add_field(walk, type, offset, L_GUESS, offset);
}

static void add_known(struct walk *walk, struct type *type, u32 index)
{
    const struct known *known = (const struct known *)walk->known.items + index;
    type->known = index;
    type->kind = (u8)known->kind;
    for (u32 at = 0; at < known->field_count; at++) {
        struct field field = ((struct field *)walk->fields.items)[known->first_field + at];
        add_field(walk, type, field.offset, field.kind, field.name);
    }
}

static void add_exception(struct walk *walk, const struct type *type)
{
    const struct offsets *off = &walk->off;
    add_field(walk, type, (u64)off->exc_dict, L_FIELD, F_EXC_DICT);
    add_field(walk, type, (u64)off->exc_args, L_FIELD, F_EXC_ARGS);
    if (off->exc_notes >= 0)
        add_field(walk, type, (u64)off->exc_notes, L_FIELD, F_EXC_NOTES);
    add_field(walk, type, (u64)off->exc_traceback, L_FIELD, F_EXC_TRACEBACK);
    add_field(walk, type, (u64)off->exc_context, L_FIELD, F_EXC_CONTEXT);
    add_field(walk, type, (u64)off->exc_cause, L_FIELD, F_EXC_CAUSE);
}

/* From the type down its bases to one that is known, collecting what each adds. */
static void add_layers(struct visitor *visitor, struct type *type)
{
    struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 address = type->address, flags = type->flags, size = type->basicsize;
    if (flags & FLAG_EXCEPTION)
        add_exception(walk, type);
    for (int depth = 0; depth < MAX_BASES; depth++) {
        visitor->work += 64;
        u32 known = known_of(visitor, address, flags);
        if (known != NO_KNOWN) {
            add_known(walk, type, known);
            u32 from = ((const struct known *)walk->known.items)[known].scan_from;
            if (from)
                add_own_part(visitor, type, address, flags, from, size);
            type->hidden_items =
                depth > 0 && !named_by_python(visitor, type->address, type->flags);
            return;
        }
        u64 base = read(visitor, address + (u64)off->tp_base);
        u64 from = 16;
        bool more = is_type(visitor, base, 0);
        if (more)
            from = read(visitor, base + (u64)off->tp_basicsize);
        add_own_part(visitor, type, address, flags, from, size);
        if (!more)
            return;
        if (!named_by_python(visitor, address, flags))
            type->scan_items = type->itemsize > 0 && type->itemsize % 8 == 0;
        address = base;
        flags = read(visitor, base + (u64)off->tp_flags);
        size = from;
    }
}

/* The names that split attributes have, from the keys which all instances share. */
static void add_names(struct visitor *visitor, struct type *type)
{
    struct walk *walk = visitor->walk;
    u64 keys = read(visitor, type->address + (u64)walk->off.ht_cached_keys), first, count;
    u32 step;
    type->first_name = (u32)walk->names.count;
    if (!keys || !keys_entries(visitor, keys, &first, &count, &step))
        return;
    type->keys_size = keys_bytes(visitor, keys);
    for (u64 at = 0; at < count && at < MAX_NAMES; at++) {
        u64 *name = list_add(&walk->names, sizeof *name);
        if (!name) {
            walk->status = WALK_NO_MEMORY;
            return;
        }
        *name = read(visitor, first + at * step + (step == 24 ? 8 : 0));
    }
    type->name_count = (u32)(walk->names.count - type->first_name);
}

/* How many bytes an instance has for certain: a visitor reads no further without asking. */
static u64 least_size(const struct walk *walk, enum kind kind)
{
    const struct offsets *off = &walk->off;
    switch (kind) {
    case K_STR:
        return (u64)off->ascii_size;
    case K_TYPE:
        return (u64)off->type_size;
    case K_DATETIME:
        return (u64)off->has_tzinfo + 1;
    default:
        return 0;
    }
}

/* What the visitor of a kind reads without asking: an instance is never shorter. */
static u64 read_size(const struct walk *walk, enum kind kind)
{
    const struct offsets *off = &walk->off;
    switch (kind) {
    case K_INT:
        return (u64)(off->lv_tag >= 0 ? off->lv_tag : off->ob_size) + 8;
    case K_BYTEARRAY:
        return (u64)off->bytearray_alloc + 8;
    case K_LIST:
        return (u64)off->list_allocated + 8;
    case K_TUPLE:
        return (u64)off->tuple_item;
    case K_DICT:
        return (u64)off->ma_values + 8;
    case K_ORDERED_DICT:
        return (u64)off->ma_values + 8 + 7 * 8;
    case K_SET:
        return (u64)off->set_smalltable;
    case K_FRAME:
        return (u64)off->frame_data;
    case K_GENERATOR:
        return (u64)off->gi_iframe;
    case K_CODE:
        return (u64)(off->co_cached >= 0 ? off->co_cached + 8 : off->ob_size + 8);
    case K_MODULE:
        return (u64)(off->md_state_size >= 0 ? off->md_state_size : off->md_state) + 8;
    case K_WEAKREF:
        return (u64)off->wr_object + 8;
    case K_DEQUE:
    case K_ARRAY:
    case K_LRU_CACHE:
    case K_LRU_LINK:
        return 48;
    case K_BUFFERED:
        return 128;
    case K_ELEMENT:
        return 48;
    case K_RING:
        return 64;
    case K_NDARRAY:
        return 72;
    default:
        return 16;
    }
}

static void settle_sizes(const struct walk *walk, struct type *type)
{
    u64 least = least_size(walk, type->kind);
    if (type->basicsize < (least ? least : read_size(walk, type->kind)))
        type->kind = type->kind == K_RING ? K_SCAN : K_PLAIN; /* not what it says, or older */
    least = least_size(walk, type->kind);
    type->need = (u32)(least ? least : type->basicsize);
    if (type->itemsize && type->need < (u64)walk->off.ob_size + 8)
        type->itemsize = 0;
}

static void describe(struct visitor *visitor, struct type *type)
{
    struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 address = type->address;
    type->flags = read(visitor, address + (u64)off->tp_flags);
    type->basicsize = read(visitor, address + (u64)off->tp_basicsize);
    type->itemsize = read(visitor, address + (u64)off->tp_itemsize);
    type->dictoffset = (i64)read(visitor, address + (u64)off->tp_dictoffset);
    type->heap = (type->flags & FLAG_HEAP_TYPE) != 0;
    type->managed = (type->flags & FLAG_MANAGED_DICT) != 0;
    type->inline_values = walk->constant.instance_dict == INLINE_VALUES &&
                          (type->flags & FLAG_INLINE_VALUES) != 0;
    type->presize = (u16)((type->flags & FLAG_HAVE_GC ? off->gc_head : 0) +
                          (type->flags & walk->constant.preheader_flags ? 16 : 0));
    type->known = NO_KNOWN;
    type->node = NO_NODE;
    type->kind = K_SCAN;
    type->first_field = (u32)walk->fields.count;
    add_layers(visitor, type);
    settle_sizes(walk, type);
    bool at_field = type->dictoffset > 0 && covered(walk, type, (u64)type->dictoffset);
    if (type->managed || at_field || type->kind == K_TYPE)
        type->dictoffset = 0;
    type->field_count = (u32)(walk->fields.count - type->first_field);
    if (type->heap)
        add_names(visitor, type);
    visitor->work += (u64)type->field_count * type->field_count / 8 + type->name_count;
}

/* The number of the type at `address`, verified and described when it is new; -1 when it
 * is none. In the second pass all are known. */
i64 type_index(struct visitor *visitor, u64 address)
{
    struct walk *walk = visitor->walk;
    i64 index = type_known_index(walk, address);
    if (index >= 0 || visitor->emitting || !is_type(visitor, address, 0))
        return index;
    /* A type takes 400 bytes: more of them than fit were made up. */
    if (walk->types.count >= walk->types.room) {
        walk->status = WALK_IMPLAUSIBLE;
        return -1;
    }
    if (walk->types.count * 2 >= walk->type_table_size && !table_grow(walk)) {
        walk->status = WALK_NO_MEMORY;
        return -1;
    }
    struct type described = {.address = address};
    describe(visitor, &described);
    ((struct type *)walk->types.items)[walk->types.count++] = described;
    u64 mask = walk->type_table_size - 1, at = hash_of(address) & mask;
    while (walk->type_table[at])
        at = (at + 1) & mask;
    index = (i64)walk->types.count - 1;
    walk->type_table[at] = (u32)index + 1;
    mark_object(visitor, address); /* what instances refer to is an object, too */
    return index;
}
