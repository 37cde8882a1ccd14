"""Every error a user can cause, each with its exit code and a sentence that says what to do next.

    BlindDeblurError              1
      PhotoError                  1  a photo cannot be read, or cannot be restored as it is
      OutputError                 1  a result cannot be written where it was asked to be
      EstimationError             1  the computation gave no usable answer (not a number, no kernel)
      UsageError                  2  options that make no sense, alone or together
        KernelError               2  a kernel given by the user is no blur kernel
      WeightsError                3  weights are missing, damaged, or not as listed
        DownloadError             3  a download failed; the message says how to place the file by hand

Nothing else of this package is raised on purpose. The command line catches BlindDeblurError once, at its
boundary; whoever uses the Python interface catches what they care about.
"""


class BlindDeblurError(Exception):
    """Base of all errors of this package. The message is one or two full sentences for a person."""

    exit_code = 1


class PhotoError(BlindDeblurError):
    """A photo cannot be read, or cannot be restored as it is."""


class OutputError(BlindDeblurError):
    """A result cannot be written where it was asked to be."""


class EstimationError(BlindDeblurError):
    """The computation gave no usable answer."""


class UsageError(BlindDeblurError):
    """Options or arguments that make no sense, alone or together."""

    exit_code = 2


class KernelError(UsageError):
    """A kernel given by the user is no blur kernel."""


class WeightsError(BlindDeblurError):
    """Weights are missing, damaged, or not as listed in the manifest."""

    exit_code = 3


class DownloadError(WeightsError):
    """A download failed."""
