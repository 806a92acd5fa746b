// An HTTP server of Node for node.toml, on an inherited socket; it ends without losing a request.
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
    // Once the end was asked for, every answer is the last one on its connection, and says so.
    if (ending) response.setHeader('Connection', 'close')
    response.setHeader('Content-Length', Buffer.byteLength(text))
    response.end(text)
  })
}

const server = http.createServer(answer)
// Idle connections stay for this long, so that clients who know of a keep-alive time don't use one that is about to be closed.
server.keepAliveTimeout = 5000
server.listen({ fd: 3 })

// The health check of psflip: a socket of this process alone. At the shared one the old server would answer.
const health = http.createServer((request, response) => response.end('up\n'))
fs.rmSync(process.env.HEALTH, { force: true })
health.listen(process.env.HEALTH)

process.on('SIGTERM', () => {
  ending = true
  health.close()
  // Accepts no more, and leaves the connections that there are. `server.close()` of Node 19 and later would also close those that
  // are idle, and so lose a request that is just on its way.
  net.Server.prototype.close.call(server, () => process.exit(0))
  setTimeout(() => server.closeIdleConnections(), Number(process.env.KEEP_IDLE_MS ?? 5000)).unref()
})
