//! Integration tests of the qm workspace live in `it/`.
