"""Proposals, schedules and limits: what to remove next, how fast, and when to stop.

May import `criteria`, and all that it may import.
"""
