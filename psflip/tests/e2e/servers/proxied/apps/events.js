// Server-sent events by Node: one after the other, or only as many as `/?count=N` requests.
'use strict'
const http = require('node:http')

http.createServer((request, response) => {
  const count = Number(new URL(request.url, 'http://app').searchParams.get('count') ?? Infinity)
  const name = `gen${process.env.PSFLIP_GENERATION}`
  let number = 0
  response.writeHead(200, { 'Content-Type': 'text/event-stream' })
  const timer = setInterval(() => {
    number += 1
    response.write(`data: ${name} ${number}\n\n`)
    if (number >= count) {
      clearInterval(timer)
      response.end()
    }
  }, 2)
  response.on('close', () => clearInterval(timer))
}).listen(process.env.PORT, '127.0.0.1')
