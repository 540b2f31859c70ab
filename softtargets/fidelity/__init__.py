"""What a selection loses: measured on a teacher's full distributions, and on students."""

SECTIONS = ("reconstruction", "gradients", "bias", "students", "frozen-noise")
"""What is measured, in this order."""
