"""Compute the loss without each unit, and the loss's derivatives, from recorded passes.

Imports `probe.recording` and `network`.
"""
