//! One pair's data thread: sessions of the active and of the standby, the commit barrier.
