"""Serve a folder over http with byte ranges: ``python range_server.py FOLDER``.

Prints its port, then the bytes of each answer. A process of its own, since rasterio keeps Python's
lock while it opens a file, so that a server in a thread could not answer.
"""

import http.server
import sys
from pathlib import Path


class Ranges(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = Path(sys.argv[1], self.path.lstrip("/"))
        if not path.is_file():
            self.send_error(404)
            return
        body, wanted = path.read_bytes(), self.headers.get("Range")
        total = len(body)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            body = body[int(first) : int(last or total - 1) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            print(len(body), flush=True)

    do_HEAD = do_GET  # noqa: N815  (http.server's name)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    print(server.server_port, flush=True)
    server.serve_forever()
