/* How often compare-and-swap on a cursor is lost, and how long an attempt takes: two C loops
 * that really overlap. See benchmarks/cursors.py. */
#include "raw.h"

/* Work that takes time and nothing else; at random, so that two threads do not fall in step. */
static void spend(uint64_t *state, uint64_t rounds)
{
    uint64_t end = rounds == 0 ? 0 : (cmap_dice(state) >> 16) % (2 * rounds + 1);
    for (uint64_t i = 0; i < end; i++)
        cmap_dice(state);
}

enum { PREEMPTED_NS = 20000 };

PyObject *cmap_raw_race(MapObject *self, PyObject *args)
{
    PyObject *group;
    unsigned long long seed, pause, window;
    if (!PyArg_ParseTuple(args, "O!KKK:race", self->state->raw_cursors, &group, &seed, &pause,
                          &window))
        return NULL;
    RawCursors *cursors = (RawCursors *)group;
    uint64_t won = 0, lost = 0, in_ns = 0, left_out = 0, began;
    Py_BEGIN_ALLOW_THREADS
    uint64_t state = seed * 2 + 1;
    began = cmap_now_ns();
    for (;;) {
        spend(&state, pause);
        uint64_t expected = atomic_load(&cursors->next);
        if (expected >= cursors->steps)
            break;
        /* Not before: how long the counter's cache line takes to come is the machine's matter (10
         * ns or 80), and nothing is lost meanwhile. The clock's own time is in it once, as both
         * of its readings stand at the same place of a call, and in the time for a loss, too. */
        uint64_t since = cmap_now_ns();
        spend(&state, window);
        int mine = atomic_compare_exchange_strong(&cursors->next, &expected, expected + 1);
        uint64_t took = cmap_now_ns() - since;
        if (took > PREEMPTED_NS) { /* others had the CPU meanwhile, or an interrupt */
            left_out++;
            continue;
        }
        won += (uint64_t)mine;
        lost += (uint64_t)!mine;
        in_ns += took;
    }
    began = cmap_now_ns() - began;
    Py_END_ALLOW_THREADS
    return Py_BuildValue("KKKKK", won, lost, left_out, in_ns, began);
}
