"""How much each caller may ask for: token buckets in Redis, and which of them a request draws on.

`buckets` is the mechanism, `policy` says who draws how much on what, and `ops.middleware` applies it to HTTP.
"""
