"""Prune inside the user's own training loop.

May import `pruning`, and all that it may import.
"""
