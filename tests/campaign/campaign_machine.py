"""How long hypothesis looks for a difference between a part of an actor and its model."""

from hypothesis import settings

SETTINGS = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None)
