//! The control socket: `RUN/control.sock`, 0600 in a 0700 directory, SO_PEERCRED checked on accept.
//!
//! A connection carries one request: the client sends one line of JSON ([`Request`]), with descriptors beside it for `exec`; the server
//! answers lines of JSON ([`Response`]) until it closes. What follows a request depends on it alone: one answer, or a stream that ends
//! when the client goes. The server never blocks on a client: replies are queued up to a bound and a client that does not read is cut off.

pub mod protocol;

pub use protocol::{Request, Response};
