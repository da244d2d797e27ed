"""The text by which a model judges answers, and what its scores mean beside verdicts of people. Standard library."""

SCORES = (1, 2, 3, 4, 5)
WRONG, PARTLY, RIGHT = "wrong", "partly", "right"
VERDICTS = (WRONG, PARTLY, RIGHT)  # worst first
DEFAULT = """Judge only whether the answer says what the reference says. Style, length and politeness do not count.

5: Right and complete: everything that the reference states is there, and nothing contradicts it.
4: Right in substance: a detail is missing or put loosely, and nobody would be misled.
3: Partly right: a part of what the reference states is there, another part is missing or wrong.
2: Mostly wrong: it touches the subject, but what was asked for is missing or wrong.
1: Wrong, empty, off the subject, or a refusal.

A wrong number, unit, name or order is wrong, however fluent the answer is. Other words for the same thing are right.
What the answer adds beyond the reference counts against it only when it contradicts the reference."""


def verdict_of(score: int) -> str:
    """The verdict that a score stands for: 4 and 5 right, 3 partly, 1 and 2 wrong."""
    return RIGHT if score >= 4 else PARTLY if score == 3 else WRONG
