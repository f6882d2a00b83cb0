"""Everything that can go wrong with the embedded stack. Each message says what to do next.

EmbeddedError
├── BinaryNotFoundError      a server program is not installed
├── AccountError             no account that may run a server
├── DataDirError             a folder that is damaged, another's, or can't be written
├── StartError               a server ended while starting
│   └── StartTimeoutError    a server is alive but does not answer yet
├── StopError                a server that could not be ended
└── InstanceRunningError     another ZenGlow uses the same data
"""


class EmbeddedError(Exception):
    """Base of the tree; its text is meant for the person at the terminal."""


class BinaryNotFoundError(EmbeddedError):
    """A server program is not installed here."""


class AccountError(EmbeddedError):
    """There is no account under which a server may run."""


class DataDirError(EmbeddedError):
    """A folder of the stack is damaged, belongs to somebody else or can't be written."""


class StartError(EmbeddedError):
    """A server ended while it was starting."""


class StartTimeoutError(StartError):
    """A server did not answer in time. It was left as it is and may still come up."""


class StopError(EmbeddedError):
    """A server could not be ended."""


class InstanceRunningError(EmbeddedError):
    """Another ZenGlow already uses the same data."""
