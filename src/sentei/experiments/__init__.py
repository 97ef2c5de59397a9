"""Prune one network in many ways and compare the results.

May import all packages below `papers`.
"""
