import socket, sqlite3, sys
path, pair, name = sys.argv[1:4]  # database file, pair, database name
db = sqlite3.connect(path)
with db:
    db.execute("INSERT INTO orders (item) VALUES ('tea')")
agent = socket.socket(socket.AF_UNIX)
agent.connect("/run/lockstep/agent.sock" if len(sys.argv) < 5 else sys.argv[4])
agent.sendall(f"WAIT {pair} {name} durable 5000\n".encode())
answer = agent.makefile().readline().strip()
sys.exit(None if answer.startswith(("OK ", "SOLO ")) else answer or "no answer")
