# echo_twisted.py - a peer of the benchmarks: an echo on Twisted's default reactor.
import gc
import signal

from twisted.internet import protocol, reactor


class Echo(protocol.Protocol):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data):
        self.transport.write(data)


port = reactor.listenTCP(
    0, protocol.Factory.forProtocol(Echo), backlog=4096, interface="127.0.0.1"
)
signal.signal(signal.SIGUSR2, lambda *_: gc.collect())
print("listening tcp:127.0.0.1:%d twisted" % port.getHost().port, flush=True)
reactor.run()
