"""Large containers and large buffers: says where the tables and the buffers lie.

After ``ready`` one line of JSON: ``tables`` and ``buffers``, each ``name: [address, bytes,
SHA-256]``; ``heads``, the first 32 bytes of objects that begin such memory.
"""

import array
import ctypes
import hashlib
import json
import os
import sys

COUNT = 250_000


def pointer(address):
    return ctypes.c_uint64.from_address(address).value


def about(address, size):
    return [address, size, hashlib.sha256(ctypes.string_at(address, size)).hexdigest()]


def buffer_of(one):
    return ctypes.addressof((ctypes.c_char * len(one)).from_buffer(one))


numbers = [float(i) for i in range(COUNT * 3)]
by_number = {i * 3: None for i in range(COUNT)}
by_name = {str(i): i for i in range(COUNT)}
some = {i * 7 for i in range(COUNT)}
together = tuple(numbers)
sparse = dict.fromkeys(range(COUNT))
for i in range(COUNT):
    if i % 1000:
        del sparse[i]

noise = array.array("Q", os.urandom(48 << 20))
text = b"0123456789abcdef" * (3 << 20)
pixels = bytearray(os.urandom(1 << 20)) * 24
zeros = bytearray(16 << 20)
zeros[::4096] = b"\1" * len(zeros[::4096])

tables = {
    "list": about(pointer(id(numbers) + 24), len(numbers) * 8),
    "tuple": about(id(together), together.__sizeof__()),
    "set": about(pointer(id(some) + 40), sys.getsizeof(some) - sys.getsizeof(set())),
}
for name, one in (("dict", by_number), ("names", by_name), ("sparse", sparse)):
    tables[name] = about(pointer(id(one) + 32), one.__sizeof__() - {}.__sizeof__())
buffers = {
    "array": about(noise.buffer_info()[0], 48 << 20),
    "bytes": about(id(text), sys.getsizeof(text)),
    "bytearray": about(buffer_of(pixels), len(pixels)),
    "zeros": about(buffer_of(zeros), len(zeros)),
}
print("ready")
print(
    json.dumps(
        {
            "tables": tables,
            "buffers": buffers,
            "heads": [[id(one), ctypes.string_at(id(one), 32).hex()] for one in (text, together)],
        }
    )
)
sys.stdin.read()
