/* A map and what it has to be: a plain array, with all that it was before. */
#ifndef MODEL_H
#define MODEL_H

#include "sound.h"

enum { KEYS = 512, PICTURES = 4, WALKS = 4, LOG = 1 << 14 };
enum { LOAD, STORE, LOAD_OR_STORE, LOAD_AND_DELETE, SWAP, COMPARE_AND_DELETE, OPERATIONS };

typedef struct {
    int key;
    uint64_t before; /* its value; 0: not there */
} Past;

typedef struct {
    int operation, key;
    uint64_t value;
} Change;

typedef struct {
    cm_view *view; /* NULL: not open */
    uint64_t value[KEYS];
} Picture;

typedef struct {
    cm_walk walk;
    int begun;
    size_t since;   /* what had happened when it began */
    uint64_t shape; /* the table's then */
    uint8_t given[KEYS];
    uint64_t value[KEYS]; /* what was there when it began */
} Walk;

typedef struct {
    cm_map *map;
    int hashing, foreign, abandoned; /* see make() */
    int frail; /* memory may run out in this operation */
    uint64_t value[KEYS];
    uint64_t serial, version;
    uint64_t shape; /* raised when a key comes or goes */
    Past past[LOG];
    Change change[LOG]; /* by version */
    size_t happened;
    Picture picture[PICTURES];
    Walk walk[WALKS];
} Table;

/* --- model.c: the table and single keys --- */
void make(Table *table, int kind);
void make_fails(int kind, long allocations);
void unmake(Table *table);
uint64_t hash_of(const Table *table, int key);
cm_query asked_for(const Table *table, int key);
int find(const cm_map *map, const cm_bucket *bucket, cm_query *query);
void set(Table *table, int key, uint64_t value);
void changed(Table *table, uint64_t version, int operation, int key, uint64_t value);
void perform(Table *table, int operation, int key, int argument);
void ask_changes(Table *table, int key, int argument);
void all_is_sound(Table *table);

/* --- pictures.c: views, walks, steps --- */
void open_picture(Table *table, int which);
void close_picture(Table *table, int which);
void load_picture(Table *table, int which, int key);
void walk_picture(Table *table, int which);
void share_picture(Table *table, int which);
void begin_walk(Table *table, int which, int mode);
void go_on(Table *table, int which, int steps);
void end_walk(Table *table, int which);

#endif
