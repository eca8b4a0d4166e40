/* The first pass: every object that can be reached gets its mark. */
#include "walk.h"

#include <stdlib.h>

static void push(struct walk *walk, u64 address)
{
    if (walk->stack_count == walk->stack_room) {
        u64 room = walk->stack_room ? walk->stack_room * 2 : 4096;
        u64 *stack = realloc(walk->stack, room * sizeof *stack);
        if (!stack) {
            walk->status = WALK_NO_MEMORY;
            return;
        }
        walk->stack = stack;
        walk->stack_room = room;
    }
    walk->stack[walk->stack_count++] = address;
}

/* Whether what stands there may be an object that lives: its type is one, and its count is
 * not 0 (freed) nor an address (a freed block's link to the next one). Asked of words that
 * a scan found; a reference from a known place needs no such doubt. */
bool plausible_object(struct visitor *visitor, u64 address)
{
    struct walk *walk = visitor->walk;
    const u8 *object = image_at(&walk->image, &visitor->hints, address, 16);
    if (!object)
        return false;
    u64 type = load64(object + walk->off.ob_type);
    if (type % 8 || type_known_index(walk, type) < 0)
        if (!image_at(&walk->image, &visitor->hints, type, (u64)walk->off.type_size))
            return false;
    u32 count = load32(object);
    if (count >= walk->constant.immortal_refcnt)
        return true;
    /* Overflow bits and, in older versions, the count's upper half; and no more references
     * than there are words. */
    return count && (load32(object + 4) & 0xffff) == 0 && count <= walk->image.size / 8;
}

/* Marks the object at `address` unless it has been; false where none is. */
bool mark_object(struct visitor *visitor, u64 address)
{
    struct walk *walk = visitor->walk;
    const struct segment *segment = image_find(&walk->image, &visitor->hints, address);
    if (address % 8 || !segment || segment->end - address < 16) {
        walk->bad_pointers++;
        return false;
    }
    u64 bit = mark_bit(segment, address);
    if (mark_test(&walk->image, bit))
        return true;
    u64 type = load64(segment->bytes + (address - segment->start) + walk->off.ob_type);
    i64 index = type_index(visitor, type);
    if (index < 0) {
        walk->bad_types++;
        return false;
    }
    /* Describing the type may have come by here. */
    if (!mark_test(&walk->image, bit)) {
        mark_set(&walk->image, bit);
        walk->marked++;
        push(walk, address);
    }
    return true;
}

/* Visits what is marked and was not visited. */
void drain(struct visitor *visitor)
{
    struct walk *walk = visitor->walk;
    while (walk->stack_count && walk->status == WALK_OK) {
        u64 address = walk->stack[--walk->stack_count];
        i64 index = type_known_index(walk, image_u64(&walk->image, &visitor->hints,
                                                     address + (u64)walk->off.ob_type));
        if (index >= 0)
            visit_object(visitor, address, (const struct type *)walk->types.items + index);
        if (visitor->work > walk->work_limit)
            walk->status = WALK_IMPLAUSIBLE;
    }
}
