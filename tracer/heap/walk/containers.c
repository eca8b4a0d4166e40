/* dict, list, tuple, set, deque, OrderedDict, array, and the attributes of instances. */
#include "walk.h"

enum {
    WORD = 8,
    MAX_LOG2 = 40,
    DEQUE_BLOCK = 64, /* BLOCKLEN, Modules/_collectionsmodule.c */
    DEQUE_BYTES = 528,
    DEQUE_LEFT_BLOCK = 24,
    DEQUE_LEFT_INDEX = 40,
    ARRAY_ALLOCATED = 32, /* arrayobject and arraydescr, Modules/arraymodule.c */
    ARRAY_DESCRIPTION = 40,
    DESCRIPTION_ITEMSIZE = 4,
    ODICT_NODES_SIZE = 72, /* struct _odictobject, Objects/odictobject.c */
    ODICT_NODE_BYTES = 32,
    PREFIX_VALUES = 32, /* words before the object, 3.11 and 3.12: pycore_object.h */
    PREFIX_DICT = 24,
    STRUCTSEQ_MEMBERS = 1024
};

static u64 read(struct visitor *visitor, u64 address)
{
    return image_u64(&visitor->walk->image, &visitor->hints, address);
}

static const u8 *bytes_at(struct visitor *visitor, u64 address, u64 size)
{
    return image_at(&visitor->walk->image, &visitor->hints, address, size);
}

/* `count` words at `address`, cut where the image ends. */
static const u8 *words_at(struct visitor *visitor, u64 address, u64 *count)
{
    const struct segment *segment = image_find(&visitor->walk->image, &visitor->hints, address);
    if (!segment || !*count)
        return NULL;
    u64 most = (segment->end - address) / WORD;
    if (*count > most)
        *count = most;
    return segment->bytes + (address - segment->start);
}

static bool keys_head(struct visitor *visitor, u64 keys, u8 *log2_size, u8 *log2_bytes, u8 *kind)
{
    const struct offsets *off = &visitor->walk->off;
    const u8 *head = bytes_at(visitor, keys, (u64)off->dk_indices);
    if (!head)
        return false;
    *log2_size = head[off->dk_log2_size];
    *log2_bytes = head[off->dk_log2_index_bytes];
    *kind = head[off->dk_kind];
    return *log2_size <= MAX_LOG2 && *log2_bytes <= MAX_LOG2;
}

/* Bytes of a keys object: head, indices, entries (_PyDict_KeysSize). */
u64 keys_bytes(struct visitor *visitor, u64 keys)
{
    u8 log2_size, log2_bytes, kind;
    if (!keys_head(visitor, keys, &log2_size, &log2_bytes, &kind))
        return 0;
    u64 usable = ((1ull << log2_size) << 1) / 3;
    u64 size = (u64)visitor->walk->off.dk_indices + (1ull << log2_bytes) + usable * (kind ? 16 : 24);
    return size <= visitor->walk->image.size ? size : 0;
}

/* Where the entries begin, how many are used, and their size: 16 (key, value) or 24 bytes
 * (hash, key, value). */
bool keys_entries(struct visitor *visitor, u64 keys, u64 *first, u64 *count, u32 *step)
{
    u8 log2_size, log2_bytes, kind;
    if (!keys_head(visitor, keys, &log2_size, &log2_bytes, &kind))
        return false;
    *step = kind ? 16 : 24;
    *first = keys + (u64)visitor->walk->off.dk_indices + (1ull << log2_bytes);
    *count = read(visitor, keys + (u64)visitor->walk->off.dk_nentries);
    const struct segment *segment = image_find(&visitor->walk->image, &visitor->hints, *first);
    if (!segment)
        return false;
    u64 most = (segment->end - *first) / *step;
    if (*count > most || *count > 1ull << log2_size)
        return false; /* a keys object never has more entries than slots */
    return true;
}

static u64 values_bytes(struct visitor *visitor, u64 keys)
{
    const struct offsets *off = &visitor->walk->off;
    const u8 *head = bytes_at(visitor, keys, (u64)off->dk_indices);
    return head ? WORD * (load64(head + off->dk_nentries) + load64(head + off->dk_usable)) : 0;
}

