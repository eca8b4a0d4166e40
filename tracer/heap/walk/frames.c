/* Interpreter frames: those of generators and frame objects, visited with their owners,
 * and those of threads, which are no objects. Sources: Include/internal/pycore_frame.h
 * (pycore_interpframe_structs.h), _PyFrame_Traverse; pycore_stackref.h for tagged words. */
#include "walk.h"

enum {
    WORD = 8,
    MAX_SLOTS = 1 << 18,
    MAX_DEPTH = 1 << 17,
    OWNED_BY_THREAD = 0, /* enum _frameowner */
    TAG_BORROWED = 1
};

static u64 read(struct visitor *visitor, u64 address)
{
    return image_u64(&visitor->walk->image, &visitor->hints, address);
}

static const u8 *frame_bytes(struct visitor *visitor, u64 frame)
{
    return image_at(&visitor->walk->image, &visitor->hints, frame,
                    (u64)visitor->walk->off.f_localsplus);
}

struct code_facts {
    u64 locals, slots, names; /* names: the tuple of local variables' names */
};

static struct code_facts code_of(struct visitor *visitor, u64 code)
{
    const struct offsets *off = &visitor->walk->off;
    const u8 *bytes = image_at(&visitor->walk->image, &visitor->hints, code, (u64)off->co_code);
    struct code_facts facts = {0, 0, 0};
    if (bytes) {
        u32 locals = load32(bytes + off->co_nlocalsplus), stack = load32(bytes + off->co_stacksize);
        if (locals <= MAX_SLOTS && stack <= MAX_SLOTS)
            facts = (struct code_facts){locals, (u64)locals + stack,
                                        load64(bytes + off->co_localsplusnames)};
    }
    return facts;
}

static u64 untagged(const struct walk *walk, u64 word)
{
    return word & ~(u64)walk->constant.tag_mask;
}

/* Local variables and evaluation stack together: what a frame has room for. */
u64 frame_slots(struct visitor *visitor, u64 frame)
{
    u64 code = read(visitor, frame + (u64)visitor->walk->off.f_executable);
    return code_of(visitor, untagged(visitor->walk, code)).slots;
}

/* A word that may be tagged: 0 a counted reference, 1 a borrowed one, else none. */
static void visit_word(struct visitor *visitor, u64 word, u32 kind, u64 name)
{
    u64 tag = word & visitor->walk->constant.tag_mask;
    if (tag > TAG_BORROWED)
        return;
    u32 before = visitor->borrowed;
    if (tag == TAG_BORROWED)
        visitor->borrowed = L_BORROWED;
    edge(visitor, word - tag, kind, name);
    visitor->borrowed = before;
}

/* How many slots are in use. While a frame runs, its stack's height is in a register (from
 * 3.14 on the memory keeps an old one): only the variables are certain then. */
static u64 used_slots(struct visitor *visitor, u64 frame, const u8 *bytes, struct code_facts code)
{
    const struct offsets *off = &visitor->walk->off;
    if (list_has(&visitor->walk->running, frame))
        return code.locals;
    if (off->f_stackpointer >= 0) {
        u64 end = load64(bytes + off->f_stackpointer), first = frame + (u64)off->f_localsplus;
        u64 used = end > first ? (end - first) / WORD : 0;
        return end && used >= code.locals && used <= code.slots ? used : code.locals;
    }
    i32 top = (i32)load32(bytes + off->f_stacktop);
    return top >= (i32)code.locals && (u64)top <= code.slots ? (u64)top : code.locals;
}

