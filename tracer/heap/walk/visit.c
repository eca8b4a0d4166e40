/* What one object refers to, and how large it is. Sources: Objects/<type>object.c, the
 * tp_traverse and __sizeof__ functions there; sizes are what sys.getsizeof() says. */
#include "walk.h"

enum {
    FLAG_HEAP_TYPE = 1u << 9,
    MAX_STATE = 1 << 16,
    MAX_ITEMS_SCANNED = 1 << 16,
    LRU_NEXT = 24,
    BUFFER = 56,
    BUFFER_SIZE = 120,
    WORD = 8
};

static u64 read(struct visitor *visitor, u64 address)
{
    return image_u64(&visitor->walk->image, &visitor->hints, address);
}

static u32 read32(struct visitor *visitor, u64 address)
{
    const u8 *bytes = image_at(&visitor->walk->image, &visitor->hints, address, 4);
    return bytes ? load32(bytes) : 0;
}

/* The number of items that a variable-sized object claims. */
static u64 items(const struct walk *walk, const u8 *object)
{
    i64 count = (i64)load64(object + walk->off.ob_size);
    if (count < 0)
        count = count == INT64_MIN ? 0 : -count;
    return (u64)count <= walk->image.size ? (u64)count : 0;
}

/* An int keeps its number of digits above the tag (3.12 on) or as a signed size. */
static u64 digits(const struct walk *walk, const u8 *object)
{
    if (walk->off.lv_tag < 0)
        return items(walk, object);
    u64 count = load64(object + walk->off.lv_tag) >> 3;
    return count <= walk->image.size ? count : 0;
}

static u64 str_size(struct visitor *visitor, u64 address, const u8 *object, u64 basicsize)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 length = load64(object + off->str_length);
    u32 state = load32(object + off->str_state);
    u64 width = state >> 2 & 7;
    bool compact = state >> 5 & 1, ascii = state >> 6 & 1;
    u64 own = address + (u64)off->compact_size, size;
    u64 parts = (u64)(compact && ascii ? off->ascii_size : compact ? off->compact_size : off->str_size);
    object = image_at(&walk->image, &visitor->hints, address, parts);
    if (length > walk->image.size || !object)
        return basicsize;
    if (compact && ascii)
        size = (u64)off->ascii_size + length + 1;
    else if (compact)
        size = (u64)off->compact_size + (length + 1) * width;
    else {
        size = (u64)off->str_size + (length + 1) * width;
        own = load64(object + off->str_data);
    }
    if (!(compact && ascii)) {
        u64 utf8 = load64(object + off->utf8);
        if (utf8 && utf8 != own)
            size += load64(object + off->utf8_length) + 1;
    }
    if (off->wstr >= 0) {
        u64 wide = load64(object + off->wstr);
        u64 count = compact && ascii ? length : load64(object + off->wstr_length);
        if (wide && wide != own && !(compact && ascii && wide == address + (u64)off->ascii_size))
            size += (count + 1) * 4;
    }
    return size <= 2 * walk->image.size ? size : basicsize;
}

static void visit_fields(struct visitor *visitor, u64 address, const struct type *type,
                         const u8 *object)
{
    const struct walk *walk = visitor->walk;
    for (u32 at = 0; at < type->field_count; at++) {
        struct field field = ((const struct field *)walk->fields.items)[type->first_field + at];
        if (field.offset + WORD <= type->need)
            edge(visitor, load64(object + field.offset), field.kind, field.name);
        else if (field.offset + WORD <= type->basicsize)
            edge(visitor, read(visitor, address + field.offset), field.kind, field.name);
    }
}

/* The words of a variable-sized object of an unknown type. */
static void scan_items(struct visitor *visitor, u64 address, const struct type *type, u64 size)
{
    for (u64 at = type->basicsize; at + WORD <= size && at < MAX_ITEMS_SCANNED; at += WORD)
        edge(visitor, read(visitor, address + at), L_GUESS, at);
}

/* The keys that a type's instances share hold their strings. */
static void visit_keys(struct visitor *visitor, u64 address)
{
    const struct walk *walk = visitor->walk;
    i64 index = type_index(visitor, address);
    if (index < 0)
        return;
    const struct type *own = (const struct type *)walk->types.items + index;
    for (u32 at = 0; at < own->name_count; at++)
        edge(visitor, ((const u64 *)walk->names.items)[own->first_name + at], L_ELEMENT, 0);
}

/* Static types of 3.12 and later keep these two in the interpreter. */
static void visit_static_type(struct visitor *visitor, u64 address)
{
    const struct walk *walk = visitor->walk;
    const struct static_type *rows = walk->static_types.items;
    for (u64 at = 0; at < walk->static_types.count; at++)
        if (rows[at].type == address) {
            edge(visitor, rows[at].dict, L_FIELD, F_TP_DICT);
            edge(visitor, rows[at].subclasses, L_FIELD, F_SUBCLASSES);
        }
}

