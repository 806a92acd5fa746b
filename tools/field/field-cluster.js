// A rolling restart as every Node team writes it, for `cargo xtask field`: on SIGHUP the primary starts new workers one by
// one, and disconnects an old one when its successor listens.
'use strict';
const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  const count = 2;
  for (let i = 0; i < count; i += 1) cluster.fork();
  const replace = (old) => {
    const worker = old.shift();
    if (!worker) return;
    cluster.fork().once('listening', () => {
      worker.once('exit', () => replace(old));
      worker.process.kill('SIGTERM');
    });
  };
  process.on('SIGHUP', () => replace(Object.values(cluster.workers)));
  process.on('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
    cluster.on('exit', () => Object.keys(cluster.workers).length === 0 && process.exit(0));
  });
} else {
  const server = http.createServer((request, response) => response.end(`pid=${process.pid}\n`));
  server.listen(8080, '127.0.0.1');
  // Node's own way to end: answer what is under way, close idle connections, accept no more.
  process.on('SIGTERM', () => server.close(() => process.exit(0)));
}
