//! First copy, page-difference resync (standby's half) and quarantine.
