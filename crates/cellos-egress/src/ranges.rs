//! Addresses that a name may not resolve to unless the document names their network.
