"""Threads that wait for locks of many kinds, for ever; says what each waits for and who has it.

One JSON object on stdout: {native id of a waiter: {"scene", "type", "address", "names" (any of
them is right; null is for "none can be told"), "holder" (native id, null), "proof" (whether
the holder has to be found: with-held, owned, joined), "suspect" (whether it has to be a
candidate), "timed", "innermost" (function, line)}}.
Then it stays as it is until it is killed.
"""

import concurrent.futures
import json
import sys
import threading
import time

import lock_app
from lock_holds import (
    Manager,
    acquired,
    after_another,
    context_manager,
    ended,
    exit_stack,
    far_below,
    forever,
    in_a_handler,
    in_a_loop,
    in_an_expression,
    in_finally,
    let_go_by_a_closure,
    let_go_by_attribute,
    let_go_inside,
    on_the_processor,
    park,
    plain,
    releases_others,
    running_generator,
    suspended_generator,
    waits_inside,
)

waiters = {}


def run(function, name):
    """Run a function in a thread; it is called with a function to say that it has got there."""
    there = threading.Event()
    thread = threading.Thread(target=function, args=(there.set,), name=name, daemon=True)
    thread.start()
    there.wait()
    return thread


def wait(scene, function, kind, thing, names, holder=None, proof=False, timed=False):
    """A thread that waits."""
    there = threading.Event()

    def waiter():
        waiters[threading.get_native_id()] = {
            "scene": scene,
            "type": kind,
            "address": id(thing),
            "names": names,
            "holder": None if holder is None else holder.native_id,
            "proof": proof,
            "suspect": False,
            "timed": timed,
        }
        there.set()
        function()

    thread = threading.Thread(target=waiter, name=f"waits {scene}", daemon=True)
    thread.start()
    there.wait()
    return thread


def wait_for_lock(scene, lock, names, holder=None, proof=False):
    """Two waiters: in a ``with``, and in an ``acquire`` with a time limit."""

    def in_with():
        with lock:
            raise AssertionError(scene)

    def in_acquire():
        lock.acquire(timeout=10000)
        raise AssertionError(scene)

    kind = {"lock": "Lock", "RLock": "RLock"}[type(lock).__name__]
    wait(scene, in_with, kind, lock, names, holder, proof)
    wait(scene + " (acquire)", in_acquire, kind, lock, names, holder, proof, timed=True)


def held(scene, lock, hold, names, proof=True):
    """A lock that a thread holds in some way, and two waiters for it."""
    holder = run(lambda there: hold(lock, there), f"holds {scene}")
    wait_for_lock(scene, lock, names, holder, proof)


def locks():
    app = lock_app
    held("module global", app.CACHE_LOCK, plain, ["lock_app.CACHE_LOCK"])
    held("instance attribute", app.POOL._lock, far_below, ["lock_app.POOL._lock"])
    held("attribute in a dict", app.SLIM._lock, in_a_loop, ["lock_app.SLIM._lock"])
    shared = ["lock_app.Pool.shared"]
    held("class attribute", app.Pool.shared, in_an_expression, shared)
    held("item of a dict", app.BY_NAME["orders"], in_finally, ["lock_app.BY_NAME['orders']"])
    held("item of a dict by number", app.BY_NAME[7], in_a_handler, ["lock_app.BY_NAME[7]"])
    held("item of a list", app.IN_ORDER[1], after_another, ["lock_app.IN_ORDER[1]"])
    mutex = ["lock_app.JOBS.mutex"]
    held("a queue's mutex", app.JOBS.mutex, running_generator, mutex)
    held("method", app.IN_ORDER[0], Manager().hold, ["lock_app.IN_ORDER[0]"])
    condition = ["lock_app.POOL.queue.mutex"]
    app.THERE = threading.Lock()
    held("with other releases", app.THERE, releases_others, ["lock_app.THERE"])
    held("two steps away", app.POOL.queue.mutex, on_the_processor, condition)
    for hold in (acquired, suspended_generator, exit_stack, context_manager, ended):
        lock = threading.Lock()
        held(hold.__name__, lock, hold, [None, *local(hold)], proof=False)
        if hold is not suspended_generator:  # which looks like nothing from outside
            for waiter in waiters.values():
                waiter["suspect"] |= waiter["address"] == id(lock)


def local(hold):
    """A local variable of the waiter or of the holder is all that such a lock has."""
    functions = [one.__code__ for one in (hold, held, wait_for_lock, acquired)]
    inside = [one for one in wait_for_lock.__code__.co_consts if hasattr(one, "co_qualname")]
    return [
        f'local "lock" of {code.co_qualname}'
        f" ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"
        for code in functions + inside
    ]


