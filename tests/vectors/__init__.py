"""Published test vectors, driven through this project's own wrappers; `test_published_vectors.py` has the table."""
