"""A web application for gunicorn (WSGI) and uvicorn (ASGI); ``/stall`` waits for a lock."""

import threading
import time

HOLD_S = 1.0
_lock = threading.Lock()


def stall():
    """Wait for a lock that another thread holds for a second; return when (ns)."""
    held = threading.Event()

    def hold():
        with _lock:
            held.set()
            time.sleep(HOLD_S)

    threading.Thread(target=hold, name="holder", daemon=True).start()
    held.wait()
    start_ns = time.monotonic_ns()
    with _lock:
        return f"{start_ns} {time.monotonic_ns()}"


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(stall() if environ["PATH_INFO"] == "/stall" else "ok").encode()]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = stall() if scope["path"] == "/stall" else "ok"
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
