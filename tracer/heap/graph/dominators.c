/* Immediate dominators by semi-NCA (Georgiadis, Linear-Time Algorithms for Dominators and
 * Related Problems, 2005, chapter 2), in numbers of a depth-first search, and what follows
 * from them. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

/* Marks in `number` before a node is numbered. A root's only reference that counts is the
 * super-root's: every way over another one can be had shorter, so it says nothing. */
enum { IS_ROOT = 0xfffffffe };

/* A vertex of the forest of those already linked: who stands above, the least
 * semidominator on the way there. */
struct link {
    u32 above, least;
};

struct search {
    const struct rows *rows;
    u32 *number; /* of nodes: their place in the search; NONE, IS_ROOT */
    u32 *vertex; /* by place: the node */
    u32 *parent; /* by place */
    u32 count;   /* of places; 0 is the super-root */
    u32 garbage; /* place of what stands above unreachable nodes, NONE */
    u32 *stack;
    i64 *next; /* the next reference of those on the stack */
    u64 *first; /* by place: the first of its other references, see others() */
    u32 *source;
};

static bool search_new(struct search *search, const struct rows *rows)
{
    u64 most = rows->nodes + 2;
    *search = (struct search){.rows = rows, .garbage = NONE};
    search->number = malloc(most * sizeof *search->number);
    search->vertex = malloc(most * sizeof *search->vertex);
    search->parent = malloc(most * sizeof *search->parent);
    search->stack = malloc(most * sizeof *search->stack);
    search->next = malloc(most * sizeof *search->next);
    if (!search->number || !search->vertex || !search->parent || !search->stack || !search->next)
        return false;
    memset(search->number, 0xff, most * sizeof *search->number);
    return true;
}

static void search_free(struct search *search)
{
    free(search->number);
    free(search->vertex);
    free(search->parent);
    free(search->stack);
    free(search->next);
    free(search->first);
    free(search->source);
}

static u32 place(struct search *search, u32 node, u32 parent)
{
    search->number[node] = search->count;
    search->vertex[search->count] = node;
    search->parent[search->count] = parent;
    return search->count++;
}

/* Numbers what can be reached from `root` and was not yet. */
static void number_from(struct search *search, u32 root, u32 above)
{
    const i64 *indptr = search->rows->indptr;
    const i32 *targets = search->rows->targets;
    u64 depth = 0;
    place(search, root, above);
    search->stack[depth] = root;
    search->next[depth++] = indptr[root];
    while (depth) {
        u32 node = search->stack[depth - 1];
        i64 at = search->next[depth - 1], end = indptr[node + 1];
        while (at < end && search->number[targets[at]] != NONE)
            at++;
        search->next[depth - 1] = at + 1;
        if (at >= end) {
            depth--;
            continue;
        }
        u32 target = (u32)targets[at];
        place(search, target, search->number[node]);
        search->stack[depth] = target;
        search->next[depth++] = indptr[target];
    }
}

static int number_roots(struct search *search, const i32 *roots, u64 count)
{
    for (u64 at = 0; at < count; at++) {
        if ((u32)roots[at] >= search->rows->nodes)
            return GRAPH_DAMAGED;
        search->number[roots[at]] = IS_ROOT;
    }
    place(search, (u32)search->rows->nodes, 0);
    for (u64 at = 0; at < count; at++)
        if (search->number[roots[at]] == IS_ROOT)
            number_from(search, (u32)roots[at], 0);
    return GRAPH_OK;
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
    for (u32 node = 0; node < nodes; node++)
        if (search->number[node] == NONE) {
            entry[entries++] = node;
            number_from(search, node, 0);
        }
    for (u32 at = begun; at < search->count; at++)
        search->number[search->vertex[at]] = NONE;
    search->count = begun;
    for (u64 at = entries; at-- > 0;)
        if (search->number[entry[at]] == NONE) {
            u32 node = entry[at];
            number_from(search, node, 0);
            entry[entries - ++kept] = node;
        }
    for (u32 at = begun; at < search->count; at++)
        search->number[search->vertex[at]] = NONE;
    search->count = begun;
    search->garbage = place(search, (u32)nodes + 1, 0);
    for (u64 at = entries - kept; at < entries; at++)
        search->number[entry[at]] = IS_ROOT;
    for (u64 at = entries - kept; at < entries; at++)
        number_from(search, entry[at], search->garbage);
    free(entry);
    return GRAPH_OK;
}

/* Whether a reference from one place to another says something that the tree does not. */
static bool counts(const struct search *search, u32 from, u32 to)
{
    u32 parent = search->parent[to];
    return from != to && parent != from && parent != 0 && parent != search->garbage &&
           (from < search->garbage || to > search->garbage);
}

/* By place of the target the places of the sources: those references that count. */
static int others(struct search *search)
{
    const struct rows *rows = search->rows;
    u64 total = 0;
    search->first = calloc((u64)search->count + 1, sizeof *search->first);
    if (!search->first)
        return GRAPH_NO_MEMORY;
    for (int filling = 0; filling < 2; filling++) {
        for (u32 from = 1; from < search->count; from++) {
            u32 node = search->vertex[from];
            if (from == search->garbage)
                continue;
            for (i64 at = rows->indptr[node]; at < rows->indptr[node + 1]; at++) {
                u32 to = search->number[rows->targets[at]];
                if (!counts(search, from, to))
                    continue;
                if (filling)
                    search->source[--search->first[to]] = from;
                else
                    search->first[to]++;
            }
        }
        if (filling)
            break;
        for (u32 at = 0; at <= search->count; at++)
            search->first[at] = total += search->first[at];
        search->source = malloc((total + 1) * sizeof *search->source);
        if (!search->source)
            return GRAPH_NO_MEMORY;
    }
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
        for (u64 edge = search->first[at]; edge < search->first[at + 1]; edge++) {
            u32 source = search->source[edge];
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
    if (status == GRAPH_OK)
        status = others(&search);
    if (status == GRAPH_OK)
        status = results(&search, sizes, idom, retained, sums);
    search_free(&search);
    return status;
}
