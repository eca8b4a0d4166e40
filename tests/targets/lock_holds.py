"""Ways to hold a lock, for ``lock_waits.py``: each takes it, says so, and stays for ever."""

import contextlib
import threading
import time

import lock_app

forever = threading.Event()


def park():
    forever.wait()


def deep(depth, function):
    return deep(depth - 1, function) if depth else function()


# Ways to hold a lock inside of a ``with`` body: the holder has to be found.


def plain(lock, there):
    with lock:
        there()
        park()


def far_below(lock, there):
    with lock:
        deep(60, lambda: (there(), park()))


def in_a_loop(lock, there):
    other = threading.Lock()
    for one in (other, lock):
        with one:
            if one is lock:
                there()
                park()


def in_an_expression(lock, there):
    for number in range(1, 3):
        with contextlib.nullcontext(), lock as _:
            [number, str(number), there(), max(number, park() or 1)]


def in_finally(lock, there):
    with lock:
        try:
            there()
        finally:
            park()


def in_a_handler(lock, there):
    with lock:
        try:
            raise ValueError("caught inside")
        except ValueError:
            with contextlib.suppress(KeyError):
                there()
                park()


def after_another(lock, there):
    other = threading.Lock()
    with other:
        pass
    with lock:
        there()
        park()


def running_generator(lock, there):
    def generate():
        with lock:
            there()
            park()
            yield

    next(generate())


class Manager:
    def hold(self, lock, there):
        cell = [lock]
        inner = lambda: (cell, self, there(), park())  # noqa: E731 - a frame between
        with lock:
            inner()


def on_the_processor(lock, there):
    with lock:
        there()
        while True:
            time.sleep(0.0001)


def releases_others(lock, there):
    """Names ``release``, but of other things: by variable, attribute, global and closure."""
    semaphore, other = threading.Semaphore(0), threading.Lock()
    pool = lock_app.POOL2 = lock_app.Pool()

    def closure():
        other.release()
        park()

    with lock:
        for one in (other, pool._lock):
            one.acquire()
        semaphore.release()
        pool._lock.release()
        other.release()
        other.acquire()
        there()
        closure()


# Ways that leave no proof: the holder is right or none.


def acquired(lock, there):
    lock.acquire()
    there()
    park()


def suspended_generator(lock, there):
    def generate():
        with lock:
            yield

    kept = generate()
    next(kept)
    there()
    park()


def exit_stack(lock, there):
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock)
        there()
        park()


def context_manager(lock, there):
    @contextlib.contextmanager
    def locked():
        with lock:
            yield

    with locked():
        there()
        park()


def let_go_inside(lock, there):
    """Holds nothing: it let go of the lock, which another thread took."""
    with lock:
        lock.release()
        taker = threading.Thread(target=acquired, args=(lock, there), daemon=True)
        taker.start()
        park()


def let_go_by_attribute(lock, there):
    """The same, through an attribute of a global."""
    lock_app.HOLDER = holder = lock_app.Pool()
    holder._lock = lock
    with holder._lock:
        lock_app.HOLDER._lock.release()
        taker = threading.Thread(target=acquired, args=(lock, there), daemon=True)
        taker.start()
        park()


def let_go_by_a_closure(lock, there):
    """The same, in a function inside."""

    def inside():
        lock.release()
        taker = threading.Thread(target=acquired, args=(lock, there), daemon=True)
        taker.start()
        park()

    with lock:
        inside()


def waits_inside(lock, there):
    """Holds nothing while it waits for a condition on the same lock, which another one took."""
    condition = threading.Condition(lock)
    with lock:
        taker = threading.Thread(target=acquired, args=(lock, there), daemon=True)
        taker.start()
        condition.wait()


def ended(lock, there):
    with contextlib.suppress(ValueError), lock:
        raise ValueError("left by an exception")
    lock.acquire()
    there()
    park()
