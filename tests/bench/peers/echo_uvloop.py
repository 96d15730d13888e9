# echo_uvloop.py - a peer of the benchmarks: an echo as an asyncio protocol on uvloop.
import asyncio
import gc
import signal
import socket

import uvloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.transport.write(data)


async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, gc.collect)
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print("listening tcp:127.0.0.1:%d uvloop" % port, flush=True)
    await server.serve_forever()


uvloop.install()
asyncio.run(main())
