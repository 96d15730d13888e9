// echo_node.js - a peer of the benchmarks: an echo on Node's net module.
'use strict';
const net = require('net');

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  socket.on('drain', () => socket.resume());
  socket.on('data', (data) => {
    if (!socket.write(data)) {
      socket.pause();
    }
  });
});

process.on('SIGUSR2', () => global.gc && global.gc());
server.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => {
  console.log(`listening tcp:127.0.0.1:${server.address().port} node`);
});
