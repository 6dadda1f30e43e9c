"""What can go wrong, and what a caller may catch.

::

    MergingError
    ├── OptionError (also a ValueError)   an option that is unknown, of the wrong type or out of range
    │   └── UnknownNameError              no such method, estimator, task type, source or metric
    ├── DataError                         a missing file, an empty split, a label outside its range
    ├── CheckpointError                   missing shard, truncated file, NaN, shapes or names that differ
    ├── DivergenceError                   a training whose loss or gradient is no longer a number
    ├── HubError                          a Hub id that could not be fetched, or uploaded to
    └── DiskSpaceError                    not enough room for an output

Every message says which value was wrong, what is allowed, and what to do.
"""


class MergingError(Exception):
    """Base of every error that this package raises on purpose."""


class OptionError(MergingError, ValueError):
    """An option is unknown, of the wrong type, or out of range."""


class UnknownNameError(OptionError):
    """A name that no registry knows."""


class DataError(MergingError):
    """A data set is missing, empty, or does not fit the task."""


class CheckpointError(MergingError):
    """A checkpoint is incomplete, damaged, or does not fit the others."""


class DivergenceError(MergingError):
    """The loss or the gradient of a training is NaN or infinite."""


class HubError(MergingError):
    """A Hub id could not be fetched, or uploaded to."""


class DiskSpaceError(MergingError):
    """An output does not fit on its disk."""
