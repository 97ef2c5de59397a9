"""Describe a network as plain data and count its bytes in every file format.

Imports `network` and its `surgery`.
"""
