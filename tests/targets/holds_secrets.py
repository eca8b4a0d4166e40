"""Holds values that are nobody's business, and names that are: says "ready", stands still."""

import threading


class Account:
    def __init__(self, token):
        self.token = token
        self.history = [{"opened by": "some-" + "user-4711"}]


ACCOUNTS = [Account("token-" + str(number) + "-s3cr3t") for number in range(50)]


def wait(account_in_hand):
    print("ready", flush=True)
    while True:
        threading.Event().wait(3600)


threading.Thread(target=wait, args=(ACCOUNTS[0],), name="keeper").start()
