"""What can go wrong, and what a caller may catch.

::

    SisyphusError
    ├── VariableNotSet      a Variable was read before its job wrote it
    ├── ConfigError         a config argument, module or function that cannot be loaded
    │   ├── NoConfigError       none was named, and there is no default (also an AssertionError)
    │   └── NoFunctionError     the module lacks the function (also an AttributeError)
    ├── OptionError         options of the command line that contradict each other (also an AssertionError)
    ├── JobDirError         a job folder that cannot be read or set up
    ├── AnotherManagerError a manager already works in the work folder
    ├── BlockedWorkflow     a script asked for results that can no longer be computed
    ├── EngineError         an engine that is set up wrongly, or cannot do what is asked
    │   └── RefusedError    a task asks for more than its engine can ever give
    └── DeferSubmission     an engine asks to submit a task later; the attempt does not count

Arguments that cannot be hashed raise plain ``AssertionError`` or ``TypeError``, because recipes written for
other versions catch those.
"""


class SisyphusError(Exception):
    """Base of every error that this package raises on purpose."""


class VariableNotSet(SisyphusError):
    """The value of a Variable was asked for, but its file does not exist."""


class ConfigError(SisyphusError):
    """A config could not be found, parsed or called."""


class NoConfigError(ConfigError, AssertionError):
    """No config was named, and there is none by default."""


class NoFunctionError(ConfigError, AttributeError):
    """The module of a config lacks the function that was named."""


class OptionError(SisyphusError, AssertionError):
    """Options of the command line contradict each other."""


class JobDirError(SisyphusError):
    """A job folder is damaged, or something else stands in its place."""


class AnotherManagerError(SisyphusError):
    """Another manager works in the work folder; two would start every job twice."""


class BlockedWorkflow(SisyphusError):
    """Nothing more can run, and what was asked for is not there."""


class EngineError(SisyphusError):
    """An engine is set up wrongly, or cannot do what is asked."""


class RefusedError(EngineError):
    """The engine can never run this task as it is asked for, e.g. more memory than there is."""


class DeferSubmission(SisyphusError):
    """Raised by an engine that cannot take a task now; it is asked again in the next pass."""
