"""A realistic heap: syntax trees of the standard library, each node linked to its parent.

usage: syntax_trees.py HOW_MANY_NODES. Says "ready", then stands still.
"""

import ast
import gc
import glob
import os
import sys
import time


def trees(wanted):
    kept = []
    files = sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "**/*.py"), recursive=True))
    while wanted > 0:
        for name in files:
            try:
                with open(name, encoding="utf-8") as stream:
                    tree = ast.parse(stream.read())
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    vars(child)["parent"] = node
                    wanted -= 1
            kept.append(tree)
            if wanted <= 0:
                break
    return kept


gc.disable()
KEPT = trees(int(sys.argv[1]))
gc.enable()
print("ready", flush=True)
while True:
    time.sleep(3600)
