"""The exceptions that mcfs raises, in one tree.

::

    McfsError
    ├── BadDatagram      a datagram or MLD message that is not what the protocol says (the network's fault)
    ├── BadObject        verified bytes whose content breaks the format (the publisher's fault)
    ├── BadNode          assembled bytes that do not hash to what the tree says (the sender's fault)
    ├── NotAvailable     the node cannot be had now (nobody's fault)
    │   ├── TimedOut         nothing was heard of it in time
    │   │   └── Untrusted        its share was heard, but not from a publisher that may publish it
    │   ├── ShareDown        nothing was heard of its share for longer than the time-out
    │   ├── Gone             the server says that it can no longer produce it
    │   └── NoKey            it is not heard, and something is that needs a key which was not given
    │       └── WrongKey         ... and keys were given that open nothing
    └── UserError        something the user can mend; carries an exit code
        └── InUse            a directory that another process works with
"""

from __future__ import annotations


class McfsError(Exception):
    """The root of the tree."""


class BadDatagram(McfsError, ValueError):
    """Bytes from the network that the protocol does not allow. Counted and dropped, never logged one by one."""


class BadObject(McfsError, ValueError):
    """An object whose bytes are what the publisher signed, but whose content breaks the format."""


class BadNode(McfsError):
    """A node whose assembled bytes do not have the expected hash."""


class NotAvailable(McfsError):
    """A node that cannot be had at present."""


class TimedOut(NotAvailable):
    """Nothing was heard of the node within the time-out."""


class Untrusted(TimedOut):
    """The share was heard, but not from a publisher that may publish it; one line that says what to do."""


class ShareDown(NotAvailable):
    """Nothing was heard of the share for longer than the time-out: its requests fail at once."""


class Gone(NotAvailable):
    """The server that publishes the node says that it can no longer produce it."""


class NoKey(NotAvailable):
    """Something is heard that has a key; what is asked for may be there, for who has it."""


class WrongKey(NoKey):
    """The same, for who has keys that open nothing."""


class UserError(McfsError):
    """One line that tells the user what to do, and the exit code of the command (docs/commands.md lists them)."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InUse(UserError):
    """Another process works with the state directory."""
