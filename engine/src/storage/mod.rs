//! Disk access of the data path behind one trait: io_uring, blocking and simulated twins.
