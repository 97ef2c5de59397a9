"""Prune a network that is too large to record whole, one block after the other.

May import `probe`, and all that it may import.
"""
