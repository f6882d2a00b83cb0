"""An engine that starts, and ends as soon as anything is asked of it."""

from __future__ import annotations

import sys

from voice.engines.wire import Kind, frame, read_frame

if __name__ == "__main__":
    sys.stdout.buffer.write(frame(Kind.READY))
    sys.stdout.buffer.flush()
    read_frame(sys.stdin.buffer)
    sys.exit("it fell over, as it was meant to")