/* Values of a split dict; their names are the keys, which it shares. */
static void visit_split(struct visitor *visitor, u64 values, u64 first, u64 count, u32 step)
{
    const struct offsets *off = &visitor->walk->off;
    const u8 *words = words_at(visitor, values + (u64)off->values_first, &count);
    for (u64 at = 0; words && at < count; at++)
        edge(visitor, load64(words + WORD * at), L_ATTRIBUTE,
             read(visitor, first + at * step + (step == 24 ? 8 : 0)));
}

static void visit_entries(struct visitor *visitor, u64 first, u64 count, u32 step)
{
    const u8 *entries = bytes_at(visitor, first, count * step);
    if (!entries)
        return;
    for (u64 at = 0; at < count; at++) {
        const u8 *entry = entries + at * step + (step == 24 ? 8 : 0);
        u64 value = load64(entry + WORD);
        if (!value)
            continue; /* deleted */
        u64 key = load64(entry);
        if (visitor->emitting && !(emits(visitor, key) && emits(visitor, value)))
            continue; /* not what it should be: no half of a pair is said */
        edge(visitor, key, L_KEY, 0);
        edge(visitor, value, L_VALUE, 0);
        if (visitor->triples)
            edge(visitor, key, L_AGAIN, 0);
    }
}

u64 visit_dict(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    const struct offsets *off = &visitor->walk->off;
    u64 keys = load64(object + off->ma_keys), values = load64(object + off->ma_values);
    u64 first, count, size = basicsize;
    u32 step;
    if (!keys_entries(visitor, keys, &first, &count, &step))
        return size;
    if (values) {
        size += values_bytes(visitor, keys);
        const u8 *head = bytes_at(visitor, values, 16);
        u32 before = visitor->borrowed;
        /* Values that are part of an instance are counted as that. */
        if (head && off->values_embedded >= 0 && head[off->values_embedded])
            visitor->borrowed = L_BORROWED;
        if (head)
            visit_split(visitor, values, first, count, step);
        visitor->borrowed = before;
    } else {
        visit_entries(visitor, first, count, step);
    }
    if (read(visitor, keys + (u64)off->dk_refcnt) == 1)
        size += keys_bytes(visitor, keys);
    return size <= visitor->walk->image.size + basicsize ? size : basicsize;
}

/* Each key of an OrderedDict has a node, too, which keeps it once more and remembers the
 * order (_odict_add_new_node). */
u64 visit_ordered_dict(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    visitor->triples = true;
    u64 size = visit_dict(visitor, object, basicsize);
    visitor->triples = false;
    u64 used = load64(object + visitor->walk->off.ma_used);
    u64 slots = load64(object + ODICT_NODES_SIZE), most = visitor->walk->image.size;
    return size + (slots <= most ? slots * WORD : 0) + (used <= most ? used * ODICT_NODE_BYTES : 0);
}

u64 visit_list(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    const struct offsets *off = &visitor->walk->off;
    u64 count = load64(object + off->ob_size), room = load64(object + off->list_allocated);
    const u8 *words = words_at(visitor, load64(object + off->list_item), &count);
    for (u64 at = 0; words && at < count; at++)
        edge(visitor, load64(words + WORD * at), L_ELEMENT, 0);
    return basicsize + (room <= visitor->walk->image.size ? room * WORD : 0);
}

/* Named tuples of C have more items than their size says; tp_members tells the last one. */
static u64 hidden_items(struct visitor *visitor, const struct type *type, u64 count)
{
    const struct offsets *off = &visitor->walk->off;
    u64 members = read(visitor, type->address + (u64)off->tp_members);
    for (u64 at = 0; members && at < STRUCTSEQ_MEMBERS; at++) {
        const u8 *row = bytes_at(visitor, members + at * (u64)off->member_size,
                                 (u64)off->member_size);
        if (!row || !load64(row + off->member_name))
            break;
        u64 index = (load64(row + off->member_offset) - (u64)off->tuple_item) / WORD;
        if (index >= count && index < STRUCTSEQ_MEMBERS)
            count = index + 1;
    }
    return count;
}

