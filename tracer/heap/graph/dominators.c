/* Immediate dominators by semi-NCA (Georgiadis, Linear-Time Algorithms for Dominators and
 * Related Problems, 2005, chapter 2), in numbers of a depth-first search, and what follows
 * from them. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

/* What `number` has for a node: its place in the search, NONE, or WAITS for a root that was
 * not reached yet. The bit is set for roots. A root's only reference that counts is the
 * super-root's: every way over another one can be had shorter, so it says nothing. */
enum { ROOT = 0x80000000, WAITS = 0xfffffffe };

/* A vertex of the forest of those already linked: who stands above, the least
 * semidominator on the way there. */
struct link {
    u32 above, least;
};

/* A reference that is not of the search's tree, by places, in a list for each target. */
struct other {
    u32 source, next;
};

struct search {
    const struct rows *rows;
    u32 *number; /* of nodes, see above */
    u32 *vertex; /* by place: the node */
    u32 *parent; /* by place */
    u32 count;   /* of places; 0 is the super-root */
    u32 garbage; /* place of what stands above unreachable nodes, 0 */
    u32 *stack;
    i64 *next; /* the next reference of those on the stack */
    u32 *first; /* by place: the first of the other references to it, NONE */
    struct other *others;
    u64 other_count, other_room;
    bool noting, failed;
};

static bool search_new(struct search *search, const struct rows *rows)
{
    u64 most = rows->nodes + 2;
    *search = (struct search){.rows = rows, .noting = true};
    search->number = malloc(most * sizeof *search->number);
    search->vertex = malloc(most * sizeof *search->vertex);
    search->parent = malloc(most * sizeof *search->parent);
    search->first = malloc(most * sizeof *search->first);
    search->stack = malloc(most * sizeof *search->stack);
    search->next = malloc(most * sizeof *search->next);
    if (!search->number || !search->vertex || !search->parent || !search->first ||
        !search->stack || !search->next)
        return false;
    memset(search->number, 0xff, most * sizeof *search->number);
    memset(search->first, 0xff, most * sizeof *search->first);
    return true;
}

static void search_free(struct search *search)
{
    free(search->number);
    free(search->vertex);
    free(search->parent);
    free(search->first);
    free(search->stack);
    free(search->next);
    free(search->others);
}

static u32 place(struct search *search, u32 node, u32 parent, u32 flag)
{
    search->number[node] = search->count | flag;
    search->vertex[search->count] = node;
    search->parent[search->count] = parent;
    return search->count++;
}

static bool others_grow(struct search *search)
{
    u64 room = search->other_room ? search->other_room * 2 : 1 << 16;
    struct other *others = NULL;
    if (search->other_room < NONE)
        others = realloc(search->others, room * sizeof *others);
    search->failed = !others;
    if (others) {
        search->others = others;
        search->other_room = room;
    }
    return !search->failed;
}

/* One reference that leads to a node which has a number: if it counts, it is put down. Those
 * of unreachable nodes do not count among the live. */
static void note(struct search *search, u32 from, u32 to)
{
    if (to & ROOT || to == from || to < search->garbage || !search->noting)
        return;
    if (search->other_count == search->other_room && !others_grow(search))
        return;
    search->others[search->other_count] = (struct other){from, search->first[to]};
    search->first[to] = (u32)search->other_count++;
}

/* Numbers what can be reached from `root` and was not yet. */
static void number_from(struct search *search, u32 root, u32 above)
{
    const i64 *indptr = search->rows->indptr;
    const i32 *targets = search->rows->targets;
    u64 depth = 0;
    u32 own = place(search, root, above, ROOT);
    i64 at = indptr[root], end = indptr[root + 1];
    for (;;) {
        u32 number = NONE;
        while (at < end && (number = search->number[targets[at]]) != NONE) {
            note(search, own, number);
            at++;
        }
        if (at < end) {
            u32 target = (u32)targets[at];
            search->stack[depth] = own;
            search->next[depth++] = at + 1;
            own = place(search, target, own, 0);
            at = indptr[target];
            end = indptr[target + 1];
        } else if (depth) {
            own = search->stack[--depth];
            at = search->next[depth];
            end = indptr[search->vertex[own] + 1];
        } else {
            return;
        }
    }
}

static int number_roots(struct search *search, const i32 *roots, u64 count)
{
    for (u64 at = 0; at < count; at++) {
        if ((u32)roots[at] >= search->rows->nodes)
            return GRAPH_DAMAGED;
        search->number[roots[at]] = WAITS;
    }
    place(search, (u32)search->rows->nodes, 0, 0);
    for (u64 at = 0; at < count; at++)
        if (search->number[roots[at]] == WAITS)
            number_from(search, (u32)roots[at], 0);
    return GRAPH_OK;
}

/* Takes the numbers from `begun` on away. */
static void forget(struct search *search, u32 begun)
{
    for (u32 at = begun; at < search->count; at++)
        search->number[search->vertex[at]] = NONE;
    search->count = begun;
}

