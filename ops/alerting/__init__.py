"""Alert rules: read a figure, decide whether it is bad for long enough, tell people.

`conditions` is the state machine, pure; `measures` are the figures that ops itself has; `rules` evaluates and replays;
`delivery` tells the channels. What is open is kept by `ops.alerts`, which anything else may use too.
"""
