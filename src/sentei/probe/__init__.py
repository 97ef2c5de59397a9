"""Measure the loss of a network on samples, and what it would be without a unit.

Imports `network`.
"""
