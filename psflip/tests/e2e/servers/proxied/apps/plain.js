// Node's HTTP server, as its manual starts it. SIGTERM ends the process at once.
'use strict'
const http = require('node:http')

http.createServer((request, response) => {
  let length = 0
  request.on('data', chunk => { length += chunk.length })
  request.on('end', () => {
    const echo = new URL(request.url, 'http://app').searchParams.get('echo') ?? ''
    const name = `gen${process.env.PSFLIP_GENERATION}`
    response.end(`name=${name} pid=${process.pid} body=${length} echo=${echo}\n`)
  })
}).listen(process.env.PORT, '127.0.0.1')
