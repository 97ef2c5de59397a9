"""What can be cut, and how it is cut.

Its rooms import it, never the other way round; all import the ground only.
"""
