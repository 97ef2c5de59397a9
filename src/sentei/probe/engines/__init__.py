"""Compute the loss without each unit, and its derivatives, from a recorded pass.

Imports `probe.recording` and `network`.
"""
