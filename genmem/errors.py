"""Every error a user can cause.

    GenmemError                 the base: catch this one
    ├── DataError(ValueError)   the data cannot be used as given
    ├── ModelError(TypeError)   the model, its settings or its factory cannot be used
    └── RunError                the run directory cannot be used
        ├── RunMismatchError    it was planned with other settings
        └── IncompleteRunError  a stage needs results of an earlier one

Each message has three parts: what was expected, what was found, and what to do.
"""


class GenmemError(Exception):
    """Base of all errors a user can cause; `str(error)` reads "Expected ...; got .... What to do."

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
    """The data, labels or arrays cannot be used as given."""


class ModelError(GenmemError, TypeError):
    """The model, its settings, or the factory that makes it cannot be used."""


class RunError(GenmemError):
    """The run directory cannot be created, read, written or locked."""


class RunMismatchError(RunError):
    """The run directory was planned with other settings."""


class IncompleteRunError(RunError):
    """A stage needs results of an earlier stage, and these do not exist yet."""
