// A client of HTTP/2 for the test: for each line `KEEP BODY ECHO` of its input, it sends one request and prints one line:
// `ok ANSWER`, or `failed CAUSE`. With KEEP 1 a connection is used until the server announces its end (GOAWAY).
'use strict'
const http2 = require('node:http2')
const readline = require('node:readline')

const REFUSED = http2.constants.NGHTTP2_REFUSED_STREAM
const leaving = new WeakSet() // sessions whose server announced their end
let session = null

function connect(url) {
  const opened = http2.connect(url)
  opened.on('error', () => {}) // its streams have the error, too
  opened.on('goaway', () => {
    leaving.add(opened)
    if (session === opened) session = null
  })
  opened.on('close', () => { if (session === opened) session = null })
  return opened
}

function ask(line, done) {
  const [keep, length, echo] = line.split(' ')
  const used = keep === '1' ? session ?? (session = connect(process.argv[2])) : connect(process.argv[2])
  let text = '', status = 0, trailer = '', failure = ''
  const headers = { ':method': Number(length) ? 'POST' : 'GET', ':path': `/?echo=${echo}` }
  const stream = used.request(headers, { endStream: !Number(length) })
  if (Number(length)) stream.end(Buffer.alloc(Number(length), 'x'))
  stream.setEncoding('utf8')
  stream.on('response', headers => { status = headers[':status'] })
  stream.on('trailers', headers => { trailer = headers['grpc-status'] })
  stream.on('data', chunk => { text += chunk })
  stream.on('error', error => { failure = `${error.code} ${error.message}` })
  stream.on('close', () => {
    if (keep !== '1') used.close()
    // Node queued the request, then read the server's GOAWAY, and so sent nothing. The request belongs on a new
    // connection (RFC 9113, section 8.7).
    if (stream.rstCode === REFUSED && leaving.has(used) && status === 0) return ask(line, done)
    const isRight = !failure && status === 200 && trailer === '0'
    done(isRight ? `ok ${text.trimEnd()}` : `failed status ${status}, trailer ${trailer}, code ${stream.rstCode}, ${failure}, ${text}`)
  })
}

readline.createInterface({ input: process.stdin }).on('line', line => ask(line, answer => console.log(answer)))
  .on('close', () => process.exit(0))
