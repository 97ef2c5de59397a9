"""Remove dead units for real, and prove that the network still computes the same.

Imports `network`.
"""
