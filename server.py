"""`uvicorn server:app --host 127.0.0.1 --port 8000`: settings, then the application."""

import sys

from palma.api.app import create_app
from palma.core.config import load_settings
from palma.core.errors import SettingsError
from palma.core.logs import configure_logging

try:
    settings = load_settings()
    app = create_app(settings)
except SettingsError as error:
    print(f"palma: {error.message}", file=sys.stderr)
    sys.exit(2)

configure_logging(debug=settings.debug)
