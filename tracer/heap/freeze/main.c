/* The command line, the two processes and the clock between them, the answer in JSON. */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIFELINE 0            /* stdin: its end means that nobody wants the image any more */
#define ANSWER 1
#define TICK_NS 2000000       /* how often the supervisor looks at the clock */
#define WINDOW_GRACE 100      /* deadlines that a thread in the dangerous window is given */
#define AFTER_OTHERS 10       /* nice(2) */
#define GROUP_AFTER_OTHERS 5  /* a third of what another session gets */
#define PROGRESS_NS 50000000ULL

bool precopy_possible(void);

struct shared *shared;
struct options options;
struct facts facts;
enum place standing;
static char error_code[32], error_text[MAX_TEXT];
static const char *notes[8];
static int note_count;

u64 now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (u64)time.tv_sec * 1000000000 + (u64)time.tv_nsec;
}

/* Remember what went wrong first. Always -1. */
int oops(const char *code, const char *format, ...) {
    if (error_code[0])
        return -1;
    va_list list;
    va_start(list, format);
    snprintf(error_code, sizeof error_code, "%s", code);
    vsnprintf(error_text, sizeof error_text, format, list);
    va_end(list);
    return -1;
}

void note(const char *text) {
    if (note_count < 8)
        notes[note_count++] = text;
}

bool abandoned(void) {
    struct pollfd line = {.fd = LIFELINE};
    return getppid() != options.supervisor ||
           (poll(&line, 1, 0) > 0 && line.revents & (POLLHUP | POLLERR | POLLNVAL));
}

/* A place where a test may have somebody killed (PARKSCOPE_FREEZE_FAULT=action@step). */
void step(const char *name) {
    if (!options.fault_step || strcmp(name, options.fault_step))
        return;
    options.fault_step = NULL;
    switch (options.fault_action) {
    case 'i': kill(getpid(), SIGKILL); break;
    case 's': kill(options.supervisor, SIGKILL); break;
    case 't': kill(options.tracer, SIGKILL); break;
    case 'h':
        for (;;)
            pause();
    }
}

/* --- the answer ---------------------------------------------------------------------------------- */

struct text {
    char *bytes;
    size_t length, room;
};

static void put(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *text, const char *format, ...) {
    for (;;) {
        va_list list;
        va_start(list, format);
        int wanted = vsnprintf(text->bytes + text->length, text->room - text->length, format, list);
        va_end(list);
        if (wanted >= 0 && text->length + (size_t)wanted < text->room) {
            text->length += (size_t)wanted;
            return;
        }
        text->room = 2 * text->room + (size_t)wanted + 65536;
        text->bytes = realloc(text->bytes, text->room);
        if (!text->bytes)
            abort();
    }
}

/* A string of bytes, each as the character of its number: paths are in no encoding. */
static void put_string(struct text *text, const char *bytes) {
    put(text, "\"");
    for (; *bytes; bytes++) {
        unsigned char c = (unsigned char)*bytes;
        if (c < 32 || c == '"' || c == '\\' || c > 126)
            put(text, "\\u%04x", c);
        else
            put(text, "%c", c);
    }
    put(text, "\"");
}

static void send_text(struct text *text) {
    put(text, "\n");
    for (size_t at = 0; at < text->length;) {
        ssize_t sent = write(ANSWER, text->bytes + at, text->length - at);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            break;
        at += (size_t)sent;
    }
    free(text->bytes);
}

static void send_error(const char *code, const char *detail) {
    struct text text = {0};
    put(&text, "{\"error\":");
    put_string(&text, code);
    put(&text, ",\"detail\":");
    put_string(&text, detail);
    put(&text, "}");
    send_text(&text);
}

void say_progress(const char *phase, u64 done, u64 total) {
    static u64 said;
    u64 now = now_ns();
    if (now - said < PROGRESS_NS)
        return;
    said = now;
    struct text text = {0};
    put(&text, "{\"phase\":\"%s\",\"done\":%llu,\"total\":%llu}", phase, (unsigned long long)done,
        (unsigned long long)total);
    send_text(&text);
}

