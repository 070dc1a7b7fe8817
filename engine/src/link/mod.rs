//! The data connection: pinned TLS, framing, priorities and pacing, compression, reconnects.
