"""A server that takes every mail and throws it away as fast as Python can: `sink.py [lmtp] [certificate key]`.

It prints its port. Each of its processes serves one connection at a time with blocking calls, so the clients' number of
connections is the number of its processes at work. It answers all the commands of one read with one write (RFC 2920
section 3.2). `VRFY` answers how many mails all of its processes have taken, so that no measured mail can be a lost one.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import ssl
import struct
import sys

WORKERS = 12
RECEIVE = 1 << 18
SERVICES = (
    b"250-sink\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-SIZE 0\r\n"
    b"250-AUTH PLAIN\r\n250-%s\r\n250 SMTPUTF8\r\n"
)
_CELL = struct.Struct("=Q")


class Dialogue:
    """One connection from its greeting to its end. Mails are counted in the cell of this process."""

    def __init__(self, sock: socket.socket, lmtp: bool, context: ssl.SSLContext | None, board: mmap.mmap, cell: int):
        self._sock = sock
        self._lmtp = lmtp
        self._context = context
        self._board = board
        self._cell = cell
        self._buffer = b""
        self._replies: list[bytes] = []
        self._recipients = 0

    def serve(self) -> None:
        self._sock.sendall(b"220 sink\r\n")
        while True:
            line, end, rest = self._buffer.partition(b"\r\n")
            if end:
                self._buffer = rest
                if not self._obey(line[:4].upper(), line):
                    return
                continue
            self._flush()
            octets = self._sock.recv(RECEIVE)
            if not octets:
                return
            self._buffer += octets

    def _obey(self, verb: bytes, line: bytes) -> bool:
        replies = self._replies
        if verb == b"RCPT":
            self._recipients += 1
            replies.append(b"250 ok\r\n")
            while self._buffer.startswith(b"RCPT") and (end := self._buffer.find(b"\r\n")) > 0:
                self._buffer = self._buffer[end + 2 :]
                self._recipients += 1
                replies.append(b"250 ok\r\n")
        elif verb == b"DATA":
            replies.append(b"354 go\r\n")
            self._flush()
            self._read_data()
            self._take()
        elif verb == b"BDAT":
            words = line.split()
            self._skip(int(words[1]))
            if len(words) > 2:
                self._take()
            else:
                replies.append(b"250 ok\r\n")
        elif verb in (b"EHLO", b"LHLO"):
            replies.append(SERVICES % (b"STARTTLS" if self._context else b"DSN"))
        elif verb == b"STAR" and self._context:
            replies.append(b"220 go\r\n")
            self._flush()
            self._sock = self._context.wrap_socket(self._sock, server_side=True)
            self._context = None
        elif verb == b"AUTH":
            replies.append(b"235 ok\r\n")
        elif verb == b"VRFY":
            replies.append(b"250 %d\r\n" % sum(_CELL.unpack_from(self._board, 8 * cell)[0] for cell in range(WORKERS)))
        elif verb == b"QUIT":
            replies.append(b"221 bye\r\n")
            self._flush()
            return False
        else:
            if verb in (b"RSET", b"MAIL"):
                self._recipients = 0
            replies.append(b"250 ok\r\n")
        return True

    def _take(self) -> None:
        count = self._recipients if self._lmtp else 1
        self._replies.append(b"250 taken\r\n" * count)
        self._recipients = 0
        taken = _CELL.unpack_from(self._board, 8 * self._cell)[0]
        _CELL.pack_into(self._board, 8 * self._cell, taken + 1)

    def _flush(self) -> None:
        if self._replies:
            self._sock.sendall(b"".join(self._replies))
            self._replies.clear()

    def _read_data(self) -> None:
        """Up to the dot. What was read is let go but for the octets in which a terminator may have begun."""
        held = b"\r\n" + self._buffer
        while (end := held.find(b"\r\n.\r\n")) < 0:
            octets = self._sock.recv(RECEIVE)
            if not octets:
                raise ConnectionError
            held = held[-4:] + octets
        self._buffer = held[end + 5 :]

    def _skip(self, octets: int) -> None:
        missing = octets - len(self._buffer)
        self._buffer = self._buffer[octets:]
        while missing > 0:
            missing -= len(self._sock.recv(min(missing, RECEIVE))) or missing + 1


def work(listener: socket.socket, lmtp: bool, context: ssl.SSLContext | None, board: mmap.mmap, cell: int) -> None:
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            Dialogue(sock, lmtp, context, board, cell).serve()
        except (OSError, ValueError):
            pass  # a client that left without QUIT
        finally:
            sock.close()


def main(arguments: list[str]) -> None:
    lmtp = "lmtp" in arguments
    paths = [each for each in arguments if each != "lmtp"]
    context = None
    if paths:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*paths)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    board = mmap.mmap(-1, 8 * WORKERS)
    workers = []
    for cell in range(WORKERS):
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            work(listener, lmtp, context, board, cell)
        workers.append(pid)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until whoever started it closes the pipe, or is no more
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
