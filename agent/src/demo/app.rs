//! The demonstration's application: a small HTTP service on SQLite that answers a write only when
//! it is safe.
//!
//! `POST /orders {"id", "item"}` commits, waits for Lockstep, then answers 200 with the position;
//! 503 means "not known to be safe: send it again", which is harmless because the client chose
//! the id. It is an ordinary program: what Lockstep needs of it are the three lines in `safe`.

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockstep_client::{Client, Mode};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// A standby that died is noticed and the pair is solo within this, in every profile but the slowest.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The application's own checkpoints and the agent's are over long before.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An item is a line of an order.
const MAX_ITEM_BYTES: usize = 64 * 1024;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT NOT NULL) WITHOUT ROWID;";

/// Where commits are made safe.
#[derive(Debug, Clone)]
pub struct Safety {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The pair.
    pub pair: String,
    /// The database's name.
    pub database: String,
}

struct App {
    connection: Mutex<Connection>,
    safety: Option<Safety>,
    /// Connections to the agent that nobody uses now: one for each request that waits at once.
    idle: Mutex<Vec<Client>>,
}

/// An order as sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Chosen by the client: sending it again changes nothing.
    pub(super) id: String,
    /// What is ordered.
    pub(super) item: String,
}

/// Why a request was not done.
enum Fault {
    Sqlite(rusqlite::Error),
    NotSafe(String),
    TooLong,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, sentence) = match self {
            Self::Sqlite(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Self::NotSafe(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence),
            Self::TooLong => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("an item has at most {MAX_ITEM_BYTES} bytes"))
            }
        };
        (status, Json(json!({ "error": sentence }))).into_response()
    }
}

impl App {
    fn open(database: &std::path::Path, safety: Option<Safety>) -> anyhow::Result<Self> {
        let connection = Connection::open(database)
            .and_then(|connection| {
                connection.busy_timeout(BUSY_TIMEOUT)?;
                connection.execute_batch(SCHEMA)?;
                Ok(connection)
            })
            .with_context(|| format!("{} cannot be opened", database.display()))?;
        Ok(Self { connection: Mutex::new(connection), safety, idle: Mutex::default() })
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Fault> {
        // A statement that panicked left no transaction open: rusqlite rolls back.
        Ok(work(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))?)
    }

    /// Commits the order, then waits until it is safe; other requests commit and wait meanwhile.
    fn order(&self, order: &Order) -> Result<String, Fault> {
        if order.item.len() > MAX_ITEM_BYTES || order.id.len() > MAX_ITEM_BYTES {
            return Err(Fault::TooLong);
        }
        self.with(|connection| {
            let insert = "INSERT INTO orders (id, item) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
            connection.prepare_cached(insert)?.execute([&order.id, &order.item])
        })?;
        self.safe()
    }

    /// Returns when everything committed before is safe.
    fn safe(&self) -> Result<String, Fault> {
        let Some(Safety { socket, pair, database }) = &self.safety else { return Ok("unprotected".into()) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let not_safe = |error: lockstep_client::WaitError| Fault::NotSafe(error.to_string());
        let mut client = idle.map_or_else(|| Client::connect(socket), Ok).map_err(not_safe)?;
        let acknowledged = client.wait(pair, database, Mode::Durable, WAIT_TIMEOUT).map_err(not_safe)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        Ok(acknowledged.to_string())
    }
}

/// Runs blocking work of a request on a thread where it may block.
async fn blocking<T: Send + 'static>(
    app: Arc<App>,
    work: impl FnOnce(&App) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|error| Err(Fault::NotSafe(format!("the request was given up: {error}"))))
}

async fn post_order(State(app): State<Arc<App>>, Json(order): Json<Order>) -> Result<Response, Fault> {
    let (id, position) =
        blocking(app, move |app| app.order(&order).map(|position| (order.id, position))).await?;
    Ok(Json(json!({ "id": id, "acknowledged": position })).into_response())
}

async fn get_order(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Fault> {
    let select = "SELECT item FROM orders WHERE id = ?1";
    let key = id.clone();
    let item: Option<String> = blocking(app, move |app| {
        app.with(|connection| {
            connection.prepare_cached(select)?.query_row([key], |row| row.get(0)).optional()
        })
    })
    .await?;
    Ok(match item {
        Some(item) => Json(Order { id, item }).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": "there is no such order" }))).into_response(),
    })
}

async fn get_count(State(app): State<Arc<App>>) -> Result<Response, Fault> {
    let count: i64 = blocking(app, |app| {
        app.with(|connection| connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)))
    })
    .await?;
    Ok(Json(json!({ "count": count })).into_response())
}

async fn get_health() -> &'static str {
    // Commits may wait for the standby; an application that waits is healthy.
    "ok\n"
}

/// Serves until SIGTERM or SIGINT; then requests in flight end without an answer, as in a power
/// loss, and their clients send them again.
pub(super) async fn serve(
    database: PathBuf,
    listen: SocketAddr,
    safety: Option<Safety>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let app = Arc::new(tokio::task::spawn_blocking(move || App::open(&database, safety)).await??);
    let routes = Router::new()
        .route("/orders", post(post_order))
        .route("/orders/{id}", get(get_order))
        .route("/count", get(get_count))
        .route("/health", get(get_health))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("{listen} cannot be listened on: is another program there?"))?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        ended = axum::serve(listener, routes).into_future() => ended.context("the web server ended"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
