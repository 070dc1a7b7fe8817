"""A shop on SQLite that says "ordered" only when the order is safe. POST / orders, GET / lists."""
import http.server, os, socket, sqlite3

# Lockstep tells the application where its database and the agent are. Without it the shop runs alone.
database = os.environ.get("LOCKSTEP_DATABASE_MAIN", "shop.db")
agent, pair = os.environ.get("LOCKSTEP_SOCKET"), os.environ.get("LOCKSTEP_PAIR")

db = sqlite3.connect(database, timeout=5)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS orders (item TEXT)")


def safe():
    """True once every commit so far is on the other node's disk too, or this node serves alone."""
    if agent is None:
        return True
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(agent)
        asked.sendall(f"WAIT {pair} main durable 5000\n".encode())
        return asked.makefile().readline().startswith(("OK ", "SOLO "))


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, " ".join(item for (item,) in db.execute("SELECT item FROM orders")))

    def do_POST(self):
        item = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with db:
            db.execute("INSERT INTO orders VALUES (?)", (item,))
        self.answer(*(200, "ordered") if safe() else (503, "not known to be safe: ask again"))

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write((text + "\n").encode())


http.server.HTTPServer(("", 8080), Shop).serve_forever()
