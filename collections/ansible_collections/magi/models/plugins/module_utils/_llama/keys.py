# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""API key files, as llama-server reads them. Pure."""

from __future__ import annotations


class KeyFileError(ValueError):
    """An API key file does not protect a server; the message has the file, what is wrong and the remedy."""


def key_file_path(where: str, path: str) -> str:
    """Return ``path`` if it is absolute, else raise KeyFileError: a service has no folder to start a path from."""
    if not path.startswith("/"):
        raise KeyFileError(f"{where}: option api_key_file must be an absolute path on the host, not {path!r}.")
    return path


def check_api_keys(where: str, text: str) -> None:
    """Raise KeyFileError unless ``text``, the content of an API key file, protects a server.

    To llama-server (common/arg.cpp, --api-key-file) each line is a key as it stands, unless it is empty or starts with
    #. Without any key it asks for none, and anyone who reaches the port can use it. Only printable ASCII is sure to
    pass in an HTTP header (RFC 9110, 5.5).
    """
    keys = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line and not line.startswith("#")]
    for number, line in keys:
        if line != line.strip() or line.startswith("\ufeff"):
            what = "ends in a carriage return (CRLF line ends)" if line.endswith("\r") else "has white space at an end"
            raise KeyFileError(
                f"{where}: line {number} {what}, which llama-server would take for a part of the key: save the file as "
                "plain text, one key a line."
            )
        if not (line.isascii() and line.isprintable()):
            raise KeyFileError(
                f"{where}: line {number} has a character that is not printable ASCII, which clients can't send in a "
                "header: make a key of letters and digits, for example by openssl rand -hex 32."
            )
    if not keys:
        raise KeyFileError(
            f"{where} holds no key (it is empty, or has comments only), so llama-server would let everybody in: "
            "write a key into it, or remove the option api_key_file."
        )
