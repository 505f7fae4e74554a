"""Retrieval: one implementation, used by a corpus's evaluation and by serving."""
