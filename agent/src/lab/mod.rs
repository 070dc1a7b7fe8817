//! Two nodes on one machine, in namespaces.
