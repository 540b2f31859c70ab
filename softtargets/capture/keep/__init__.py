"""What is kept of a teacher's logits at every position. Pure torch."""
