"""Whose turn it is: when somebody has finished, what an interruption means, and the state machine that decides."""
