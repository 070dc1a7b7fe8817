//! Waits until a commit is safe on both nodes: a small client for the agent's socket.
