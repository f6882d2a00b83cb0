"""The embedded stack: PostgreSQL and Redis from Python wheels, started and kept by ZenGlow itself.

`stack.EmbeddedStack` is the front; `errors` holds the one exception tree. Importing starts and writes nothing.
"""
