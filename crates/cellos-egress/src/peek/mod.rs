//! The first bytes of a connection, read without trusting them.
