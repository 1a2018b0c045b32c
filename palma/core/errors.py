"""The errors that Palma raises, as one tree.

PalmaError
├── SettingsError               a setting is wrong; the start stops
├── ModelLoadError              a model cannot be loaded; the start stops, running models go on
├── InvalidRequest              the client must change the request
│   ├── UnsupportedParameter    a field or value that this server cannot honour
│   ├── ContextLengthExceeded   the tokens do not fit the model's window
│   └── ChatTemplateRejected    the model's chat template refused the messages
├── ModelNotFound               no such model is served here
├── ResourceNotFound            no such stored response, conversation or item
├── QueueFull                   too many requests wait already
├── QueueTimeout                the request's own deadline passed while it waited
├── Unavailable                 the server cannot serve now
│   ├── ModelLoading            the model is not ready yet
│   ├── Draining                the server is shutting down
│   ├── InsufficientMemory      this request did not fit into memory
│   └── StoreUnavailable        the database is locked, full or out of reach
├── RequestCancelled            the client left
├── StoreFailure                the database is broken
└── EngineFailure               the engine failed on this request; its neighbours go on

HTTP's own errors (no such route, body too large, ...) and every status code live in
`palma.api.errors`.
"""

from __future__ import annotations


class PalmaError(Exception):
    """Base of every error that Palma raises on purpose.

    Attributes:
        message: For the user: what was found, what is allowed, what to do. No paths, no prompts.
        code: A stable word for programs.
        param: The request field at fault, if one is.
        retry_after_s: Seconds after which the same request may succeed, if waiting helps.
        request_id: Which request it ended; set where the error leaves the server.
    """

    code = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.request_id: str | None = None


class SettingsError(PalmaError):
    """A setting has a value that Palma cannot use."""

    code = "bad_setting"


class ModelLoadError(PalmaError):
    """A model's files are missing, broken, refused or out of reach."""

    code = "model_load_failed"


class InvalidRequest(PalmaError):
    """The request is wrong and stays wrong when it is sent again."""

    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """A field, or a value of it, that this server does not honour; it is never ignored."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and its completion, do not fit the model's window."""

    code = "context_length_exceeded"


class ChatTemplateRejected(InvalidRequest):
    """The model's chat template refused the messages."""

    code = "chat_template_rejected"


class ModelNotFound(PalmaError):
    """The requested model is not served here."""

    code = "model_not_found"


class ResourceNotFound(PalmaError):
    """Nothing is stored under this id."""

    code = "not_found"


class QueueFull(PalmaError):
    """As many requests wait as may wait."""

    code = "queue_full"


class QueueTimeout(PalmaError):
    """The client's own deadline passed before a worker was free."""

    code = "queue_timeout"


class Unavailable(PalmaError):
    """The server cannot serve this request now; another server, or a later try, may."""

    code = "unavailable"


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"


class Draining(Unavailable):
    """The server finishes what it has and takes nothing new."""

    code = "draining"


class InsufficientMemory(Unavailable):
    """The device ran out of memory on this request."""

    code = "insufficient_memory"


class StoreUnavailable(Unavailable):
    """The database cannot be used now; nothing was read or written."""

    code = "store_unavailable"


class RequestCancelled(PalmaError):
    """The client left before the answer was complete."""

    code = "cancelled"


class StoreFailure(PalmaError):
    """The database, or what lies in it, is broken."""

    code = "store_failed"


class EngineFailure(PalmaError):
    """The engine failed while it worked on this request."""

    code = "engine_error"
