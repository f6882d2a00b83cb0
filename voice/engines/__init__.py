"""Engines of hearing and speaking. Each stands behind a protocol of `voice.engines.contracts`, in a process of its own
where it would hold the interpreter for long or brings a licence of its own.
"""