u64 visit_tuple(struct visitor *visitor, u64 address, const struct type *type, u64 count)
{
    const struct offsets *off = &visitor->walk->off;
    u64 size = type->basicsize + count * WORD, all = count;
    if (type->hidden_items)
        all = hidden_items(visitor, type, count);
    const u8 *words = words_at(visitor, address + (u64)off->tuple_item, &all);
    for (u64 at = 0; words && at < all; at++)
        edge(visitor, load64(words + WORD * at), L_ELEMENT, 0);
    return size;
}

u64 visit_set(struct visitor *visitor, u64 address, const u8 *object, u64 basicsize)
{
    const struct offsets *off = &visitor->walk->off;
    u64 mask = load64(object + off->set_mask), table = load64(object + off->set_table);
    u64 step = (u64)off->entry_size;
    if (mask >= visitor->walk->image.size)
        return basicsize;
    const u8 *entries = bytes_at(visitor, table, (mask + 1) * step);
    for (u64 at = 0; entries && at <= mask; at++) {
        const u8 *entry = entries + at * step;
        if (load64(entry + off->entry_hash) != (u64)-1) /* -1: the dummy of a deleted one */
            edge(visitor, load64(entry + off->entry_key), L_ELEMENT, 0);
    }
    visitor->work += mask;
    return basicsize + (table != address + (u64)off->set_smalltable ? (mask + 1) * step : 0);
}

u64 visit_deque(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    const struct walk *walk = visitor->walk;
    u64 count = load64(object + walk->off.ob_size);
    u64 block = load64(object + DEQUE_LEFT_BLOCK), at = load64(object + DEQUE_LEFT_INDEX);
    if (count > walk->image.size || at > DEQUE_BLOCK)
        return basicsize;
    u64 size = basicsize + (at + count + DEQUE_BLOCK - 1) / DEQUE_BLOCK * DEQUE_BYTES;
    while (count) {
        const u8 *bytes = bytes_at(visitor, block, DEQUE_BYTES);
        if (!bytes || visitor->work > walk->work_limit)
            break;
        for (; at < DEQUE_BLOCK && count; at++, count--)
            edge(visitor, load64(bytes + WORD * (1 + at)), L_ELEMENT, 0);
        block = load64(bytes + WORD * (1 + DEQUE_BLOCK));
        at = 0;
    }
    return size;
}

u64 visit_array(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    u64 room = load64(object + ARRAY_ALLOCATED);
    const u8 *description = bytes_at(visitor, load64(object + ARRAY_DESCRIPTION), 8);
    u64 size = description ? load32(description + DESCRIPTION_ITEMSIZE) : 0;
    return basicsize + (room <= visitor->walk->image.size && size <= 16 ? room * size : 0);
}

static void visit_values(struct visitor *visitor, const struct type *type, u64 values, u64 count)
{
    const u8 *words = words_at(visitor, values, &count);
    if (!words)
        return;
    for (u64 at = 0; at < count && at < type->name_count; at++) {
        u64 name = ((const u64 *)visitor->walk->names.items)[type->first_name + at];
        edge(visitor, load64(words + WORD * at), L_ATTRIBUTE, name);
    }
}

/* Attributes of an instance whose dict the interpreter manages (Py_TPFLAGS_MANAGED_DICT). */
void visit_attributes(struct visitor *visitor, u64 address, const struct type *type)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 dict = read(visitor, address - PREFIX_DICT);
    switch ((enum instance_dict)walk->constant.instance_dict) {
    case PREFIX_WORDS: {
        u64 values = read(visitor, address - PREFIX_VALUES);
        if (values)
            visit_values(visitor, type, values + (u64)off->values_first, type->name_count);
        break;
    }
    case TAGGED_PREFIX:
        if (dict & 1) {
            visit_values(visitor, type, dict + 1 + (u64)off->values_first, type->name_count);
            dict = 0;
        }
        break;
    case INLINE_VALUES: {
        u64 values = address + type->basicsize;
        const u8 *head = type->inline_values ? bytes_at(visitor, values, WORD) : NULL;
        if (head && head[off->values_valid])
            visit_values(visitor, type, values + (u64)off->values_first,
                         head[off->values_capacity]);
        break;
    }
    }
    edge(visitor, dict, L_DICT, 0);
}
