#!/usr/bin/env bash
# Sets Palma up in this checkout: a virtual environment, Palma and what it needs, a .env to edit.
# Run it again whenever you like: what is there stays. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"

if ! command -v "$python" > /dev/null; then
    echo "setup: $python was not found; install Python 3.11 or newer, or set PYTHON" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $("$python" --version) is too old; Palma needs Python 3.11 or newer" >&2
    exit 1
fi

[ -d .venv ] || "$python" -m venv .venv
.venv/bin/python -m pip install --upgrade pip
.venv/bin/python -m pip install -e .

[ -e .env ] || cp .env.example .env

cat <<'END'

Palma is set up. What you may do now:
  edit .env                      the model (MODEL_ID), the port, the token for gated models (HF_TOKEN)
  .venv/bin/palma check          whether this machine has room for the model
  .venv/bin/palma serve          download the model if need be, and serve it
  .venv/bin/python scripts/use.py "Hello!"    ask it, and see how fast it answers
END
