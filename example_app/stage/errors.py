"""What ends the demo early."""


class Surprise(Exception):
    """Something was not as the demo expects it."""
