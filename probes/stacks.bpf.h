/* The Python stack of the current thread, walked in BPF and interned by hash.
 *
 * A frame is a code object's address and an instruction; user space names them later, and
 * believes a code object only while its check value is still the one that was seen here.
 * Check values are remembered, for to read them all costs more than the walk: of code
 * whose successor at the same address could not have the same one (see ps_lasts).
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
    u32 identity;      /* of a code object: from here PS_CODE_READ bytes are looked at */
    u32 line, texts;   /* of these: co_firstlineno; file, name, qualname, line table */
    s32 version;       /* … co_version, or -1 */
    s32 warmup;        /* … co_warmup, or -1 */
    u64 salt;          /* another one: what is remembered of this process's code is not true */
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

/* A read costs the same whatever its size (80 ns in a VM), and a caller's frame lies just
 * below that of the callee: with a frame, what lies before it in its page is read too. */
#define PS_READ 80
#define PS_CODE_READ 96
#define PS_ROOM 128 /* for every offset of 7 bits, which is what the verifier is shown */
#define PS_NEAR 2048
#define PS_PAGE 4096
struct ps_walk {
    struct ps_stack stack;
    u64 near_from, near_to; /* the addresses of what is in `near` */
    char near[PS_NEAR + PS_ROOM];
    char code[PS_ROOM];
};

/* Check values of code objects, two to a set: a wrong one, by a race, makes a frame nameless. */
#define PS_CODE_SET_BITS 12
#define PS_MOMENT_SHIFT 24 /* 17 ms: whom one thread wakes at once */
struct ps_code_set {
    u64 keys[2];
    u64 checks[2];
};

BPF_ARRAY(ps_codes, struct ps_code_set, 1 << PS_CODE_SET_BITS);
BPF_HASH(ps_pythons, u32, struct ps_python, PS_MAX_TARGETS);
BPF_TABLE("lru_hash", u32, struct ps_stack, ps_stacks, PS_MAX_STACKS);
BPF_PERCPU_ARRAY(ps_walks, struct ps_walk, 1);

#define PS_WORD(words, offset) (*(u64 *)((char *)(words) + ((offset) & 0x78)))
#define PS_HALF(words, offset) (*(u32 *)((char *)(words) + ((offset) & 0x7c)))
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

/* PS_READ bytes of a frame, NULL when they cannot be read. */
static __always_inline char *ps_frame(struct ps_walk *walk, u64 frame)
{
    u64 end = frame + PS_READ;
    if (frame < walk->near_from || end > walk->near_to) {
        u64 from = end - PS_NEAR, page = frame & ~(u64)(PS_PAGE - 1);
        if (from < page)
            from = page;
        u64 size = end - from;
        walk->near_to = 0;
        if (frame & 7 || size > PS_NEAR || ps_read_user(walk->near, size, (void *)from))
            return 0;
        walk->near_from = from;
        walk->near_to = end;
    }
    return walk->near + (frame - walk->near_from & PS_NEAR - 8);
}

/* Differs, but for chance, between two code objects at one address. */
static __always_inline u64 ps_code_check(struct ps_python *python, char *identity)
{
    u32 version = python->version >= 0 ? PS_HALF(identity, python->version) : 0;
    u32 texts = python->texts;
    return PS_HALF(identity, python->line) * 0x9e3779b97f4a7c15ULL +
           version * 0x9fb21c651e98df25ULL +
           PS_WORD(identity, texts) * 0xc2b2ae3d27d4eb4fULL +
           PS_WORD(identity, texts + 8) * 0x165667b19e3779f9ULL +
           PS_WORD(identity, texts + 16) * 0x27d4eb2f165667c5ULL +
           PS_WORD(identity, texts + 24) * 0xd6e8feb86659fd93ULL;
}

/* Whether a check value may be remembered: the code that comes to lie at this one's address
 * will have another. CPython 3.12 numbers its code objects and uses no number twice (0: they
 * have run out). A 3.11 that compiles the same again and again gets equal ones; there one
 * counts that has been called 8 times, and for a moment only. */
static __always_inline bool ps_lasts(struct ps_python *python, char *identity)
{
    if (python->version >= 0)
        return PS_HALF(identity, python->version);
    return python->warmup >= 0 && !(u16)PS_HALF(identity, python->warmup);
}