static void put_plan(struct text *text, const struct plan *plan) {
    put(text, ",\"size\":%llu,\"segments\":[", (unsigned long long)plan->size);
    for (size_t i = 0; i < plan->count; i++) {
        const struct segment *one = &plan->items[i];
        put(text, "%s[%llu,%llu,%llu,%s,", i ? "," : "", (unsigned long long)one->start,
            (unsigned long long)one->end, (unsigned long long)one->offset,
            one->writable ? "true" : "false");
        put_string(text, one->path);
        put(text, "]");
    }
    put(text, "],\"skipped\":[");
    for (size_t i = 0; i < plan->skip_count; i++) {
        const struct skip *one = &plan->skips[i];
        put(text, "%s[%llu,%llu,", i ? "," : "", (unsigned long long)one->start,
            (unsigned long long)one->end);
        put_string(text, one->path ? one->path : "");
        put(text, ",");
        put_string(text, one->reason);
        put(text, one->cut ? ",true]" : ",false]");
    }
    put(text, "]");
}

static void send_result(const struct plan *plan) {
    struct text text = {0};
    put(&text, "{\"ok\":{\"pause_ns\":%llu,\"window_ns\":%llu,\"frozen_ns\":%llu,",
        (unsigned long long)facts.pause, (unsigned long long)facts.window,
        (unsigned long long)facts.frozen_at);
    put(&text, "\"bytes_copied\":%llu,\"dirty_bytes\":%llu,\"rounds\":%d,\"threads\":%d,"
               "\"gc_retries\":%d,\"stops_ns\":[",
        (unsigned long long)facts.copied, (unsigned long long)facts.dirty, facts.rounds,
        facts.threads, facts.retries);
    for (int i = 0; i < facts.stop_count; i++)
        put(&text, "%s%llu", i ? "," : "", (unsigned long long)facts.stops[i]);
    put(&text, "],\"notes\":[");
    for (int i = 0; i < note_count; i++) {
        put(&text, "%s", i ? "," : "");
        put_string(&text, notes[i]);
    }
    put(&text, "]");
    put_plan(&text, plan);
    put(&text, "}}");
    send_text(&text);
}

/* --- a look beforehand ---------------------------------------------------------------------------- */

/* How much there is, for the choice of the engine and the look at the memory that is left. */
int engine_survey(struct plan *plan) {
    struct maps maps = {0};
    struct pages pages;
    struct regions found = {0};
    hurry(AMONG); /* the moment may matter, and this is little beside what follows */
    int status = maps_read(options.pid, &maps);
    if (status)
        return oops(status == -EACCES ? "permission" : "gone", "%s", strerror(-status));
    if (plan_make(options.pid, &maps, plan) || pages_open(options.pid, &pages) ||
        pages_of_plan(&pages, plan, IS_HUGE, &found))
        return -1;
    u64 all = regions_bytes(&found), huge = 0, elf = 0;
    for (size_t i = 0; i < found.count; i++)
        if (found.items[i].categories & IS_HUGE)
            huge += found.items[i].end - found.items[i].start;
    for (size_t i = 0; i < plan->count; i++)
        elf += plan->items[i].elf ? plan->items[i].end - plan->items[i].start : 0;
    size_t skips = plan->skip_count;
    hurry(LAST);
    if (options.skip_foreign && foreign_cut(options.pid, &pages, &maps, plan))
        return oops("abandoned", "the dump was given up");
    /* Listed again only where it has changed: that takes a call for each thread's stack. */
    if (plan->skip_count != skips && pages_of_plan(&pages, plan, 0, &found))
        return -1;
    struct text text = {0};
    put(&text, "{\"ok\":{\"present\":%llu,\"huge\":%llu,\"copied\":%llu,\"elf\":%llu,",
        (unsigned long long)all, (unsigned long long)huge,
        (unsigned long long)regions_bytes(&found), (unsigned long long)elf);
    put(&text, "\"clone_price\":%llu,\"precopy\":%s,\"gadget\":%s}}",
        (unsigned long long)clone_price(all - huge), precopy_possible() ? "true" : "false",
        find_gadget(options.pid, &maps) ? "true" : "false");
    send_text(&text);
    return 0;
}

