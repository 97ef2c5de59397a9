"""Tests run torch on one thread: small networks gain nothing by two, and lose on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there, and for child processes
