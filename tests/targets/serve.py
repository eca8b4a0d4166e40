"""A server with a thread per connection, and threads that keep its heap moving.

Says ``ready`` and then its port. A request is a line ``N``; the answer is ``N hash``, the
SHA-256 of N lines made anew. ``argv``: megabytes of objects besides.
"""

import hashlib
import socketserver
import sys
import threading
import time


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            number = int(line)
            lines = "\n".join(f"{number}:{i}" for i in range(number % 50))
            answer = hashlib.sha256(lines.encode()).hexdigest()
            self.wfile.write(f"{number} {answer}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def churn(objects):
    at = 0
    while True:
        for _ in range(200):
            at = (at + 7919) % len(objects)
            objects[at] = {"at": at, "list": [at]}
        time.sleep(0.002)


objects = [{"at": i, "list": [i]} for i in range(int(sys.argv[1]) * 2500)]
for _ in range(2):
    threading.Thread(target=churn, args=(objects,), daemon=True).start()
with Server(("127.0.0.1", 0), Handler) as server:
    print("ready")
    print(server.server_address[1])
    server.serve_forever()
