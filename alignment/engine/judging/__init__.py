"""Judge measured errors by noise floors and limits: the rows of a result. No framework."""
