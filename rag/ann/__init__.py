"""Vector indexes: made beside the running search, measured, put live and dropped, for the shell, admin and API alike.

``indexes`` knows the database's indexes, ``configs`` the rows that describe them, ``measure`` how well they find.
"""
