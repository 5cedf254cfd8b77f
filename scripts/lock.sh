#!/bin/sh
# Pins every dependency with its hashes, for all supported Pythons; no address ends up in the files.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" "$@"
}
compile pyproject.toml --group build --output-file requirements.lock
compile pyproject.toml --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock
