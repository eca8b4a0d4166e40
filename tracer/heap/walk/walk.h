/* The walk of a heap: from GC lists and roots to every object and reference.
 *
 * Two passes. The first marks every object that can be reached, one bit for each 8 bytes
 * of the image, so that an object's number is its rank among the marks: no table of
 * addresses, and the objects come sorted by address. The second visits them in that order,
 * in parallel, and writes columns. Nothing in the image is believed: reads are checked,
 * types are verified, and work is counted against the size of the image. */
#ifndef PARKSCOPE_WALK_H
#define PARKSCOPE_WALK_H

#include "image.h"
#include "offsets.h"

/* How instances of a type are visited; the names stand in types.toml. */
enum kind {
    K_SCAN, /* an unknown C type: every word that points to an object */
    K_PLAIN,
    K_FIELDS,
    K_INT,
    K_STR,
    K_BYTEARRAY,
    K_LIST,
    K_TUPLE,
    K_DICT,
    K_ORDERED_DICT,
    K_SET,
    K_TYPE,
    K_FRAME,
    K_GENERATOR,
    K_CODE,
    K_MODULE,
    K_WEAKREF,
    K_DATETIME,
    K_DEQUE,
    K_ARRAY,
    K_LRU_CACHE,
    K_LRU_LINK,
    K_BUFFERED,
    K_ELEMENT,
    K_RING,
    K_NDARRAY,
    KIND_COUNT
};

/* What a reference is. Up to L_DICT they are certain and counted; the rest is documented
 * in FORMAT.md. */
enum label_kind {
    L_ELEMENT,  /* an item of a list, tuple, set, deque */
    L_KEY,      /* a key of a dict; name: 0 */
    L_VALUE,    /* its value, always the reference behind its key */
    L_ATTRIBUTE, /* name: address of the str */
    L_FIELD,    /* name: number given by the caller */
    L_SLOT,     /* name: address of a C string */
    L_LOCAL,    /* name: address of the str */
    L_STACK,    /* a frame's evaluation stack */
    L_DICT,     /* an instance's __dict__ */
    L_GUESS,    /* a word that points to an object; name: its offset */
    L_MEMBER,   /* the same, of a field that tp_members names; name: address of a C string */
    L_AGAIN,    /* the key once more, of an OrderedDict's node */
    L_WEAK,     /* does not keep its target; name as L_FIELD */
    LABEL_KINDS,
    L_BORROWED = 0x80 /* bit: this reference is not counted in its target */
};

/* Fields that the walker itself names (the caller's numbers begin at FIELD_FIRST). */
enum own_field {
    F_NONE,
    F_TP_DICT,
    F_TP_CACHE,
    F_MRO,
    F_BASES,
    F_BASE,
    F_SUBCLASSES,
    F_NAME,
    F_QUALNAME,
    F_SLOTS,
    F_MODULE,
    F_CODE,
    F_FUNCTION,
    F_LOCALS,
    F_FRAME,
    F_CO_CODE,
    F_CO_VARNAMES,
    F_CO_CELLVARS,
    F_CO_FREEVARS,
    F_REFERENT,
    F_EXC_DICT,
    F_EXC_ARGS,
    F_EXC_NOTES,
    F_EXC_TRACEBACK,
    F_EXC_CONTEXT,
    F_EXC_CAUSE,
    F_STATE,
    F_NEXT,
    F_TEXT,
    F_TAIL,
    F_ATTRIB,
    FIELD_FIRST = 64
};

/* Constants of a version, from the layout. */
struct constants {
    u32 immortal_refcnt, frame_cleared, preheader_flags, tag_mask, first_foreign_owner,
        last_owner;
    u32 frozen_counts; /* whether immortal objects count in what they refer to */
    u32 instance_dict; /* enum instance_dict */
};

enum instance_dict { PREFIX_WORDS, TAGGED_PREFIX, INLINE_VALUES };

/* A word of every instance of a type that may refer to an object. */
struct field {
    u32 offset;
    u32 kind;
    u64 name;
};

struct known {
    u64 address; /* 0: by name */
    char name[64];
    u32 kind, scan_from, first_field, field_count;
};

struct type {
    u64 address, flags;
    u64 basicsize, itemsize;
    i64 dictoffset;
    u32 known; /* which entry it or a base of it is, or NO_KNOWN */
    u32 first_field, field_count;
    u32 first_name, name_count; /* names of split attributes, in the order of their values */
    u64 keys_size;              /* bytes of the keys that its instances share */
    u32 node;
    u8 kind, heap, managed, inline_values, hidden_items, scan_items;
    u16 presize;
    u32 need; /* bytes that every instance has, however short */
};

enum { NO_KNOWN = 0xffffffff, NO_NODE = 0xffffffff };

/* An array that grows; `item` is its items' size. */
struct list {
    void *items;
    u64 count, room;
};

struct static_type {
    u64 type, dict, subclasses;
};

