"""Compute the loss without each unit, and the loss's derivatives, from recorded passes.

May import `probe.recording`, `network` with its packages, `reading` and the base modules.
"""