static u64 visit_type(struct visitor *visitor, u64 address, const u8 *object)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    bool heap = load64(object + off->tp_flags) & FLAG_HEAP_TYPE;
    edge(visitor, load64(object + off->tp_dict), L_FIELD, F_TP_DICT);
    edge(visitor, load64(object + off->tp_cache), L_FIELD, F_TP_CACHE);
    edge(visitor, load64(object + off->tp_mro), L_FIELD, F_MRO);
    edge(visitor, load64(object + off->tp_bases), L_FIELD, F_BASES);
    edge(visitor, load64(object + off->tp_subclasses), L_FIELD, F_SUBCLASSES);
    u64 base = load64(object + off->tp_base);
    if (!heap) {
        edge(visitor, base, L_WEAK, F_BASE); /* type_ready_set_bases: not counted */
        visit_static_type(visitor, address);
        return (u64)off->type_size;
    }
    edge(visitor, base, L_FIELD, F_BASE);
    if (!image_at(&walk->image, &visitor->hints, address, (u64)off->heap_type_size))
        return (u64)off->heap_type_size;
    edge(visitor, read(visitor, address + (u64)off->ht_name), L_FIELD, F_NAME);
    edge(visitor, read(visitor, address + (u64)off->ht_qualname), L_FIELD, F_QUALNAME);
    edge(visitor, read(visitor, address + (u64)off->ht_slots), L_FIELD, F_SLOTS);
    edge(visitor, read(visitor, address + (u64)off->ht_module), L_FIELD, F_MODULE);
    visit_keys(visitor, address);
    u64 keys = read(visitor, address + (u64)off->ht_cached_keys);
    return (u64)off->heap_type_size + (keys ? keys_bytes(visitor, keys) : 0);
}

static u64 visit_module(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    const struct offsets *off = &visitor->walk->off;
    u64 state = load64(object + off->md_state), size = 0;
    if (off->md_state_size >= 0)
        size = load64(object + off->md_state_size);
    else if (load64(object + off->md_def))
        size = read(visitor, load64(object + off->md_def) + (u64)off->m_size);
    if (state && size < MAX_STATE)
        for (u64 at = 0; at + WORD <= size; at += WORD)
            edge(visitor, read(visitor, state + at), L_GUESS, at);
    return basicsize;
}

static u64 visit_code(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    if (off->co_cached >= 0) {
        u64 cached = load64(object + off->co_cached);
        if (cached) {
            edge(visitor, read(visitor, cached + (u64)off->cached_code), L_FIELD, F_CO_CODE);
            edge(visitor, read(visitor, cached + (u64)off->cached_varnames), L_FIELD, F_CO_VARNAMES);
            edge(visitor, read(visitor, cached + (u64)off->cached_cellvars), L_FIELD, F_CO_CELLVARS);
            edge(visitor, read(visitor, cached + (u64)off->cached_freevars), L_FIELD, F_CO_FREEVARS);
        }
    }
    u64 units = items(walk, object);
    return units ? ((u64)off->co_code + units * 2 + 7) & ~7ull : basicsize;
}

static u64 visit_frame(struct visitor *visitor, u64 address, const u8 *object)
{
    const struct offsets *off = &visitor->walk->off;
    u64 frame = load64(object + off->frame_frame);
    /* A frame that still runs keeps its variables itself. */
    if (frame == address + (u64)off->frame_data)
        visit_interpreter_frame(visitor, frame);
    return (u64)off->frame_data + (u64)off->f_localsplus + WORD * frame_slots(visitor, frame);
}

static u64 visit_generator(struct visitor *visitor, u64 address, const u8 *object)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 frame = address + (u64)off->gi_iframe;
    if ((int8_t)object[off->gi_frame_state] < (int)walk->constant.frame_cleared)
        visit_interpreter_frame(visitor, frame);
    else if (off->gi_code < 0) /* kept until the end, see gen_dealloc */
        edge(visitor, read(visitor, frame + (u64)off->f_executable) &
                          ~(u64)walk->constant.tag_mask, L_FIELD, F_CODE);
    return (u64)off->gi_iframe + (u64)off->f_localsplus + WORD * frame_slots(visitor, frame);
}

/* functools.lru_cache keeps its links in a ring through itself: each is kept by the one
 * before, the cache at the end by none (lru_cache_append_link, Modules/_functoolsmodule.c). */
static void visit_link(struct visitor *visitor, const struct type *type, const u8 *object)
{
    u64 next = load64(object + LRU_NEXT);
    bool same = read(visitor, next + (u64)visitor->walk->off.ob_type) == type->address;
    edge(visitor, next, same == (type->kind == K_LRU_LINK) ? L_FIELD : L_WEAK, F_NEXT);
}

