"""Measure a network's loss on fixed samples, and the change in loss when a unit is removed.

Imports `network`.
"""
