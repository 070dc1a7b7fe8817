//! The agent's socket: commit barrier and operator requests.
