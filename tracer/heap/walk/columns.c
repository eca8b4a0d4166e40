/* The second pass, by several threads, each over a range of the addresses. */
#include "api.h"

#include <pthread.h>
#include <stdlib.h>

enum { MAX_THREADS = 16, LEAST_PER_THREAD = 1 << 14, PROGRESS = 1 << 14 };

static bool columns_new(struct walk *walk)
{
    struct columns *columns = &walk->columns;
    u64 nodes = columns->nodes;
    columns->edge_room = walk->marking->work;
    columns->address = lazy_new(nodes, 8);
    columns->size = lazy_new(nodes, 8);
    columns->type = lazy_new(nodes, 4);
    columns->refcount = lazy_new(nodes, 4);
    columns->degree = lazy_new(nodes, 4);
    columns->shape = lazy_new(nodes, 4);
    columns->in_degree = lazy_new(nodes, 4);
    columns->guesses = lazy_new(nodes, 4);
    columns->target = lazy_new(columns->edge_room, 4);
    return columns->address && columns->size && columns->type && columns->refcount &&
           columns->degree && columns->shape && columns->in_degree && columns->guesses &&
           columns->target;
}

static void write_node(struct visitor *visitor, u64 node, u64 address)
{
    struct walk *walk = visitor->walk;
    struct columns *columns = &walk->columns;
    const u8 *object = image_at(&walk->image, &visitor->hints, address, 16);
    i64 index = object ? type_known_index(walk, load64(object + walk->off.ob_type)) : -1;
    columns->address[node] = address;
    if (index < 0) { /* marked as an object, so it cannot be */
        visitor->status = WALK_IMPLAUSIBLE;
        return;
    }
    emit_begin(visitor);
    columns->size[node] =
        visit_object(visitor, address, (const struct type *)walk->types.items + index);
    columns->type[node] = (u32)index;
    columns->refcount[node] = load32(object);
    columns->degree[node] = visitor->degree;
    columns->shape[node] = emit_end(visitor);
}

