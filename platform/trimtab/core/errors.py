"""The errors a user can mend.

    TrimtabError            every one of these; a ValueError
    |-- ConfigError         a sweep file, a command-line option, an override
    |-- DataError           a scenario file, a prompt, the packaged corpus
    |-- ModelError          a model folder or id, its tokenizer, its architecture
    |-- ActivationError     a value that came out of a model: NaN or infinite
    |-- StoreError          an activation store: unfinished, damaged, of another identity
    |-- CoderError          a sparse autoencoder's folder, or one that does not fit its model
    |-- TrainingError       a training that cannot go on: its loss is not a number
    |-- JudgeError          a judge that cannot be asked, or an endpoint that does not answer
    |-- TrackError          the MLflow server or file
    `-- OutputError         a folder that cannot be written

Each message states what is wrong, where, and what to do about it, because it is all that the
command line prints before it exits with 2. What only we can have caused is an `assert`.
"""


class TrimtabError(ValueError):
    """Something the user can mend. The command line prints it without a traceback and exits with 2."""


class ConfigError(TrimtabError):
    """A configuration that does not say something we can do."""


class DataError(TrimtabError):
    """A data file that is not what it should be."""


class ModelError(TrimtabError):
    """A model that cannot be found, loaded or understood."""


class ActivationError(TrimtabError):
    """A model produced a value that is not a number."""


class StoreError(TrimtabError):
    """An activation store that cannot be read as finished and intact."""


class CoderError(TrimtabError):
    """A sparse autoencoder that cannot be read, or that belongs to another model."""


class TrainingError(TrimtabError):
    """A training that cannot go on."""


class JudgeError(TrimtabError):
    """A judge that cannot be asked."""


class TrackError(TrimtabError):
    """A tracking server or file that does not answer."""


class OutputError(TrimtabError):
    """A place that cannot be written to."""