struct frame_row {
    u64 address, code, instruction;
    u32 thread, owner;
};

struct reference {
    u64 target, name;
    u32 frame, kind;
};

struct root {
    u64 target;
    u32 kind, name; /* the caller's */
    u32 counted, node;
};

enum status { WALK_OK, WALK_NO_MEMORY, WALK_IMPLAUSIBLE };

/* The columns, in the order of addresses. Sizes in bytes, as sys.getsizeof() counts. */
struct columns {
    u64 nodes, edges;
    u64 *address, *size;
    u32 *type, *refcount, *degree, *shape, *in_degree, *guesses, *target;
    u64 edge_room;
};

/* Shapes: the labels of an object's references but for the repeated ones at its end. */
struct shapes {
    struct list rows;   /* struct shape */
    struct list labels; /* struct label */
    u32 *table;
    u64 table_size;
    u64 most_labels; /* more than the image has words were made up */
};

struct label {
    u64 name;
    u32 kind;
};

struct shape {
    u64 hash;
    u32 first, count;
    u32 tail; /* enum tail, | L_BORROWED */
};

/* What repeats at the end of an object's references. */
enum tail { TAIL_NONE, TAIL_ELEMENTS, TAIL_PAIRS, TAIL_TRIPLES };

struct walk {
    struct image image;
    struct offsets off;
    struct constants constant;
    struct list known, types, fields, names, static_types, frames, references, roots, running;
    u32 *type_table;
    u64 type_table_size;
    u64 type_type; /* &PyType_Type */
    struct list interned; /* addresses of dicts whose references are not counted */
    u64 *stack;
    u64 stack_count, stack_room;
    u64 work_limit;
    u64 bad_pointers, bad_types, gc_objects, broken_lists;
    volatile u64 marked, visited; /* for a progress bar */
    int status;
    struct columns columns;
    struct shapes shapes;
    struct visitor *marking; /* the first pass's */
};

/* One thread's view of the walk. */
struct visitor {
    struct walk *walk;
    struct hints hints;
    u64 work; /* words looked at */
    bool emitting;
    u32 borrowed; /* L_BORROWED while references are visited that are not counted */
    bool triples; /* the dict at hand is an OrderedDict */
    /* emitting: */
    u32 *targets;
    u64 edge_count, edge_room;
    struct list labels; /* of the object at hand */
    u64 hash;
    u32 tail, degree;
    struct shapes shapes;
    u64 first, last; /* nodes */
    int status;
};

/* list.c */
bool list_has(const struct list *addresses, u64 address);
void *list_add(struct list *list, u64 item_size);
void list_free(struct list *list);

/* types.c */
i64 type_index(struct visitor *visitor, u64 address);
i64 type_known_index(const struct walk *walk, u64 address);

/* mark.c */
bool mark_object(struct visitor *visitor, u64 address);
void drain(struct visitor *visitor);
bool plausible_object(struct visitor *visitor, u64 address);

/* visit.c, containers.c, modules.c, frames.c */
u64 visit_object(struct visitor *visitor, u64 address, const struct type *type);
void visit_interpreter_frame(struct visitor *visitor, u64 frame);
u64 frame_slots(struct visitor *visitor, u64 frame);
u64 keys_bytes(struct visitor *visitor, u64 keys);
bool keys_entries(struct visitor *visitor, u64 keys, u64 *first, u64 *count, u32 *step);
u64 visit_dict(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_list(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_tuple(struct visitor *visitor, u64 address, const struct type *type, u64 count);
u64 visit_set(struct visitor *visitor, u64 address, const u8 *object, u64 basicsize);
u64 visit_deque(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_array(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_ordered_dict(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_element(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_ring(struct visitor *visitor, const u8 *object, u64 basicsize);
u64 visit_ndarray(struct visitor *visitor, const u8 *object, u64 basicsize);
void visit_attributes(struct visitor *visitor, u64 address, const struct type *type);
void thread_frames(struct visitor *visitor, u32 thread, u64 frame);

/* emit.c */
void emit(struct visitor *visitor, u64 target, u32 kind, u64 name);
void emit_begin(struct visitor *visitor);
u32 emit_end(struct visitor *visitor);
bool shapes_merge(struct shapes *into, const struct shapes *from, u32 **numbers);
void shapes_free(struct shapes *shapes);

/* Whether emit() will take it. */
bool emits(struct visitor *visitor, u64 target);

/* One reference of the object at hand: marked in the first pass, written in the second. */
static inline void edge(struct visitor *visitor, u64 target, u32 kind, u64 name)
{
    visitor->work++;
    if (!target || target % 8)
        return;
    if (visitor->emitting)
        emit(visitor, target, kind | visitor->borrowed, name);
    else if ((kind != L_GUESS && kind != L_MEMBER) || plausible_object(visitor, target))
        mark_object(visitor, target);
}

#endif