/* Writes the nodes [first, last) of a visitor, found among the marks. */
static void *write_range(void *argument)
{
    struct visitor *visitor = argument;
    struct walk *walk = visitor->walk;
    struct image *image = &walk->image;
    u64 node = 0, word = 0;
    /* The block in which the first of ours is. */
    while ((word + RANK_WORDS) < image->words &&
           image->ranks[word / RANK_WORDS + 1] <= visitor->first)
        word += RANK_WORDS;
    node = image->words ? image->ranks[word / RANK_WORDS] : 0;
    u32 segment = 0;
    for (; word < image->words && node < visitor->last && visitor->status == WALK_OK; word++) {
        u64 bits = image->bits[word];
        while (segment + 1 < image->count && image->segments[segment + 1].first_bit <= word * 64)
            segment++;
        for (; bits && node < visitor->last; bits &= bits - 1, node++) {
            if (node < visitor->first)
                continue;
            u64 bit = word * 64 + (u64)__builtin_ctzll(bits);
            const struct segment *in = &image->segments[segment];
            write_node(visitor, node, in->start + (bit - in->first_bit) * 8);
            if (node % PROGRESS == 0)
                __atomic_fetch_add(&walk->visited, PROGRESS, __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

static int join_parts(struct walk *walk, struct visitor *visitors, u32 count)
{
    struct columns *columns = &walk->columns;
    for (u32 at = 0; at < count; at++) {
        struct visitor *part = &visitors[at];
        if (part->status != WALK_OK)
            return part->status;
        if (at == 0) {
            walk->shapes = part->shapes;
            memset(&part->shapes, 0, sizeof part->shapes);
            columns->edges = part->edge_count;
            continue;
        }
        u32 *numbers;
        bool merged = shapes_merge(&walk->shapes, &part->shapes, &numbers);
        for (u64 node = part->first; merged && node < part->last; node++)
            columns->shape[node] = numbers[columns->shape[node]];
        free(numbers);
        if (!merged || columns->edges + part->edge_count > columns->edge_room)
            return WALK_NO_MEMORY;
        memcpy(columns->target + columns->edges, part->targets, part->edge_count * 4);
        columns->edges += part->edge_count;
    }
    return WALK_OK;
}

static u32 node_of(struct walk *walk, u64 address)
{
    const struct segment *segment = image_find(&walk->image, &walk->marking->hints, address);
    if (!segment || address % 8)
        return NO_NODE;
    u64 bit = mark_bit(segment, address);
    return mark_test(&walk->image, bit) ? image_rank(&walk->image, bit) : NO_NODE;
}

/* Instances of heap types refer to their type; counted here, written nowhere. */
static void count_types(struct walk *walk)
{
    struct type *types = walk->types.items;
    for (u64 at = 0; at < walk->types.count; at++)
        types[at].node = node_of(walk, types[at].address);
    for (u64 node = 0; node < walk->columns.nodes; node++) {
        const struct type *type = &types[walk->columns.type[node]];
        if (type->heap && type->node != NO_NODE)
            walk->columns.in_degree[type->node]++;
    }
}

static void count_outside(struct walk *walk)
{
    struct root *roots = walk->roots.items;
    for (u64 at = 0; at < walk->roots.count; at++) {
        roots[at].node = node_of(walk, roots[at].target);
        if (roots[at].node != NO_NODE)
            walk->columns.in_degree[roots[at].node] += roots[at].counted;
    }
    const struct reference *rows = walk->references.items;
    for (u64 at = 0; at < walk->references.count; at++) {
        u32 node = node_of(walk, rows[at].target);
        if (node != NO_NODE && !(rows[at].kind & L_BORROWED))
            walk->columns.in_degree[node]++;
    }
}

static int run_threads(struct walk *walk, struct visitor *visitors, u32 count)
{
    pthread_t threads[MAX_THREADS];
    u32 running = 0;
    for (u32 at = 1; at < count; at++) {
        if (pthread_create(&threads[running], NULL, write_range, &visitors[at]))
            write_range(&visitors[at]);
        else
            running++;
    }
    write_range(&visitors[0]);
    while (running)
        pthread_join(threads[--running], NULL);
    return join_parts(walk, visitors, count);
}

/* Writes the columns, with up to `threads` threads. */
int walk_emit(struct walk *walk, u32 threads)
{
    if (walk->status != WALK_OK)
        return walk->status;
    if (!columns_new(walk))
        return walk->status = WALK_NO_MEMORY;
    u64 most = walk->columns.nodes / LEAST_PER_THREAD + 1;
    u32 count = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    if (count > most)
        count = (u32)most;
    struct visitor *visitors = calloc(count, sizeof *visitors);
    if (!visitors)
        return walk->status = WALK_NO_MEMORY;
    bool ready = true;
    for (u32 at = 0; at < count; at++) {
        struct visitor *visitor = &visitors[at];
        visitor->walk = walk;
        visitor->emitting = true;
        visitor->shapes.most_labels = walk->image.size / 4 + 4096;
        visitor->first = walk->columns.nodes * at / count;
        visitor->last = walk->columns.nodes * (at + 1) / count;
        visitor->edge_room = walk->columns.edge_room;
        visitor->targets = at ? lazy_new(visitor->edge_room, 4) : walk->columns.target;
        ready = ready && visitor->targets;
    }
    walk->status = ready ? run_threads(walk, visitors, count) : WALK_NO_MEMORY;
    for (u32 at = 0; at < count; at++) {
        if (at)
            lazy_free(visitors[at].targets, visitors[at].edge_room, 4);
        list_free(&visitors[at].labels);
        shapes_free(&visitors[at].shapes);
    }
    free(visitors);
    if (walk->status == WALK_OK) {
        count_types(walk);
        count_outside(walk);
    }
    return walk->status;
}
