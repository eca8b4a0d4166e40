/* The Python stack of the current thread, walked in BPF and interned by hash.
 *
 * A frame is a code object's address and an instruction; user space names them later, and
 * believes a code object only while its check value is still the one that was seen here.
 * Where CPython keeps things comes per process from user space (ps_pythons); a process
 * without an entry has no stacks. tracer/pymem/kernel_stacks.py holds both layouts, too.
 */
#define PS_MAX_FRAMES 32
#define PS_MAX_FOREIGN 16 /* frames of no Python code (entries from C) on the way */
#define PS_TSTATE_SLOTS 4
#define PS_STACK_TRUNCATED 1

/* Offsets in bytes. The thread state's address stands `slots` bytes from the thread's
 * fsbase (0: no more slots); it is this thread's if its `ident` is fsbase, which is what
 * pthread_self() is on x86-64. `cframe` is -1 where the thread state has the frame itself. */
struct ps_python {
    s32 slots[PS_TSTATE_SLOTS];
    s32 ident;
    s32 cframe; /* of the thread state */
    s32 top;    /* the innermost frame: of the cframe, else of the thread state */
    u32 code, instruction, owner, previous, globals; /* of a frame, below PS_READ */
    u32 tag_mask;      /* low bits of `code` that are no part of the address */
    u32 first_foreign; /* owners from here on are no Python frames */
    u32 identity;      /* of a code object: from here PS_READ bytes are looked at */
    u32 line, texts;   /* of these: co_firstlineno; file, name, qualname, line table */
};

struct ps_frame {
    u64 code;
    u64 instruction; /* in the top byte: the frame's owner */
    u64 globals;
    u64 check;
};

struct ps_stack {
    u64 hash;
    u32 tgid;
    u16 depth;
    u16 flags;
    struct ps_frame frames[PS_MAX_FRAMES];
};

#define PS_READ 80
#define PS_READ_WORDS 16 /* and room for every offset of 7 bits, for the verifier's sake */
struct ps_walk {
    struct ps_stack stack;
    u64 frame[PS_READ_WORDS];
    u64 code[PS_READ_WORDS];
};

BPF_HASH(ps_pythons, u32, struct ps_python, PS_MAX_TARGETS);
BPF_TABLE("lru_hash", u32, struct ps_stack, ps_stacks, PS_MAX_STACKS);
BPF_PERCPU_ARRAY(ps_walks, struct ps_walk, 1);

#define PS_WORD(words, offset) (*(u64 *)((char *)(words) + ((offset) & 0x78)))
#define PS_BYTE(words, offset) (*(u8 *)((char *)(words) + ((offset) & 0x7f)))

static __always_inline u64 ps_user_word(u64 address)
{
    u64 word = 0;
    ps_read_user(&word, sizeof(word), (void *)address);
    return word;
}

/* The current thread's PyThreadState, 0 when there is none. */
static __always_inline u64 ps_thread_state_of_current(struct ps_python *python)
{
    u64 fsbase = PS_LOAD(64, bpf_get_current_task_btf(), PS_OFF_TASK_FSBASE);
    for (int i = 0; i < PS_TSTATE_SLOTS; i++) {
        s64 slot = python->slots[i];
        u64 state = slot ? ps_user_word(fsbase + slot) : 0;
        if (state && ps_user_word(state + python->ident) == fsbase)
            return state;
    }
    return 0;
}

/* Differs, but for chance, between two code objects at one address. */
static __always_inline u64 ps_code_check(struct ps_python *python, u64 *identity)
{
    u32 line = PS_WORD(identity, python->line) >> (python->line & 4 ? 32 : 0);
    u32 texts = python->texts;
    return line * 0x9e3779b97f4a7c15ULL +
           PS_WORD(identity, texts) * 0xc2b2ae3d27d4eb4fULL +
           PS_WORD(identity, texts + 8) * 0x165667b19e3779f9ULL +
           PS_WORD(identity, texts + 16) * 0x27d4eb2f165667c5ULL +
           PS_WORD(identity, texts + 24) * 0xd6e8feb86659fd93ULL;
}

/* Fill walk->stack from `frame` on. Frames that cannot be read end it: it is truncated. */
static __always_inline void ps_walk_frames(struct ps_python *python, struct ps_walk *walk,
                                           u64 frame)
{
    struct ps_stack *stack = &walk->stack;
    u64 hash = 0xcbf29ce484222325ULL ^ stack->tgid;
    /* In memory: the verifier would follow each depth by itself, for each i. */
    volatile u16 *depth = &stack->depth;
    *depth = 0;
    for (int i = 0; i < PS_MAX_FRAMES + PS_MAX_FOREIGN && frame; i++) {
        if (ps_read_user(walk->frame, PS_READ, (void *)frame))
            break;
        u64 owner = PS_BYTE(walk->frame, python->owner);
        frame = PS_WORD(walk->frame, python->previous);
        if (owner >= python->first_foreign)
            continue;
        u32 at = *depth;
        struct ps_frame *out = &stack->frames[at & (PS_MAX_FRAMES - 1)];
        u64 code = PS_WORD(walk->frame, python->code) & ~(u64)python->tag_mask;
        if (at >= PS_MAX_FRAMES ||
            ps_read_user(walk->code, PS_READ, (void *)(code + python->identity))) {
            frame = 1; /* there is one more than can be told */
            break;
        }
        out->code = code;
        out->instruction = PS_WORD(walk->frame, python->instruction) | owner << 56;
        out->globals = PS_WORD(walk->frame, python->globals);
        out->check = ps_code_check(python, walk->code);
        hash = (hash ^ out->code) * 0x100000001b3ULL;
        hash = (hash ^ (out->instruction + out->check)) * 0x100000001b3ULL;
        hash ^= hash >> 29;
        *depth = at + 1;
    }
    stack->flags = frame ? PS_STACK_TRUNCATED : 0;
    stack->hash = hash + stack->flags;
}

/* The key in ps_stacks of the current thread's stack, 0 when it has none. For BTF
 * programs that no other of the kind can interrupt: they share ps_walks. */
static __always_inline u32 ps_stack_of_current(u32 tgid)
{
    struct ps_python *python = ps_pythons.lookup(&tgid);
    int zero = 0;
    struct ps_walk *walk = python ? ps_walks.lookup(&zero) : 0;
    if (!walk)
        return 0;
    u64 top = ps_thread_state_of_current(python);
    if (top && python->cframe >= 0)
        top = ps_user_word(top + python->cframe);
    u64 frame = top ? ps_user_word(top + python->top) : 0;
    if (!frame)
        return 0;
    walk->stack.tgid = tgid;
    ps_walk_frames(python, walk, frame);
    u32 key = walk->stack.hash >> 32 | 1; /* never 0 */
    if (!walk->stack.depth)
        return 0;
    struct ps_stack *known = ps_stacks.lookup(&key);
    if (known)
        return known->hash == walk->stack.hash ? key : 0;
    return ps_stacks.update(&key, &walk->stack) ? 0 : key;
}
