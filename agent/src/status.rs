//! What `lockstep status` prints.
