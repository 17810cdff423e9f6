"""Times of a project."""


def shifted(t, shift):
    return shift * t / (1 + (shift - 1) * t)
