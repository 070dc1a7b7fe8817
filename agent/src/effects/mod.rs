//! Action to world: one file per thing touched.
