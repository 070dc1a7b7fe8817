//! The only file that decides when to sync or rename, with the evidence for each choice.