/* --- the worker ------------------------------------------------------------------------------------- */

static const struct engine {
    const char *name;
    int (*run)(struct plan *plan);
} ENGINES[] = {
    {"survey", engine_survey},
    {"stop-and-copy", engine_copy},
    {"clone", engine_clone},
    {"precopy", engine_precopy},
};

/* Only the alarm interrupts us: a terminal's Ctrl-C ends the tracer, and so the lifeline. */
static void block_signals(void) {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

/* Where the scheduler groups tasks by session (sched(7), autogroup), niceness counts within a
 * session only, and ours is one of its own: the group has a niceness, too. */
static void nice_group(int nice) {
    int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    dprintf(fd, "%d", nice);
    close(fd);
}

static bool put_thread(pid_t tid, enum place place) {
    struct sched_param parameter = {.sched_priority = place == FIRST};
    int policy = place == FIRST ? SCHED_FIFO : SCHED_OTHER;
    if (sched_setscheduler(tid, policy | SCHED_RESET_ON_FORK, &parameter))
        return false;
    if (place != FIRST)
        setpriority(PRIO_PROCESS, (id_t)tid, place == LAST ? AFTER_OTHERS : 0);
    return true;
}

/* Where we and our helpers stand among others: at the end whichever of us is the last gives
 * gigabytes back, and may not do that before everybody. Who may not go first could not come
 * back from the last place either, and stays where everybody is. */
void hurry(enum place place) {
    static bool allowed = true;
    standing = place;
    allowed = allowed && put_thread(0, place);
    for (int hand = 1; allowed && hand < MAX_HANDS; hand++)
        if (crew_member(hand))
            put_thread(crew_member(hand), place);
    if (allowed && place != FIRST)
        nice_group(place == LAST ? GROUP_AFTER_OTHERS : 0);
}

/* Should memory run out, the worst moment to be killed is while a thread is borrowed. Only
 * root may ask for this; what the image takes is freed by killing the tracer. */
static void protect_from_oom(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "-1000", 5);
    close(fd);
}

/* When the process began, and where its stack did (0: it may not be known), which is another
 * place after each exec. False: there is no such process. */
static bool read_identity(u64 *began, u64 *stack) {
    char name[64], text[1024];
    snprintf(name, sizeof name, "/proc/%d/stat", options.pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return false;
    text[got] = 0;
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 28; field++) {
        at = strchr(at + 1, ' ');
        if (at && field == 21)
            *began = strtoull(at, NULL, 10);
    }
    *stack = at ? strtoull(at, NULL, 10) : 0;
    return at != NULL;
}

static int work(bool cleaning) {
    struct plan plan = {0};
    mlockall(MCL_CURRENT); /* no page of ours is to be fetched while the target stands still */
    int status = 0;
    u64 began = 0, stack = 0, later = 0, other = 0;
    if (!read_identity(&began, &stack) || (options.start_ticks && began != options.start_ticks))
        status = oops("gone", "the process has exited");
    else if (cleaning)
        status = clean_up();
    else {
        const struct engine *engine = ENGINES;
        while (strcmp(engine->name, options.engine))
            engine++;
        status = engine->run(&plan);
        if (!status && engine->run != engine_survey) {
            if (read_identity(&later, &other) && (later != began || other != stack))
                status = oops("gone", "the process replaced its program meanwhile");
            else if (ftruncate(options.memfd, (off_t)plan.size))
                status = oops("memory", "the image file cannot be cut to its size");
            else
                send_result(&plan);
        }
    }
    if (status && !cleaning)
        send_error(error_code, error_text);
    atomic_store(&shared->sent, 1);
    store_close();
    return status ? 1 : 0;
}

/* --- the supervisor --------------------------------------------------------------------------------- */

