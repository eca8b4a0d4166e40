/* The objects of the standalone table (CM_STANDALONE in ../../src/core/host.h), counted, and
 * its memory, which can be made to fail. Put before each source by -include. */
#ifndef THINGS_H
#define THINGS_H

#include <stdint.h>
#include <stdlib.h>

struct cm_thing;

struct cm_thing *thing_new(uint64_t value);
long things_alive(void);

/* The allocation after so many more fails, once; 0: none does. */
void memory_fails_after(long allocations);

void *frail_malloc(size_t size);
void *frail_calloc(size_t count, size_t size);
void *frail_aligned_alloc(size_t alignment, size_t size);

#define malloc(size) frail_malloc(size)
#define calloc(count, size) frail_calloc(count, size)
#define aligned_alloc(alignment, size) frail_aligned_alloc(alignment, size)

#endif
