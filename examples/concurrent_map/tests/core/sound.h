/* Whether a table is what ../../src/core/map.h says it is. Nobody changes it meanwhile. */
#ifndef SOUND_H
#define SOUND_H

#include "map.h"

/* Ends the process with what is wrong. */
#define MUST(condition) \
    do {                \
        if (!(condition)) \
            must_hold(#condition, __FILE__, __LINE__); \
    } while (0)
_Noreturn void must_hold(const char *condition, const char *file, int line);

/* Places, tags, sums, and what views and these walks keep, to the byte. */
void sound(cm_map *map, cm_walk *const *walks, int count);

#endif
