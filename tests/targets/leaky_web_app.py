"""A Flask application that keeps something of every visit, and says where it listens.

The leak is a visitor's trace in a list of a blueprint's extension; the rest of what a
request makes is gone when it is answered, but for a page cache of 64 entries.
"""

import functools

from flask import Flask, request
from werkzeug.serving import make_server


class Visit:
    def __init__(self, path, agent):
        self.path = path
        self.agent = agent
        self.notes = [path.upper(), agent.lower()]


class Tracker:
    """An extension, as Flask has them."""

    def __init__(self, application):
        self.visits = []
        application.extensions["tracker"] = self
        application.before_request(self.note)

    def note(self):
        self.visits.append(Visit(request.path, request.headers.get("User-Agent", "?")))


@functools.lru_cache(maxsize=64)
def page(name):
    return {"name": name, "text": f"page {name}" * 10}


app = Flask(__name__)
Tracker(app)


@app.route("/page/<name>")
def show(name):
    return page(name)["text"]


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print("ready", flush=True)
    print(server.server_port, flush=True)
    server.serve_forever()
