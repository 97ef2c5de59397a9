"""Run the loop that cuts, retrains, measures and keeps or undoes.

Imports `criteria`, `probe` and `network`.
"""
