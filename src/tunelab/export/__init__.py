"""`tunelab export`: what was trained, as other programs read it, checked against what it was made of."""
