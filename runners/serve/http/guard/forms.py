"""Writes the images of a form (``multipart/form-data``) to files while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from runners.serve.errors import RequestError

_MAX_HEADER_BYTES = 8192  # of a part
_MAX_FIELDS = 100


class Form:
    """Receives the bytes of a form and writes its files; the text of other fields is discarded.

    Args:
        content_type: The request's header, with the boundary.
        open_file: Called with the client's name for each file; opens the file to write to.
        max_files: Largest number of files.

    Raises:
        RequestError: The header has no valid boundary.
    """

    def __init__(
        self, content_type: str, open_file: Callable[[bytes], BinaryIO], max_files: int
    ) -> None:
        self._open_file, self._max_files = open_file, max_files
        self._n_files = self._n_fields = 0
        self._is_complete = False
        self._name = self._value = b""  # of the header that is being read
        self._headers: dict[bytes, bytes] = {}  # of the part that is being read
        self._file: BinaryIO | None = None
        callbacks = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._write_part,
            "on_part_end": self.close,
            "on_end": self._end,
        }
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise RequestError(400, "the form's Content-Type has no boundary")
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as exc:
            raise RequestError(400, "the form's boundary is too long") from exc

    def write(self, data: bytes) -> None:
        """Process the next bytes of the body.

        Raises:
            RequestError: They are no form, or have too many parts.
            OSError: A file cannot be written.
        """
        try:
            self._parser.write(data)
        except FormParserError as exc:  # its message may have bytes of the client
            raise RequestError(400, "the body is not a valid multipart form") from exc

    def finish(self) -> None:
        """Check that the form is complete.

        Raises:
            RequestError: It ends before its last boundary.
        """
        if not self._is_complete:
            raise RequestError(400, "the form is incomplete: its last boundary is missing")

    def close(self) -> None:
        """Close the file of the current part."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._check_size()

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_size()

    def _check_size(self) -> None:
        sizes = map(len, (self._name, self._value, *self._headers.values()))
        if sum(sizes) > _MAX_HEADER_BYTES:
            raise RequestError(400, "the headers of a part of the form are too long")

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _open_part(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        is_image = self._headers.get(b"content-type", b"").lower().startswith(b"image/")
        name = options.get(b"filename")
        if name or (is_image and name is None):  # a file input without a file has an empty name
            self._n_files += 1
            if self._n_files > self._max_files:
                raise RequestError(
                    413, f"the form has more images than runner.max_queue={self._max_files}"
                )
            self._file = self._open_file(name or b"")
            return
        self._n_fields += 1
        if self._n_fields > _MAX_FIELDS:
            raise RequestError(413, f"the form has more than {_MAX_FIELDS} fields")

    def _write_part(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _end(self) -> None:
        self._is_complete = True
