//! The demonstration: two nodes on one machine, a real application, power pulled.
