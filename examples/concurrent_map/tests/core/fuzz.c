/* A stream of bytes as operations on a map, its views, walks and cursors, with a plain array
 * beside it that says what each has to give. Three bytes are one operation: what, which key,
 * an argument. One thread; for threads see overlap.c. */
#include "model.h"

static void clear(Table *table)
{
    uint64_t version = cm_map_clear(table->map);
    if (version == 0) {
        MUST(table->frail);
        return;
    }
    changed(table, version, CM_CLEAR, 0, 0);
    for (int key = 0; key < KEYS; key++)
        if (table->value[key] != 0)
            set(table, key, 0);
    table->shape++;
}

/* Inside of its own shard's lock, as map.exclusive() does it. */
static void exclusively(Table *table, int key, int argument)
{
    cm_shard *shard = cm_shard_of(table->map, hash_of(table, key));
    MUST(cm_enter(table->map, shard) == 0);
    MUST(cm_enter(table->map, shard) == 0);
    perform(table, argument % OPERATIONS, key, argument);
    if (argument & 128)
        open_picture(table, argument);
    cm_leave(table->map, shard);
    cm_leave(table->map, shard);
}

static void several(Table *table, int operation, int key, int argument)
{
    for (int i = 0; i <= argument; i++)
        perform(table, operation, (key + i) % KEYS, 0);
}

static void step(Table *table, int what, int key, int argument)
{
    switch (what) {
    case 16: several(table, STORE, key, argument); break;
    case 17: several(table, LOAD_AND_DELETE, key, argument); break;
    case 18: clear(table); break;
    case 19: open_picture(table, argument); break;
    case 20: close_picture(table, argument); break;
    case 21: load_picture(table, argument, key); break;
    case 22: walk_picture(table, argument); break;
    case 23: share_picture(table, argument); break;
    case 24: begin_walk(table, key, argument); break;
    case 25: go_on(table, key, argument + 1); break;
    case 26: end_walk(table, key); break;
    case 27: ask_changes(table, key, argument); break;
    case 28: exclusively(table, key, argument); break;
    case 29: all_is_sound(table); break;
    default: perform(table, what % OPERATIONS, key, argument);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 5)
        return 0;
    static Table table;
    if (data[0] == data[1])
        make_fails(data[0], 1 + data[2] % 64);
    make(&table, data[0]);
    for (size_t at = 1; at + 3 <= size && table.happened < LOG - 2 * KEYS; at += 3) {
        int key = data[at + 1] | (data[at] & 128) << 1;
        if ((data[at] & 31) == 30) { /* memory runs out in the next operation */
            table.frail = 1;
            memory_fails_after(1 + data[at + 2] % 8);
            continue;
        }
        step(&table, data[at] & 31, key, data[at + 2]);
        memory_fails_after(0);
        table.frail = 0;
    }
    memory_fails_after(0);
    unmake(&table);
    return 0;
}
