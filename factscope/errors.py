"""The user's mistakes, as exceptions that say what was seen and what to do.

A command prints the sentence and exits with code 2; anything that is not a `UserError` is our mistake and shows its
traceback. Each error is raised where the trouble is first seen; the class names are stable, so that scripts can catch
them.
"""


class UserError(Exception):
    """Something in the input that a person can put right; the message is the whole explanation."""


class FactError(UserError):
    """A fact file or record that cannot be read: names the file, the record and the field."""


class PromptError(UserError):
    """A prompt whose subject, answer or length does not work out; quotes the text that was seen."""


class TokenMismatch(PromptError):
    """Two texts that must have the same number of tokens do not, or two answers share their first token."""


class ModelError(UserError):
    """A model that cannot be found, read or trusted."""


class NoGap(UserError):
    """The corruption did not hurt the answer, so there is nothing to restore and no effect to divide by."""


class StoreError(UserError):
    """A run folder that cannot be written, read, or whose files do not belong together."""


class GraphError(UserError):
    """A node or an edge that this model's graph does not have."""


class EditError(UserError):
    """An edit that cannot be made, put in or taken out; the message says what to do."""


class SettingError(UserError):
    """A setting that does not exist, is given twice, or cannot have that value; names the settings that there are."""


class ArgumentError(UserError, TypeError):
    """A call of `import factscope` was given something else than it takes; names the argument and what it takes."""
