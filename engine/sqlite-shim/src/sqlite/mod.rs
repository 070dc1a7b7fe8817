//! The way in for programs whose SQLite can be reached: its own interface for file systems.

mod extension;
mod files;
mod preload;
mod types;
mod vfs;
