"""Remove dead units physically and check that the smaller network computes the same function.

May import `network` and the base modules.
"""
