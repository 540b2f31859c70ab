"""What a selection loses: measured on a teacher's full distributions, and on students."""
