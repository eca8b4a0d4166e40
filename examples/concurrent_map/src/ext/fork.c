/* All maps of the process, so that a forked child can free the locks of threads that it
 * does not have. The one static thing here: pthread_atfork knows no interpreters. */
#include "module.h"

#include <pthread.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static cm_map *first;
static uint32_t forking;
static int watched;

static void before(void)
{
    pthread_mutex_lock(&guard);
    forking = cm_self();
}

static void in_parent(void)
{
    pthread_mutex_unlock(&guard);
}

static void in_child(void)
{
    cm_tid = 0; /* asked anew: the child's thread has an id of its own */
    for (cm_map *map = first; map != NULL; map = map->next)
        cm_after_fork(map, forking);
    pthread_mutex_unlock(&guard);
}

static void watch(void)
{
    watched = pthread_atfork(before, in_parent, in_child) == 0;
}

int cmap_watch_forks(void)
{
    pthread_once(&once, watch);
    if (watched)
        return 0;
    PyErr_NoMemory();
    return -1;
}

void cmap_list_add(cm_map *map)
{
    pthread_mutex_lock(&guard);
    map->next = first;
    if (first != NULL)
        first->previous = map;
    first = map;
    pthread_mutex_unlock(&guard);
}

void cmap_list_remove(cm_map *map)
{
    pthread_mutex_lock(&guard);
    if (map->previous != NULL)
        map->previous->next = map->next;
    else
        first = map->next;
    if (map->next != NULL)
        map->next->previous = map->previous;
    pthread_mutex_unlock(&guard);
}
