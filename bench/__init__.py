"""Every claim about speed or quality, runnable: `make bench`, or ``python -m bench.NAME``.

Each benchmark compares side by side in one run, alternating, and prints ratios: absolute times depend on the machine
and on what else it does.
"""
