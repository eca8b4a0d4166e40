"""Scrapes a URL over and over in some threads until a line comes; says how often it did."""

import sys
import threading
import urllib.request


def scrape(url, done, counts):
    """Read it again and again; what is turned away does not count."""
    count = 0
    while not done.is_set():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                count += answer.read().endswith(b"\n")
        except OSError:
            pass
    counts.append(count)


def main():
    """Until told to stop."""
    done, counts = threading.Event(), []
    threads = [
        threading.Thread(target=scrape, args=(sys.argv[1], done, counts))
        for _ in range(int(sys.argv[2]))
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    done.set()
    for thread in threads:
        thread.join()
    print(sum(counts), flush=True)


main()
