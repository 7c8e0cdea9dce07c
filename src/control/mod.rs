//! The control socket: `RUN/control.sock`, 0600 in a 0700 directory, SO_PEERCRED checked on accept.
//!
//! A connection carries one request: the client sends one line of JSON ([`Request`]), with descriptors beside it for `exec`; the server
//! answers lines of JSON ([`Response`]) until it closes. What follows a request depends on it alone: one answer, or a stream that ends
//! when the client goes. The server never blocks on a client: replies are queued up to a bound and a client that does not read is cut off.

pub mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod protocol;
pub mod reply;
pub mod server;
pub mod socket;
#[cfg(test)]
pub(crate) mod testing;

pub use client::{CallError, Client, ConnectError};
pub use protocol::{Request, Response};
pub use reply::{ClientId, Reply};
pub use server::{Call, Peer, Post, Server};

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// A request line may be this long: `exec` carries arguments and an environment; nothing else comes near.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Descriptors beside one request: `exec` sends three. What comes beyond is closed unseen.
pub const MAX_REQUEST_FDS: usize = 8;
