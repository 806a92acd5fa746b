// Node's HTTP/2 server without TLS. Each answer ends with a trailer, as one of gRPC does.
'use strict'
const http2 = require('node:http2')

http2.createServer().on('stream', (stream, headers) => {
  let length = 0
  stream.on('error', () => {}) // the client is gone
  stream.on('data', chunk => { length += chunk.length })
  stream.on('end', () => {
    stream.respond({ ':status': 200 }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    const echo = headers[':path'].split('?echo=')[1] ?? ''
    stream.end(`name=gen${process.env.PSFLIP_GENERATION} pid=${process.pid} body=${length} echo=${echo}\n`)
  })
}).listen(process.env.PORT, '127.0.0.1')
