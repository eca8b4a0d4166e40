#include "walk.h"

#include <stdlib.h>

/* A new item at the end, zeroed; NULL when memory is short. */
void *list_add(struct list *list, u64 item_size)
{
    if (list->count == list->room) {
        u64 room = list->room ? list->room * 2 : 64;
        void *items = realloc(list->items, room * item_size);
        if (!items)
            return NULL;
        list->items = items;
        list->room = room;
    }
    void *item = (u8 *)list->items + list->count++ * item_size;
    memset(item, 0, item_size);
    return item;
}

bool list_has(const struct list *addresses, u64 address)
{
    const u64 *items = addresses->items;
    for (u64 at = 0; at < addresses->count; at++)
        if (items[at] == address)
            return true;
    return false;
}

void list_free(struct list *list)
{
    free(list->items);
    memset(list, 0, sizeof *list);
}
