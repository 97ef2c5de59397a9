"""Run the pruning loop: cut, retrain, measure, then keep the step or undo it.

Imports `criteria`, `probe` and `network`.
"""
