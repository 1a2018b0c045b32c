"""What went wrong at the Hugging Face Hub, said in one line with its remedy.

Nothing of the Hub's own messages is quoted: they may hold addresses, paths and headers.
"""

from __future__ import annotations

import errno

from palma.core.errors import ModelLoadError

_LOG_IN = "run `hf auth login` or set HF_TOKEN"


def explain(error: Exception, revision: str | None) -> ModelLoadError:
    """Return the error that tells the operator what to do about a failed download."""
    from huggingface_hub.errors import HfHubHTTPError

    cause = _root(error)
    if isinstance(cause, HfHubHTTPError):
        return _explain_answer(cause, revision)
    return ModelLoadError(_explain_silence(cause))


def _root(error: Exception) -> Exception:
    """The Hub's library wraps what happened into what it could not find in its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _explain_answer(error: Exception, revision: str | None) -> ModelLoadError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        text = f"the model is gated: accept its licence on its page on the Hub, then {_LOG_IN}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = f"the Hub has no such model, or it is private: check the name, or {_LOG_IN}"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"there is no revision {revision!r}: check MODEL_REVISION"
    elif isinstance(error, errors.DisabledRepoError):
        text = "the Hub has disabled this model"
    elif isinstance(error, errors.EntryNotFoundError):
        text = "the Hub lacks a file that it lists: try again later"
    else:
        return _explain_status(error)
    return ModelLoadError(text)


def _explain_status(error: Exception) -> ModelLoadError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return ModelLoadError(f"the Hub refuses the token (401): {_LOG_IN} anew")
    if status == 403:
        return ModelLoadError(
            f"the Hub's token may not read this model (403): {_LOG_IN} with a token that may"
        )
    if status == 429:
        return _rate_limited(getattr(response, "headers", {}).get("retry-after", ""))
    return ModelLoadError(f"the Hub answered with status {status}: try again later")


def _rate_limited(retry_after: str) -> ModelLoadError:
    seconds = int(retry_after) if retry_after.isdecimal() else None
    when = "later" if seconds is None else f"in {seconds} s"
    return ModelLoadError(
        f"the Hub limits the rate of requests (429): try again {when}; "
        f"with a token the limit is higher: {_LOG_IN}",
        retry_after_s=seconds,
    )


def _explain_silence(error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return (
            "the model is not cached here (model_not_cached), and HF_HUB_OFFLINE forbids to "
            "download it: unset HF_HUB_OFFLINE, or choose a model that is here"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room, or move the cache with HF_HOME"
    return (
        f"the Hub cannot be reached ({type(error).__name__}): check the network, the proxy and "
        "HF_ENDPOINT"
    )
