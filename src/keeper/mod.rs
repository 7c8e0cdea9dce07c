//! The parent of every container: wire format, the keeper's loop, the client side.