static pid_t start_worker(bool cleaning) {
    pid_t pid = fork();
    if (pid)
        return pid;
    if (cleaning)
        options.fault_step = NULL;
    hurry(FIRST);
    hurry(LAST);
    _exit(work(cleaning));
}

/* A stop that lasts too long is ended with its worker: the kernel lets the target go. In the
 * dangerous window it waits on, for the system call ends by itself; killed at last. */
static bool is_overdue(pid_t worker) {
    int64_t since = atomic_load(&shared->stopped_at);
    if (!since)
        return false;
    int64_t held = (int64_t)now_ns() - since, limit = (int64_t)options.deadline_ns;
    if (held < limit)
        return false;
    if (atomic_load(&shared->window) && held < WINDOW_GRACE * limit) {
        kill(worker, SIGCONT); /* somebody may have stopped it */
        return false;
    }
    kill(worker, SIGKILL);
    return true;
}

/* Exit status of the worker, or -1: it was killed, by us if it was overdue. */
static int supervise(pid_t worker, bool *overdue) {
    struct timespec tick = {0, TICK_NS};
    for (;;) {
        int status;
        pid_t got = waitpid(worker, &status, WNOHANG);
        if (got == worker)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        if (got < 0)
            return -1;
        *overdue |= is_overdue(worker);
        nanosleep(&tick, NULL);
    }
}

static bool parse(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (!value)
            return false;
        size_t length = (size_t)(value++ - words[i]);
        u64 number = strtoull(value, NULL, 0);
#define IS(name) (length == sizeof name - 1 && !memcmp(words[i], name, length))
        if (IS("engine")) options.engine = value;
        else if (IS("pid")) options.pid = (pid_t)number;
        else if (IS("start")) options.start_ticks = number;
        else if (IS("memfd")) options.memfd = (int)number;
        else if (IS("deadline")) options.deadline_ns = number;
        else if (IS("dirty")) options.dirty_limit = number;
        else if (IS("interpreters")) options.interpreters = number;
        else if (IS("next")) options.interp_next = number;
        else if (IS("collecting")) options.interp_collecting = number;
        else if (IS("tries")) options.tries = (int)number;
        else if (IS("foreign")) options.skip_foreign = number == 0;
        else return false;
#undef IS
    }
    for (size_t i = 0; options.engine && i < sizeof ENGINES / sizeof *ENGINES; i++)
        if (!strcmp(ENGINES[i].name, options.engine))
            return options.pid > 1;
    return false;
}

int main(int count, char **words) {
    options = (struct options){.memfd = -1, .deadline_ns = 100000000, .dirty_limit = ~0ULL / 4,
                               .tries = 20, .tracer = getppid()};
    if (!parse(count, words)) {
        fprintf(stderr, "parkscope-freeze: started by Parkscope, with NAME=VALUE arguments\n");
        return 2;
    }
    const char *fault = getenv("PARKSCOPE_FREEZE_FAULT"), *at = fault ? strchr(fault, '@') : NULL;
    if (at)
        options.fault_action = fault[0], options.fault_step = at + 1;
    protect_from_oom();
    setsid(); /* a terminal's Ctrl-Z must not stop us while we hold the target */
    block_signals();
    options.supervisor = getpid();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    atomic_store(&shared->remote_fd, -1);
    hurry(FIRST);
    bool overdue = false;
    pid_t worker = start_worker(false);
    int status = worker > 0 ? supervise(worker, &overdue) : 1;
    if (status >= 0)
        return status;
    atomic_store(&shared->stopped_at, 0);
    atomic_store(&shared->window, 0);
    prefer_no_more();
    if (atomic_load(&shared->child) || atomic_load(&shared->remote_fd) >= 0) {
        bool again = false;
        worker = start_worker(true);
        if (worker > 0)
            supervise(worker, &again);
    }
    if (!atomic_load(&shared->sent))
        send_error(overdue ? "deadline" : "killed",
                   overdue ? "the target was held for too long and was let go"
                           : "the injector was killed");
    return 1;
}
