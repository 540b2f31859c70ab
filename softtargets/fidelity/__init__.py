"""What a selection loses: measured on a teacher's full distributions, and on students."""

SECTIONS = ("reconstruction", "gradients", "bias", "students", "frozen-noise")
"""What is measured, in this order."""
OWN_SECTIONS = SECTIONS[:2]
"""What is measured of a store's own selection."""
