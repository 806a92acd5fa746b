// A careful server for pm2's cluster mode, and for psflip's proxy; for `cargo xtask field`. It does all that pm2's manual asks for
// (`process.send('ready')`, a handler of SIGINT), and what keeps clients of idle connections from losing a request.
'use strict';
const http = require('node:http');
const net = require('node:net');

let ending = false;
const server = http.createServer((request, response) => {
  // After the stop signal, every answer is the last one on its connection.
  if (ending) response.setHeader('Connection', 'close');
  response.end(`pid=${process.pid}\n`);
});

const stop = () => {
  if (ending) return;
  ending = true;
  // Accepts no more, and keeps idle connections for a second: `server.close()` would close them at once.
  net.Server.prototype.close.call(server, () => process.exit(0));
  setTimeout(() => server.closeIdleConnections(), 1000);
};
process.on('SIGINT', stop); // pm2
process.on('SIGTERM', stop); // psflip

server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => process.send?.('ready'));
