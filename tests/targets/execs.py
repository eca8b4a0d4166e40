"""Replaces its program by itself, again and again, after so many milliseconds (``argv``)."""

import os
import sys
import time

print("ready")
time.sleep(float(sys.argv[1]) / 1000)
os.execv(sys.executable, [sys.executable, "-u", *sys.argv])
