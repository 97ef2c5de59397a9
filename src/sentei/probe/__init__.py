"""Measure a network's loss on fixed samples, and the change in loss when a unit is removed.

May import `probe.recording`, `probe.engines`, `network` with its packages, `reading` and the base
modules.
"""
