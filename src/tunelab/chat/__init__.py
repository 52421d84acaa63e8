"""`tunelab chat`: a conversation with the base model and what was trained on it."""
