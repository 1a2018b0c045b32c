"""What the proxy itself has to say: errors that the clients of several dialects can read."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import orjson
from starlette.responses import Response

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    502: "server_error",
    503: "service_unavailable_error",
}


@dataclass
class ProxyError(Exception):
    """A request that reaches no server, or brings no answer back.

    Attributes:
        status: Of the response.
        code: A stable word for programs.
        message: For people.
        retry_after_s: When the same request may succeed, if waiting helps.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    def response(self, request_id: str) -> Response:
        """Return the response: OpenAI's envelope, with the fields of Anthropic's and Falcon's.

        The proxy does not know whose path it is.
        """
        kind = ERROR_TYPES[self.status]
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = {
            "type": "error",
            "error": error,
            "status_code": self.status,
            "message": self.message,
        }
        headers = {
            "x-request-id": request_id if SANE_REQUEST_ID.fullmatch(request_id) else _new_id()
        }
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(orjson.dumps(body), self.status, headers, media_type="application/json")


def _new_id() -> str:
    return f"req_{uuid.uuid4().hex}"