/* The nodes that no root leads to: as few of them as lead to all others. One search after
 * another, in any order: those begun from nodes that a later one finds are not needed, and
 * going through the beginnings backwards leaves those alone that nothing else leads to. */
static int number_garbage(struct search *search)
{
    u64 nodes = search->rows->nodes, entries = 0, kept = 0;
    u32 begun = search->count, *entry = malloc((nodes - begun + 2) * sizeof *entry);
    if (!entry)
        return GRAPH_NO_MEMORY;
    search->noting = false;
    for (u32 node = 0; node < nodes; node++)
        if (search->number[node] == NONE) {
            entry[entries++] = node;
            number_from(search, node, 0);
        }
    forget(search, begun);
    for (u64 at = entries; at-- > 0;)
        if (search->number[entry[at]] == NONE) {
            u32 node = entry[at];
            number_from(search, node, 0);
            entry[entries - ++kept] = node;
        }
    forget(search, begun);
    search->noting = true;
    search->garbage = place(search, (u32)nodes + 1, 0, 0);
    for (u64 at = entries - kept; at < entries; at++)
        search->number[entry[at]] = WAITS;
    for (u64 at = entries - kept; at < entries; at++)
        number_from(search, entry[at], search->garbage);
    free(entry);
    return GRAPH_OK;
}

/* The least semidominator between `vertex` and those that are linked; paths are shortened. */
static u32 least(struct link *links, u32 *stack, u32 vertex, u32 linked)
{
    u64 depth = 0;
    while (links[vertex].above > linked) {
        stack[depth++] = vertex;
        vertex = links[vertex].above;
    }
    u32 top = links[vertex].above, found = links[vertex].least;
    while (depth) {
        struct link *link = &links[stack[--depth]];
        if (found < link->least)
            link->least = found;
        found = link->least;
        link->above = top;
    }
    return found;
}

/* By place: the place of the immediate dominator. */
static u32 *semi_nca(struct search *search)
{
    u32 *semi = malloc((u64)search->count * sizeof *semi);
    struct link *links = malloc((u64)search->count * sizeof *links);
    if (!semi || !links) {
        free(semi);
        free(links);
        return NULL;
    }
    for (u32 at = 0; at < search->count; at++)
        links[at] = (struct link){search->parent[at], at};
    for (u32 at = search->count; at-- > 1;) {
        u32 best = search->parent[at];
        for (u32 other = search->first[at]; other != NONE; other = search->others[other].next) {
            u32 source = search->others[other].source;
            u32 found = source < at ? source : least(links, search->stack, source, at);
            if (found < best)
                best = found;
        }
        semi[at] = links[at].least = best;
    }
    free(links);
    u32 *idom = search->parent; /* not needed any more */
    for (u32 at = 1; at < search->count; at++) {
        u32 found = idom[at];
        while (found > semi[at])
            found = idom[found];
        idom[at] = found;
    }
    free(semi);
    return idom;
}

static int results(struct search *search, const u64 *sizes, i32 *idom, u64 *retained, u64 *sums)
{
    u64 nodes = search->rows->nodes;
    u64 *bytes = malloc((u64)search->count * sizeof *bytes);
    if (!bytes)
        return GRAPH_NO_MEMORY;
    u32 *above = semi_nca(search);
    if (!above) {
        free(bytes);
        return GRAPH_NO_MEMORY;
    }
    for (u32 at = 0; at < search->count; at++)
        bytes[at] = search->vertex[at] < nodes ? sizes[search->vertex[at]] : 0;
    sums[1] = 0;
    for (u32 at = search->count; at-- > 1;) {
        if (at == search->garbage)
            sums[1] = bytes[at];
        else
            bytes[above[at]] += bytes[at];
    }
    sums[0] = bytes[0];
    for (u32 at = 1; at < search->count; at++) {
        if (at == search->garbage)
            continue;
        idom[search->vertex[at]] = (i32)search->vertex[above[at]];
        retained[search->vertex[at]] = bytes[at];
    }
    free(bytes);
    return GRAPH_OK;
}

int graph_dominators(const struct rows *rows, const i32 *roots, u64 count, const u64 *sizes,
                     i32 *idom, u64 *retained, u64 *sums)
{
    struct search search;
    if (rows_check(rows) != GRAPH_OK)
        return GRAPH_DAMAGED;
    int status = search_new(&search, rows) ? GRAPH_OK : GRAPH_NO_MEMORY;
    if (status == GRAPH_OK)
        status = number_roots(&search, roots, count);
    if (status == GRAPH_OK && search.count <= rows->nodes)
        status = number_garbage(&search);
    if (status == GRAPH_OK && search.failed)
        status = GRAPH_NO_MEMORY;
    if (status == GRAPH_OK)
        status = results(&search, sizes, idom, retained, sums);
    search_free(&search);
    return status;
}
