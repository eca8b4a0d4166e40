"""Everything in the standard library that waits by design, and one consumer that starves.

Says ``ready`` once all have come to their waits; its main function then ends.
"""

import asyncio
import concurrent.futures
import http.server
import logging.handlers
import multiprocessing
import queue
import threading
import time


def work(items):
    while True:
        items.get()


def main():
    threads = concurrent.futures.ThreadPoolExecutor(3, thread_name_prefix="threads")
    list(threads.map(time.sleep, [0.05] * 3))
    processes = concurrent.futures.ProcessPoolExecutor(2)
    list(processes.map(int, range(8)))
    pool = multiprocessing.Pool(2)
    pool.map(int, range(8))
    fed = multiprocessing.Queue()
    fed.put(1)
    fed.get()
    for items in (queue.Queue(), queue.SimpleQueue()):
        logging.handlers.QueueListener(items).start()
    threading.Timer(1000, print).start()
    handler = http.server.SimpleHTTPRequestHandler
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 30}).start()
    threading.Thread(target=lambda: asyncio.run(asyncio.sleep(1000))).start()
    threading.Thread(target=work, args=(queue.Queue(),), name="worker").start()
    threading.Thread(target=work, args=(queue.Queue(),), name="starved").start()
    print("ready", flush=True)
    threading.Thread(target=threading.Event().wait, name="stuck").start()
    threading.Event().wait(1000)


if __name__ == "__main__":
    main()
