"""What can go wrong that a person can mend: one sentence each, shown as it is by the page and the command line."""


class MmdemoError(ValueError):
    """One sentence that names the thing, its value and the next step."""


class ArgumentError(MmdemoError):
    """An argument outside what is allowed."""


class PackError(MmdemoError):
    """A pack that is missing, damaged, or lacks the model asked for."""


class ImageError(MmdemoError):
    """A file that is no usable picture."""


class TrainingError(MmdemoError):
    """A training that cannot go on."""


class DataError(MmdemoError):
    """A data set that cannot be read."""


NO_CODEBOOK = "this codec has no codebook: its latents are continuous, so there are no codes and no tokens"