void visit_interpreter_frame(struct visitor *visitor, u64 frame)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    const u8 *bytes = frame_bytes(visitor, frame);
    if (!bytes)
        return;
    u64 executable = load64(bytes + off->f_executable);
    struct code_facts code = code_of(visitor, untagged(walk, executable));
    visit_word(visitor, executable, L_FIELD, F_CODE);
    visit_word(visitor, load64(bytes + off->f_function), L_FIELD, F_FUNCTION);
    edge(visitor, load64(bytes + off->f_locals), L_FIELD, F_LOCALS);
    edge(visitor, load64(bytes + off->f_frame_obj), L_FIELD, F_FRAME);
    u64 used = used_slots(visitor, frame, bytes, code);
    for (u64 at = 0; at < used; at++) {
        u64 word = read(visitor, frame + (u64)off->f_localsplus + WORD * at);
        if (at < code.locals)
            visit_word(visitor, word, L_LOCAL,
                       read(visitor, code.names + (u64)off->tuple_item + WORD * at));
        else
            visit_word(visitor, word, L_STACK, 0);
    }
}

static void refer(struct visitor *visitor, u32 frame, u64 word, u32 kind, u64 name)
{
    struct walk *walk = visitor->walk;
    u64 tag = word & walk->constant.tag_mask;
    if (tag > TAG_BORROWED || !(word - tag) || !mark_object(visitor, word - tag))
        return;
    /* Every one is a word of its own. */
    if (walk->references.count > walk->image.size / WORD / 2) {
        walk->status = WALK_IMPLAUSIBLE;
        return;
    }
    struct reference *row = list_add(&walk->references, sizeof *row);
    if (!row) {
        walk->status = WALK_NO_MEMORY;
        return;
    }
    *row = (struct reference){word - tag, name, frame,
                              kind | (tag == TAG_BORROWED ? (u32)L_BORROWED : 0)};
}

static void thread_frame(struct visitor *visitor, u32 number, u64 frame, const u8 *bytes)
{
    const struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    u64 executable = load64(bytes + off->f_executable);
    struct code_facts code = code_of(visitor, untagged(walk, executable));
    refer(visitor, number, executable, L_FIELD, F_CODE);
    refer(visitor, number, load64(bytes + off->f_function), L_FIELD, F_FUNCTION);
    refer(visitor, number, load64(bytes + off->f_locals), L_FIELD, F_LOCALS);
    refer(visitor, number, load64(bytes + off->f_frame_obj), L_FIELD, F_FRAME);
    u64 used = used_slots(visitor, frame, bytes, code);
    for (u64 at = 0; at < used; at++) {
        u64 word = read(visitor, frame + (u64)off->f_localsplus + WORD * at);
        u64 name = at < code.locals
                       ? read(visitor, code.names + (u64)off->tuple_item + WORD * at)
                       : 0;
        refer(visitor, number, word, at < code.locals ? L_LOCAL : L_STACK, name);
    }
    visitor->work += used;
}

/* The frames of one thread, from the innermost at `frame` on. Those of generators are
 * listed, too, but what they refer to is said with the generator. */
void thread_frames(struct visitor *visitor, u32 thread, u64 frame)
{
    struct walk *walk = visitor->walk;
    const struct offsets *off = &walk->off;
    for (u32 depth = 0; frame && depth < MAX_DEPTH && walk->status == WALK_OK; depth++) {
        const u8 *bytes = frame_bytes(visitor, frame);
        if (!bytes || bytes[off->f_owner] > walk->constant.last_owner)
            break;
        u32 owner = bytes[off->f_owner];
        if (owner < walk->constant.first_foreign_owner) {
            struct frame_row *row = list_add(&walk->frames, sizeof *row);
            if (!row) {
                walk->status = WALK_NO_MEMORY;
                return;
            }
            *row = (struct frame_row){frame, untagged(walk, load64(bytes + off->f_executable)),
                                      load64(bytes + off->f_instruction), thread, owner};
            if (owner == OWNED_BY_THREAD)
                thread_frame(visitor, (u32)walk->frames.count - 1, frame, bytes);
        }
        frame = load64(bytes + off->f_previous);
        if ((visitor->work += 16) > walk->work_limit)
            walk->status = WALK_IMPLAUSIBLE;
    }
}
