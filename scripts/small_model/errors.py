"""The exception of the checkpoint builder."""


class SmallModelError(Exception):
    """Something the user can act on; its text is one sentence naming the thing and the cure."""
