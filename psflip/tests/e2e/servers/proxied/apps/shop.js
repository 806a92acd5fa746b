// A shop. `release.json`, beside this file, says what is wrong with a release: after that many orders, or as soon as that file
// exists, every second order is answered by 500, or crashes the process. The health check counts what the shop itself has noticed.
'use strict'
const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')

const release = JSON.parse(fs.readFileSync(path.join(__dirname, 'release.json'), 'utf8'))
let orders = 0
let failed = 0

const isBroken = () => orders > (release.failsAfter ?? Infinity) || (release.failsWith && fs.existsSync(release.failsWith))

function order() {
  orders += 1
  if (orders % 2 || !isBroken()) return 'ordered'
  if (release.crashes) process.nextTick(() => { throw new Error('no such column: currency') })
  failed += 1
  throw new Error('no such column: currency')
}

// A path of a Unix socket, or a number.
if (process.env.PORT.endsWith('.sock')) fs.rmSync(process.env.PORT, { force: true })

http.createServer((request, response) => {
  const answer = (status, text) => {
    response.statusCode = status
    response.end(`release=${release.name} ${text}\n`)
  }
  request.resume().on('end', () => {
    if (request.url === '/up') return answer(failed < 3 ? 200 : 503, `${failed} of ${orders} orders failed`)
    if (request.method === 'GET') return answer(200, 'a page')
    try {
      answer(200, order())
    } catch (error) {
      answer(500, error.message)
    }
  })
}).listen(process.env.PORT)
