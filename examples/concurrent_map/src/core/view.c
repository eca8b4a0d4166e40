/* Views: one reference to each shard's directory, taken at one moment. */
#include "map.h"

static void link_view(cm_map *map, cm_view *view)
{
    cm_spin_enter(&map->views_word);
    view->next = map->views;
    if (map->views != NULL)
        map->views->previous = view;
    map->views = view;
    cm_spin_leave(&map->views_word);
}

static void unlink_view(cm_map *map, cm_view *view)
{
    cm_spin_enter(&map->views_word);
    if (view->previous != NULL)
        view->previous->next = view->next;
    else
        map->views = view->next;
    if (view->next != NULL)
        view->next->previous = view->previous;
    cm_spin_leave(&map->views_word);
}

/* NULL when there is no memory, or a signal handler raised. All shards are held at once,
 * for some hundred nanoseconds: so no change lies on both sides of the cut. */
cm_view *cm_view_open(cm_map *map)
{
    cm_view *view = calloc(1, sizeof *view + map->shards * sizeof view->dir[0]);
    if (view == NULL)
        return NULL;
    if (cm_enter_all(map) < 0) {
        free(view);
        return NULL;
    }
    for (uint32_t i = 0; i < map->shards; i++) {
        view->dir[i] = map->shard[i].dir;
        atomic_fetch_add_explicit(&view->dir[i]->refs, 1, memory_order_relaxed);
        view->entries += cm_read(&map->shard[i].entries);
    }
    view->version = cm_read(&map->version);
    cm_leave_all(map);
    view->map = map;
    atomic_init(&view->refs, 1);
    link_view(map, view);
    cm_count(&map->counts.views_open, 1);
    CM_PROBE2(view_open, map->self, view->version);
    return view;
}

/* Runs foreign code with the last reference: what only this view has kept is let go. */
void cm_view_release(cm_view *view)
{
    if (atomic_fetch_sub_explicit(&view->refs, 1, memory_order_acq_rel) != 1)
        return;
    cm_map *map = view->map;
    unlink_view(map, view);
    atomic_fetch_sub_explicit(&map->counts.views_open, 1, memory_order_relaxed);
    CM_PROBE2(view_close, map->self, view->version);
    for (uint32_t i = 0; i < map->shards; i++)
        cm_dir_release(map, view->dir[i]);
    free(view);
}

/* --- steps ------------------------------------------------------------------------------ */

/* A view is cut into one step for each slot of its directories. */
uint64_t cm_view_steps(const cm_view *view)
{
    uint64_t steps = 0;
    for (uint32_t i = 0; i < view->map->shards; i++)
        steps += UINT64_C(1) << view->dir[i]->depth;
    return steps;
}

/* The bucket that begins at the step, or NULL: one that stands in several slots belongs to
 * the first of them, so that the others are empty. */
const cm_bucket *cm_view_step(const cm_view *view, uint64_t step)
{
    uint32_t shard = 0;
    for (uint64_t slots; step >= (slots = UINT64_C(1) << view->dir[shard]->depth); shard++)
        step -= slots;
    const cm_dir *dir = view->dir[shard];
    const cm_bucket *bucket = dir->slot[step];
    uint64_t span = UINT64_C(1) << (dir->depth - bucket->depth);
    return (step & (span - 1)) == 0 ? bucket : NULL;
}
