"""Remove dead units physically and check that the smaller network computes the same function.

Imports `network`.
"""
