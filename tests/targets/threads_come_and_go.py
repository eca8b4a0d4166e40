"""Threads that begin and end all the time, and 20 that stay."""

import threading

release = threading.Event()


def churn():
    while True:
        threads = [threading.Thread(target=len, args=("",)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


for number in range(20):
    threading.Thread(target=release.wait, name=f"stays-{number}", daemon=True).start()
for _ in range(2):
    threading.Thread(target=churn, daemon=True).start()
stay = {t.native_id: t.name for t in threading.enumerate() if t.name.startswith("stays")}
print(" ".join(f"{tid}={name}" for tid, name in stay.items()), flush=True)
release.wait()