static u64 plain_size(const struct walk *walk, const struct type *type, const u8 *object)
{
    if (!type->itemsize)
        return type->basicsize;
    u64 size = items(walk, object) * type->itemsize;
    return type->basicsize + (size <= walk->image.size ? size : 0);
}

static u64 visit_kind(struct visitor *visitor, u64 address, const struct type *type,
                      const u8 *object)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 basic = type->basicsize;
    switch ((enum kind)type->kind) {
    case K_INT: {
        u64 count = digits(walk, object), head = off->lv_tag >= 0 ? basic : (u64)off->ob_digit;
        return head + 4 * (count ? count : 1);
    }
    case K_STR:
        return str_size(visitor, address, object, basic);
    case K_BYTEARRAY: {
        u64 room = load64(object + off->bytearray_alloc);
        if (room && off->bytearray_object >= 0)
            room += (u64)off->bytes_first + 1;
        return basic + (room <= walk->image.size ? room : 0);
    }
    case K_LIST:
        return visit_list(visitor, object, basic);
    case K_TUPLE:
        return visit_tuple(visitor, address, type, items(walk, object));
    case K_DICT:
        return visit_dict(visitor, object, basic);
    case K_ORDERED_DICT:
        return visit_ordered_dict(visitor, object, basic);
    case K_SET:
        return visit_set(visitor, address, object, basic);
    case K_TYPE:
        return visit_type(visitor, address, object);
    case K_FRAME:
        return visit_frame(visitor, address, object);
    case K_GENERATOR:
        return visit_generator(visitor, address, object);
    case K_CODE:
        return visit_code(visitor, object, basic);
    case K_MODULE:
        return visit_module(visitor, object, basic);
    case K_WEAKREF:
        edge(visitor, load64(object + off->wr_object), L_WEAK, F_REFERENT);
        return basic;
    case K_DEQUE:
        return visit_deque(visitor, object, basic);
    case K_ARRAY:
        return visit_array(visitor, object, basic);
    case K_ELEMENT:
        return visit_element(visitor, object, basic);
    case K_RING:
        return visit_ring(visitor, object, basic);
    case K_NDARRAY:
        return visit_ndarray(visitor, object, basic);
    case K_LRU_CACHE:
    case K_LRU_LINK:
        visit_link(visitor, type, object);
        break;
    case K_BUFFERED: {
        /* struct buffered, Modules/_io/bufferedio.c */
        u64 more = load64(object + BUFFER) ? load64(object + BUFFER_SIZE) : 0;
        return basic + (more <= walk->image.size ? more : 0);
    }
    case K_SCAN:
    case K_PLAIN:
    case K_FIELDS:
    case K_DATETIME:
    case KIND_COUNT:
        break;
    }
    u64 size = plain_size(walk, type, object);
    if (type->scan_items)
        scan_items(visitor, address, type, size);
    return size;
}

static void visit_dict_slot(struct visitor *visitor, u64 address, const struct type *type,
                            const u8 *object)
{
    u64 offset = (u64)type->dictoffset;
    if (type->dictoffset < 0) /* counted from the end, as _PyObject_ComputedDictPointer does */
        offset += (plain_size(visitor->walk, type, object) + 7) & ~7ull;
    edge(visitor, read(visitor, address + offset), L_DICT, 0);
}

/* Visits the references of the object at `address`, those first that repeat for each item
 * last. Returns its size in bytes. */
u64 visit_object(struct visitor *visitor, u64 address, const struct type *type)
{
    struct walk *walk = visitor->walk;
    const u8 *object = image_at(&walk->image, &visitor->hints, address, type->need);
    /* naive datetimes are allocated without the field behind their basic part */
    bool shorter = type->kind == K_DATETIME;
    if (!object) {
        if (!visitor->emitting)
            walk->bad_pointers++;
        return type->basicsize;
    }
    visitor->work += 4;
    if (!walk->constant.frozen_counts && load32(object) >= walk->constant.immortal_refcnt)
        visitor->borrowed = L_BORROWED;
    if (!shorter || object[walk->off.has_tzinfo])
        visit_fields(visitor, address, type, object);
    if (type->managed)
        visit_attributes(visitor, address, type);
    else if (type->dictoffset)
        visit_dict_slot(visitor, address, type, object);
    if (list_has(&walk->interned, address))
        visitor->borrowed = L_BORROWED;
    u64 size = visit_kind(visitor, address, type, object);
    visitor->borrowed = 0;
    /* No allocation made a static type, so nothing precedes it. */
    bool preceded = type->kind != K_TYPE || load64(object + walk->off.tp_flags) & FLAG_HEAP_TYPE;
    return size + (preceded ? type->presize : 0);
}
