//! Any bytes as a request on the control socket.

use super::protocol::{Hello, VERSION};
use super::server::parse_request;
use crate::fuzzing::assert_plain;

/// One line. What is taken is written and read as the same.
pub(crate) fn request(bytes: &[u8]) {
    match parse_request(bytes) {
        Err(message) => assert_plain(&message),
        Ok(request) => {
            let hello = Hello { version: VERSION, request };
            let line = serde_json::to_vec(&hello).expect("a request is written");
            assert!(!line.contains(&b'\n'), "a request is one line");
            assert_eq!(parse_request(&line), Ok(hello.request));
        }
    }
}
