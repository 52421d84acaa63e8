"""People read what models wrote: a page of completions side by side, a blind sheet, and what ratings of it say."""
