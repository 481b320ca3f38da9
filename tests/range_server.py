"""Serve a folder over http with byte ranges: ``python range_server.py FOLDER [HOST]``.

Prints its port, then the bytes of each answer. A process of its own, since rasterio keeps Python's
lock while it opens a file, so that a server in a thread could not answer. A file with "hangs" in
its name gives its header, and then nothing; one with "silent", and the mask of one with "mute",
gives not even that; one with "refuses" gives its header, and then 403, as where a signature is no
longer valid.
"""

import http.server
import sys
import time
from pathlib import Path

HEADER = 100_000
"""Bytes that a file whose name says that it hangs still gives."""


class Ranges(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = Path(sys.argv[1], self.path.lstrip("/").partition("?")[0])
        if not path.is_file():
            self.send_error(404)
            return
        total, wanted = path.stat().st_size, self.headers.get("Range")
        first, last = 0, total - 1
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
            if "refuses" in path.name and last > HEADER:
                self.send_error(403)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        is_silent = "silent" in path.name or ("mute" in path.name and path.suffix == ".msk")
        if is_silent:
            print("0\n", end="", flush=True)
        if is_silent or ("hangs" in path.name and first > HEADER):
            time.sleep(60)
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            print(f"{len(body)}\n", end="", flush=True)  # in one piece: threads print side by side

    do_HEAD = do_GET  # noqa: N815  (http.server's name)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    server = http.server.ThreadingHTTPServer((host, 0), Ranges)
    print(server.server_port, flush=True)
    server.serve_forever()