def not_held():
    """Bodies whose thread does not hold the lock: nobody but the taker is right."""
    for hold in (let_go_inside, let_go_by_attribute, let_go_by_a_closure, waits_inside):
        lock = threading.Lock()
        run(lambda there, lock=lock, hold=hold: hold(lock, there), hold.__name__)
        taker = max(threading.enumerate(), key=lambda one: one.native_id or 0)
        names = [None, *local(hold)]
        if hold is let_go_by_attribute:
            names = ["lock_app.HOLDER._lock"]
        wait_for_lock(hold.__name__, lock, names, taker)


def recursive():
    owner = run(lambda there: acquired(lock_app.STATE_LOCK, there), "owns")
    wait_for_lock("RLock", lock_app.STATE_LOCK, ["lock_app.STATE_LOCK"], owner, proof=True)
    inner = lock_app.CHANGED._lock
    holder = run(lambda there: plain(lock_app.CHANGED, there), "holds a condition")

    def with_condition():
        with lock_app.CHANGED:
            raise AssertionError

    names = ["lock_app.CHANGED._lock"]
    wait("a condition's lock", with_condition, "RLock", inner, names, holder, proof=True)


def itself():
    """A thread that waits for what it holds."""
    lock = lock_app.TICKETS_LOCK = threading.Lock()

    def again():
        with lock, lock:
            raise AssertionError

    names = ["lock_app.TICKETS_LOCK"]
    thread = wait("recursion", again, "Lock", lock, names, proof=True)
    waiters[thread.native_id]["holder"] = thread.native_id


def others():
    app = lock_app
    app.FULL.put(1)
    app.UNDONE.put(1)
    app.TICKETS.acquire()
    app.MORE = threading.Condition()

    def on_condition():
        with app.MORE:
            app.MORE.wait(10000)

    def on_predicate():
        with app.MORE:
            app.MORE.wait_for(lambda: False)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    began = threading.Event()

    def work():
        began.set()
        park()

    app.FUTURE = pool.submit(work)
    began.wait()
    (worker,) = pool._threads
    sleeper = run(lambda there: (there(), park()), "sleeper")
    scenes = (
        ("Condition", on_condition, app.MORE, "MORE", True),
        ("Condition", on_predicate, app.MORE, "MORE", False),
        ("Event", app.STARTED.wait, app.STARTED, "STARTED", False),
        ("Semaphore", app.PLACES.acquire, app.PLACES, "PLACES", False),
        ("Semaphore", lambda: app.TICKETS.acquire(timeout=10000), app.TICKETS, "TICKETS", True),
        ("Barrier", lambda: app.GATE.wait(10000), app.GATE, "GATE", True),
        ("Queue", app.JOBS2.get, app.JOBS2, "JOBS2", False),
        ("Queue", lambda: app.FULL.put(2), app.FULL, "FULL", False),
        ("Queue", app.UNDONE.join, app.UNDONE, "UNDONE", False),
        ("Queue", lambda: app.SIMPLE.get(timeout=10000), app.SIMPLE, "SIMPLE", True),
    )
    for kind, function, thing, name, timed in scenes:
        wait(f"{kind} {name}", function, kind, thing, [f"lock_app.{name}"], timed=timed)
    wait(
        "Future", app.FUTURE.result, "Future", app.FUTURE, ["lock_app.FUTURE"],
        worker, proof=True,
    )  # fmt: skip
    wait("join", sleeper.join, "Thread", sleeper, ["sleeper"], sleeper, proof=True)
    wait(
        "join with a limit", lambda: sleeper.join(10000), "Thread", sleeper, ["sleeper"],
        sleeper, proof=True, timed=True,
    )  # fmt: skip


def positions():
    """Where every thread stands: {native id: (function, line, instruction)}."""
    ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
    return {
        ids[ident]: (frame.f_code.co_qualname, frame.f_lineno, frame.f_lasti)
        for ident, frame in sys._current_frames().items()
        if ids.get(ident) in waiters
    }


def settled():
    """The same, once it has not changed for a while."""
    last, same = None, 0
    while same < 10:
        time.sleep(0.02)
        now = positions()
        same, last = (same + 1 if now == last else 0), now
    return last


lock_app.JOBS2 = lock_app.queue.Queue()
locks()
not_held()
recursive()
itself()
others()
for tid, (function, line, _) in settled().items():
    waiters[tid]["innermost"] = [function, line]
print(json.dumps(waiters), flush=True)
while True:
    sys.stdout.flush()
    forever.wait()
