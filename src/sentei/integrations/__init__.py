"""Callbacks for other libraries' training loops, Keras and Lightning; each needs an extra.

Imports `pruning` and all below it.
"""
