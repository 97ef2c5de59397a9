"""Repairs: compensate for a removed unit by an affine mix of the remaining units.

Imports `probe` and `network`.
"""
