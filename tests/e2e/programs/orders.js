// The demonstration's service as somebody else would write it: Node with better-sqlite3, which has SQLite
// built in and runs it with synchronous = NORMAL. It knows nothing of Lockstep and answers when COMMIT returns.
"use strict";
const http = require("http");
const Database = require("better-sqlite3");

const [path, port] = process.argv.slice(2);
const database = new Database(path, { timeout: 5000 });
database.pragma("journal_mode = WAL");
database.exec("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT NOT NULL) WITHOUT ROWID");
const insert = database.prepare("INSERT INTO orders (id, item) VALUES (?, ?) ON CONFLICT (id) DO NOTHING");
const count = database.prepare("SELECT count(*) AS count FROM orders");

function answer(response, status, value) {
  const body = JSON.stringify(value);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

http
  .createServer((request, response) => {
    if (request.method === "GET") {
      answer(response, 200, request.url === "/count" ? count.get() : "ok");
      return;
    }
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      try {
        const order = JSON.parse(Buffer.concat(chunks).toString());
        insert.run(order.id, order.item);
        answer(response, 200, { id: order.id, acknowledged: "committed" });
      } catch (error) {
        answer(response, 503, { error: String(error) });
      }
    });
  })
  .listen(Number(port), "0.0.0.0");
