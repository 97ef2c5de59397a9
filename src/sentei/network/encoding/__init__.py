"""Describe a network as plain data and compute its exact size in every file format.

May import `network`, `network.surgery` and the base modules.
"""
