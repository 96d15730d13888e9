# lines_twisted.py - a peer of the benchmarks: each line sent back, on Twisted's default reactor.
from twisted.internet import protocol, reactor
from twisted.protocols import basic


class Lines(basic.LineReceiver):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line):
        self.sendLine(line)


port = reactor.listenTCP(
    0, protocol.Factory.forProtocol(Lines), backlog=4096, interface="127.0.0.1"
)
print("listening tcp:127.0.0.1:%d twisted" % port.getHost().port, flush=True)
reactor.run()
