// An HTTP server in Node for node.toml, on an inherited socket; it stops without losing a request.
'use strict'
const http = require('node:http')
const fs = require('node:fs')
const net = require('node:net')

const name = `gen${process.env.PSFLIP_GENERATION ?? 0}`
let ending = false

function answer(request, response) {
  let length = 0
  request.on('data', chunk => { length += chunk.length })
  request.on('end', () => {
    const echo = new URL(request.url, 'http://app').searchParams.get('echo') ?? ''
    const text = `name=${name} pid=${process.pid} body=${length} echo=${echo}\n`
    // After SIGTERM, every answer is the last one on its connection, and says so (Connection: close).
    if (ending) response.setHeader('Connection', 'close')
    response.setHeader('Content-Length', Buffer.byteLength(text))
    response.end(text)
  })
}

const server = http.createServer(answer)
// Idle connections stay open for this long, so that clients that know a keep-alive time don't use one that is about to be closed.
server.keepAliveTimeout = 5000
server.listen({ fd: 3 })

// For psflip's health check: a socket of this process only. On the shared one the old server might answer.
const health = http.createServer((request, response) => response.end('up\n'))
fs.rmSync(process.env.HEALTH, { force: true })
health.listen(process.env.HEALTH)

process.on('SIGTERM', () => {
  ending = true
  health.close()
  // Stops accepting, but keeps open connections. `server.close()` of Node 19 and later would also close idle ones, and so lose a
  // request that a client is just sending.
  net.Server.prototype.close.call(server, () => process.exit(0))
  setTimeout(() => server.closeIdleConnections(), Number(process.env.KEEP_IDLE_MS ?? 5000)).unref()
})
