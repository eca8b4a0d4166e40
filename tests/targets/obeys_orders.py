"""Does what stdin says, on an asyncio loop: whatever triggers are to notice. Answers in JSON.

Lines: ``stall SECONDS`` (a callback that sleeps), ``await SECONDS`` (a task that waits as it
should), ``grow MB``, ``threads N``, ``deadlock``, ``park SECONDS`` (a thread waits for a lock),
``fill N`` (objects), ``fork`` and ``exec`` (a child, or this process, begins anew).
"""

import asyncio
import json
import os
import sys
import threading
import time

KEPT = []
NEVER = threading.Event()


def say(what):
    """One line."""
    print(json.dumps(what), flush=True)


def begin(*targets):
    """Threads for these; their TIDs."""
    threads = [threading.Thread(target=target, args=more, daemon=True) for target, *more in targets]
    for thread in threads:
        thread.start()
    return [thread.native_id for thread in threads]


def both(first, second, met):
    """Takes one lock, meets the other thread, takes the other lock: for ever."""
    with first:
        met.wait()
        with second:
            pass


def hold(lock, entered, seconds):
    """Has the lock and sleeps."""
    with lock:
        entered.set()
        time.sleep(seconds)


def wait_for(lock):
    """Waits for it."""
    with lock:
        pass


def park(seconds):
    """A thread that waits for a lock so long."""
    lock, entered = threading.Lock(), threading.Event()
    (holder,) = begin((hold, lock, entered, seconds))
    entered.wait()
    (waiter,) = begin((wait_for, lock))
    return {"waiter": waiter, "holder": holder}


def be_a_child(seconds):
    """Parks, and ends without a word to the loop that it has copied."""
    say({"child": os.getpid(), **park(seconds)})
    time.sleep(seconds)
    os._exit(0)


def stall(seconds):
    """What no callback should do."""
    time.sleep(seconds)
    say({"stalled": seconds})


async def obey(order, value):
    """One order; what is answered."""
    if order == "stall":
        asyncio.get_running_loop().call_soon(stall, float(value))
        return {"pid": os.getpid()}
    if order == "await":
        await asyncio.sleep(float(value))
    elif order == "grow":
        KEPT.append(bytearray(int(value) << 20))
        KEPT[-1][::4096] = b"x" * len(KEPT[-1][::4096])
    elif order == "threads":
        begin(*[(NEVER.wait,)] * int(value))
    elif order == "fill":
        KEPT.append([{"number": number} for number in range(int(value))])
    elif order == "deadlock":
        one, other, met = threading.Lock(), threading.Lock(), threading.Barrier(2)
        return {"tids": begin((both, one, other, met), (both, other, one, met))}
    elif order == "park":
        return park(float(value))
    elif order == "fork":
        child = os.fork()
        if not child:
            be_a_child(float(value))
    elif order == "exec":
        os.execv(sys.executable, [sys.executable, "-u", __file__])
    return {"done": order}


async def main():
    """Do as told until stdin ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print("ready", flush=True)
    while line := await reader.readline():
        order, _, value = line.decode().strip().partition(" ")
        say(await obey(order, value))


asyncio.run(main())
