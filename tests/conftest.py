"""Run torch on one thread: two do not speed small networks up, and slow a busy machine down."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there, and for child processes
