"""Prune one network in many ways and compare the results.

May import `reporting`, `formats.c`, and all that they may import.
"""
