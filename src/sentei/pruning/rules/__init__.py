"""Proposals, schedules and limits: what to remove next, how fast, and when to stop.

Imports `criteria`, `probe` and `network`.
"""
