"""Four threads that map, fill, move, grow and unmap memory, and publish what they have.

After ``ready`` one line of JSON: the address of each thread's slot, four words: a sequence
number (odd while the others change), address, size in bytes, and the number that stands
at the start of each page there. The mapping of before is unmapped after publishing.
"""

import array
import ctypes
import json
import sys
import threading

PAGE, PAGES = 4096, 64
READ_WRITE, PRIVATE_ANONYMOUS, MAY_MOVE = 3, 0x22, 1
libc = ctypes.CDLL(None)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def fill(address, first, pages, number):
    for page in range(first, pages):
        ctypes.c_uint64.from_address(address + page * PAGE).value = number


def work(slot):
    number, address, size = 0, 0, 0
    while True:
        number += 1
        fresh = libc.mmap(None, PAGES * PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
        length = PAGES * PAGE
        fill(fresh, 0, PAGES, number)
        if number % 3 == 0:
            fresh, length = libc.mremap(fresh, length, 2 * length, MAY_MOVE), 2 * length
            fill(fresh, PAGES, 2 * PAGES, number)
        slot[0] += 1
        slot[1], slot[2], slot[3] = fresh, length, number
        slot[0] += 1
        if address:
            libc.munmap(address, size)
        address, size = fresh, length


slots = [array.array("Q", [0, 0, 0, 0]) for _ in range(4)]
for slot in slots:
    threading.Thread(target=work, args=(slot,), daemon=True).start()
print("ready")
print(json.dumps([slot.buffer_info()[0] for slot in slots]))
sys.stdin.read()
