"""What ``lock_waits.py`` waits on: locks that live in many kinds of places."""

import queue
import threading

CACHE_LOCK = threading.Lock()
STATE_LOCK = threading.RLock()
CHANGED = threading.Condition()
STARTED = threading.Event()
PLACES = threading.Semaphore(0)
TICKETS = threading.BoundedSemaphore(1)
GATE = threading.Barrier(20)
JOBS = queue.Queue()
FULL = queue.PriorityQueue(1)
UNDONE = queue.LifoQueue()
SIMPLE = queue.SimpleQueue()


class Pool:
    """A lock as an instance attribute, reached through a module global."""

    shared = threading.Lock()

    def __init__(self):
        self._lock = threading.Lock()
        self.queue = queue.Queue(1)


class Slim(Pool):
    """The same with its attributes in a dict of its own."""

    def __init__(self):
        super().__init__()
        self.__dict__["materialised"] = 1


POOL = Pool()
SLIM = Slim()
BY_NAME = {"orders": threading.Lock(), 7: threading.Lock()}
IN_ORDER = [threading.Lock(), threading.Lock()]
