#!/bin/sh
# Style, types and import contracts; the first argument is where the programs are.
set -eu
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}
"$bin/ruff" format --check --quiet . || { echo "ruff format: run '$bin/ruff format .'" >&2; exit 1; }
"$bin/ruff" check --quiet .
"$bin/mypy" --no-error-summary
"$bin/lint-imports" --no-logo >/dev/null || "$bin/lint-imports"
echo "style, types and import contracts hold"
