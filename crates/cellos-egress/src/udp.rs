//! Datagrams of declared UDP rules.
