"""Run the pruning loop: cut, retrain, measure, then keep the step or undo it.

May import `pruning.rules`, `criteria`, and all that they may import.
"""