/* The check value of a frame's code object; 0 when it cannot be read, which it has but by
 * chance. */
static __always_inline u64 ps_check(struct ps_python *python, struct ps_walk *walk,
                                    struct ps_frame *frame, u64 salt)
{
    u64 key = (frame->code ^ frame->globals << 16) + salt;
    u32 at = key * 0x9e3779b97f4a7c15ULL >> (64 - PS_CODE_SET_BITS);
    struct ps_code_set *set = ps_codes.lookup(&at);
    if (!set)
        return 0;
    if (set->keys[0] == key)
        return set->checks[0];
    if (set->keys[1] == key)
        return set->checks[1];
    if (ps_read_user(walk->code, PS_CODE_READ, (void *)(frame->code + python->identity)))
        return 0;
    u64 check = ps_code_check(python, walk->code);
    if (ps_lasts(python, walk->code)) {
        set->checks[1] = set->checks[0];
        set->keys[1] = set->keys[0];
        set->checks[0] = check;
        set->keys[0] = key;
    }
    return check;
}

/* Fill walk->stack from `frame` on, but for the checks. Frames that cannot be read end it:
 * it is truncated. */
static __always_inline void ps_walk_frames(struct ps_python *python, struct ps_walk *walk,
                                           u64 frame)
{
    struct ps_stack *stack = &walk->stack;
    u64 hash = 0xcbf29ce484222325ULL ^ stack->tgid;
    /* In memory: the verifier would follow each depth by itself, for each i. */
    volatile u16 *depth = &stack->depth;
    *depth = 0;
    walk->near_to = 0;
    for (int i = 0; i < PS_MAX_FRAMES + PS_MAX_FOREIGN && frame; i++) {
        char *fields = ps_frame(walk, frame);
        if (!fields)
            break;
        u64 owner = PS_BYTE(fields, python->owner);
        frame = PS_WORD(fields, python->previous);
        if (owner >= python->first_foreign)
            continue;
        u32 at = *depth;
        if (at >= PS_MAX_FRAMES) {
            frame = 1; /* there is one more than can be told */
            break;
        }
        struct ps_frame *out = &stack->frames[at & (PS_MAX_FRAMES - 1)];
        u64 code = PS_WORD(fields, python->code) & ~(u64)python->tag_mask;
        u64 instruction = PS_WORD(fields, python->instruction) | owner << 56;
        out->code = code;
        out->instruction = instruction;
        out->globals = PS_WORD(fields, python->globals);
        hash = (hash ^ code) * 0x100000001b3ULL;
        hash = (hash ^ instruction) * 0x100000001b3ULL;
        hash ^= hash >> 29;
        *depth = at + 1;
    }
    stack->flags = frame ? PS_STACK_TRUNCATED : 0;
    stack->hash = hash + stack->flags;
}

/* Add the code objects' check values: with other code a stack is another one. */
static __always_inline void ps_add_checks(struct ps_python *python, struct ps_walk *walk,
                                          u64 now_ns)
{
    u64 hash = walk->stack.hash, salt = python->salt;
    if (python->version < 0)
        salt += (now_ns >> PS_MOMENT_SHIFT) * 0x9e3779b97f4a7c15ULL;
    for (int i = 0; i < PS_MAX_FRAMES && i < walk->stack.depth; i++) {
        struct ps_frame *frame = &walk->stack.frames[i];
        frame->check = ps_check(python, walk, frame, salt);
        hash = (hash ^ frame->check) * 0x100000001b3ULL;
        hash ^= hash >> 29;
    }
    walk->stack.hash = hash;
}

/* The key in ps_stacks of the current thread's stack, 0 when it has none. For BTF
 * programs that no other of the kind can interrupt: they share ps_walks. */
static __always_inline u32 ps_stack_of_current(u32 tgid, u64 now_ns)
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
    if (!walk->stack.depth)
        return 0;
    ps_add_checks(python, walk, now_ns);
    u32 key = walk->stack.hash >> 32 | 1; /* never 0 */
    struct ps_stack *known = ps_stacks.lookup(&key);
    if (known)
        return known->hash == walk->stack.hash ? key : 0;
    return ps_stacks.update(&key, &walk->stack) ? 0 : key;
}
