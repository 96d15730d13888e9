# framing_twisted.py - a peer of the benchmarks: the receivers of Twisted, without a socket. Arguments:
# how many messages of each, then the cases; prints "case: nanoseconds of CPU for one".
import sys
import time

from twisted.protocols import basic

CHUNK = 65536


class Line(basic.LineReceiver):
    seen = 0

    def lineReceived(self, line):
        self.seen += 1


class LineOnly(basic.LineOnlyReceiver):
    seen = 0

    def lineReceived(self, line):
        self.seen += 1


class Netstring(basic.NetstringReceiver):
    seen = 0

    def stringReceived(self, string):
        self.seen += 1


class Int32(basic.Int32StringReceiver):
    seen = 0

    def stringReceived(self, string):
        self.seen += 1


class Transport:
    disconnecting = False

    def loseConnection(self):
        raise AssertionError("a receiver closed")


def line(size):
    return b"x" * size + b"\r\n"


def netstring(size):
    return b"%d:%s," % (size, b"x" * size)


def int32(size):
    return size.to_bytes(4, "big") + b"x" * size


CASES = {
    "line": (Line, line),
    "lineonly": (LineOnly, line),
    "netstring": (Netstring, netstring),
    "int32": (Int32, int32),
}


def feed(receiver, data, times):
    made = receiver()
    made.makeConnection(Transport())
    for _ in range(times):
        made.dataReceived(data)
    return made.seen


def measure(case, count):
    kind, size = case.split("-")
    receiver, frame = CASES[kind]
    message = frame(int(size))
    data = message * (CHUNK // len(message))
    times = max(1, count * len(message) // CHUNK)
    feed(receiver, data, max(1, times // 10))
    began = time.process_time()
    seen = feed(receiver, data, times)
    return (time.process_time() - began) / seen * 1e9


for name in sys.argv[2:]:
    print("%s: %.2f" % (name, measure(name, int(sys.argv[1]))), flush=True)
