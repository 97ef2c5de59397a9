"""Repairs: compensate for a removed unit by an affine mix of the remaining units.

May import `probe`, and all that it may import.
"""
