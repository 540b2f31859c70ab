"""The whole story on an embedded default: a real teacher, real text, two students."""
