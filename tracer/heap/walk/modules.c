/* Types of extension modules that keep references outside of their objects. The structures
 * stand in Modules/_elementtree.c, Modules/_queuemodule.c and numpy's ndarraytypes.h. */
#include "walk.h"

enum {
    WORD = 8,
    ELEMENT_TEXT = 24, /* struct ElementObject; text and tail have a flag in bit 0 */
    ELEMENT_TAIL = 32,
    ELEMENT_EXTRA = 40,
    EXTRA_ATTRIB = 0, /* struct ElementObjectExtra */
    EXTRA_LENGTH = 8,
    EXTRA_ROOM = 16,
    EXTRA_CHILDREN = 24,
    EXTRA_OWN = 32, /* room for four children */
    EXTRA_BYTES = 64,
    RING_FIRST = 32, /* struct simplequeueobject, 3.13 on */
    RING_ITEMS = 40,
    RING_ROOM = 48,
    RING_COUNT = 56,
    ARRAY_DATA = 16, /* PyArrayObject_fields */
    ARRAY_DIMENSIONS = 24,
    ARRAY_SHAPE = 32,
    ARRAY_STRIDES = 40,
    ARRAY_DESCRIPTION = 56,
    ARRAY_FLAGS = 64,
    ARRAY_CONTIGUOUS = 1, /* NPY_ARRAY_C_CONTIGUOUS, _F_CONTIGUOUS, _OWNDATA */
    ARRAY_FORTRAN = 2,
    ARRAY_OWNS = 4,
    DESCRIPTION_KIND = 24, /* PyArray_Descr */
    MAX_DIMENSIONS = 64
};

static const u8 *bytes_at(struct visitor *visitor, u64 address, u64 size)
{
    return image_at(&visitor->walk->image, &visitor->hints, address, size);
}

static u64 visit_children(struct visitor *visitor, u64 extra, const u8 *bytes)
{
    u64 most = visitor->walk->image.size / WORD;
    u64 count = load64(bytes + EXTRA_LENGTH), room = load64(bytes + EXTRA_ROOM);
    u64 children = load64(bytes + EXTRA_CHILDREN);
    const u8 *words = count <= most ? bytes_at(visitor, children, count * WORD) : NULL;
    for (u64 at = 0; words && at < count; at++)
        edge(visitor, load64(words + WORD * at), L_ELEMENT, 0);
    return EXTRA_BYTES + (children != extra + EXTRA_OWN && room <= most ? room * WORD : 0);
}

/* xml.etree.ElementTree.Element */
u64 visit_element(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    edge(visitor, load64(object + ELEMENT_TEXT) & ~1ull, L_FIELD, F_TEXT);
    edge(visitor, load64(object + ELEMENT_TAIL) & ~1ull, L_FIELD, F_TAIL);
    u64 extra = load64(object + ELEMENT_EXTRA);
    const u8 *bytes = extra ? bytes_at(visitor, extra, EXTRA_BYTES) : NULL;
    if (!bytes)
        return basicsize;
    edge(visitor, load64(bytes + EXTRA_ATTRIB), L_FIELD, F_ATTRIB);
    return basicsize + visit_children(visitor, extra, bytes);
}

/* queue.SimpleQueue */
u64 visit_ring(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    u64 first = load64(object + RING_FIRST), room = load64(object + RING_ROOM);
    u64 count = load64(object + RING_COUNT);
    if (!room || room > visitor->walk->image.size / WORD || count > room || first >= room)
        return basicsize;
    const u8 *words = bytes_at(visitor, load64(object + RING_ITEMS), room * WORD);
    for (u64 at = 0; words && at < count; at++)
        edge(visitor, load64(words + WORD * ((first + at) % room)), L_ELEMENT, 0);
    return basicsize + room * WORD;
}

/* The bytes of an array that lies in one piece; 0 for others, and for those without items. */
static u64 array_bytes(struct visitor *visitor, const u8 *object, u64 flags)
{
    u64 dimensions = load32(object + ARRAY_DIMENSIONS);
    if (!dimensions || dimensions > MAX_DIMENSIONS)
        return 0;
    const u8 *shape = bytes_at(visitor, load64(object + ARRAY_SHAPE), dimensions * WORD);
    const u8 *strides = bytes_at(visitor, load64(object + ARRAY_STRIDES), dimensions * WORD);
    u64 bytes = 0, outer = flags & ARRAY_CONTIGUOUS ? 0 : dimensions - 1;
    if (!shape || !strides || !(flags & (ARRAY_CONTIGUOUS | ARRAY_FORTRAN)) ||
        __builtin_mul_overflow(load64(shape + WORD * outer), load64(strides + WORD * outer), &bytes))
        return 0;
    for (u64 at = 0; at < dimensions; at++)
        if (!load64(shape + WORD * at))
            return 0;
    return bytes < 1ull << 47 ? bytes : 0;
}

/* numpy.ndarray: the collector does not see what arrays of objects refer to. */
u64 visit_ndarray(struct visitor *visitor, const u8 *object, u64 basicsize)
{
    u64 flags = load32(object + ARRAY_FLAGS), bytes = array_bytes(visitor, object, flags);
    u64 dimensions = load32(object + ARRAY_DIMENSIONS);
    if (dimensions <= MAX_DIMENSIONS)
        basicsize += 2 * WORD * dimensions;
    if (!(flags & ARRAY_OWNS))
        return basicsize; /* a view: its base has the items */
    const u8 *description = bytes_at(visitor, load64(object + ARRAY_DESCRIPTION), 32);
    if (description && description[DESCRIPTION_KIND] == 'O') {
        const u8 *words = bytes_at(visitor, load64(object + ARRAY_DATA), bytes);
        for (u64 at = 0; words && at + WORD <= bytes; at += WORD)
            edge(visitor, load64(words + at), L_ELEMENT, 0);
    }
    return basicsize + bytes;
}
