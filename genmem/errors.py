"""Every error a user can cause.

    GenmemError                 the base: catch this one
    ├── DataError(ValueError)   the data are not what the audit needs
    ├── ModelError(TypeError)   the model, its settings or its factory are not usable
    └── RunError                the run directory
        ├── RunMismatchError    it was planned with other settings
        └── IncompleteRunError  a stage was asked for before the one it needs

Each message has three parts: what was expected, what came, and what to do.
"""


class GenmemError(Exception):
    """Base of all errors a user can cause; `str(error)` reads "Expected …; got …. Do: …".

    >>> print(GenmemError(expected="2 or more examples", got="1", do="Add examples."))
    Expected 2 or more examples; got 1. Add examples.
    """

    def __init__(self, *, expected: str, got: str, do: str) -> None:
        self.expected, self.got, self.do = expected, got, do
        super().__init__(f"Expected {expected}; got {got}. {do}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost when a worker process sends the error back.
        return _rebuild, (type(self), self.expected, self.got, self.do)


def _rebuild(kind: type[GenmemError], expected: str, got: str, do: str) -> GenmemError:
    return kind(expected=expected, got=got, do=do)


class DataError(GenmemError, ValueError):
    """The data, labels or arrays are not what was expected."""


class ModelError(GenmemError, TypeError):
    """The model, its settings, or the factory that makes it cannot be used."""


class RunError(GenmemError):
    """The run directory cannot be created, read, written or locked."""


class RunMismatchError(RunError):
    """The run directory was planned with other settings."""


class IncompleteRunError(RunError):
    """A stage needs results of an earlier stage that are not there yet."""
