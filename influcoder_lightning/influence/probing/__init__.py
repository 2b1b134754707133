"""In-context probing: what does a sample do for the queries as a one-shot demonstration?"""
