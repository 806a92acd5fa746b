// A small server, as an app would be: it listens on the port in PORT, and knows nothing of upgrades.
import { createServer } from "node:http";

createServer((request, response) => {
  response.end("hello\n");
}).listen(process.env.PORT, "127.0.0.1");
