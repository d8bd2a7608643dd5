"""A program as calls: the cached model, its specializations, and which state a call goes on with."""
