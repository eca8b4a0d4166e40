"""A Flask application whose database pool has two connections: ``/report`` keeps one for long."""

import socket

from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

app = Flask(__name__)
engine = create_engine(
    "sqlite://",
    poolclass=QueuePool,
    pool_size=2,
    max_overflow=0,
    pool_timeout=30,
)


@app.route("/")
def index():
    return "ok"


@app.route("/report/<int:port>")
def report(port):
    """Keep a connection while a slow service is asked."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        with socket.create_connection(("127.0.0.1", port)) as service:
            return service.recv(100).decode()


@app.route("/users")
def users():
    with engine.connect() as connection:
        return str(connection.execute(text("select 1")).scalar())
