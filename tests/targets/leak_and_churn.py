"""A server with one leak and much that comes and goes. Says "ready" and waits.

Each line on stdin is a number of requests to handle; then "done N" is said, N sessions
kept so far. Sessions are forgotten by nobody. Everything else is bounded: a cache that
evicts, the last answers, jobs that wait, a log that is flushed, each worker's last request.
"""

import collections
import queue
import sys
import threading

SESSIONS = {}
CACHE = collections.OrderedDict()
ANSWERS = collections.deque(maxlen=100)
JOBS = queue.Queue()
LOG = []
CACHE_SIZE = 150


class Session:
    def __init__(self, user):
        self.user = user
        self.history = [f"visit of {user}"]


class Cached:
    def __init__(self, text):
        self.text = text


class Answer:
    def __init__(self, number):
        self.number = number
        self.body = f"answer {number}"


class Job:
    def __init__(self, number):
        self.number = number


class Request:
    def __init__(self, number):
        self.number = number
        self.headers = {"id": str(number)}


class Server:
    def __init__(self):
        self.handled = 0
        self.rounds = 0
        self.last = None

    def handle(self):
        number = self.handled
        self.handled += 1
        self.last = Request(number)
        if number % 5 == 0:
            SESSIONS[f"session {number}"] = Session(f"user {number}")
        CACHE[f"page {number}"] = Cached(f"page {number}")
        while len(CACHE) > CACHE_SIZE:
            CACHE.popitem(last=False)
        ANSWERS.append(Answer(number))
        LOG.append(("request", number, [number]))
        if len(LOG) > 120:
            LOG.clear()

    def run(self, count):
        while not JOBS.empty():
            JOBS.get()
        for _ in range(count):
            self.handle()
        # More wait each time, but others than before.
        self.rounds += 1
        for number in range(20 * self.rounds):
            JOBS.put(Job(number))


def work(server, orders, done):
    while True:
        server.run(orders.get())
        done.put(len(SESSIONS))


def main():
    server, orders, done = Server(), queue.Queue(), queue.Queue()
    for name in ("worker-1", "worker-2"):
        threading.Thread(target=work, args=(server, orders, done), name=name, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        orders.put(int(line))
        print(f"done {done.get()}", flush=True)


if __name__ == "__main__":
    main()
