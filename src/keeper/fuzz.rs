//! Any bytes as what comes to a keeper: a packet of its socket, a script, a message of a container's, the state of the program before.

use super::notify::Said;
use super::wire::{decode_message, decode_request, encode};
use super::{CHILD_HELD_MAX, ID_BYTES_MAX, TAG_BYTES_MAX, state};

/// The first byte says how many descriptors come with the rest.
pub(crate) fn packet(bytes: &[u8]) {
    let Some((fds, bytes)) = bytes.split_first() else { return };
    if let Ok(request) = decode_request(bytes, usize::from(*fds)) {
        let (_, id, tag) = request.subject();
        assert!(id.len() <= ID_BYTES_MAX && tag.len() <= TAG_BYTES_MAX, "{request:?}");
        let again = encode(&request).expect("a request is written");
        assert_eq!(decode_request(&again, usize::from(*fds)).as_ref(), Ok(&request));
    }
    if let Ok(message) = decode_message(bytes) {
        let again = encode(&message).expect("a message is written");
        assert_eq!(decode_message(&again).as_ref(), Ok(&message));
    }
    // A script and its slots; no descriptors come with it, so only a script without slots is whole.
    let _ = crate::runtime::decode(bytes, Vec::new());
    let mut said = Said::default();
    said.take(bytes, 1);
    let first = said.lines.clone();
    assert!(said.lines.iter().map(|line| line.text.len()).sum::<usize>() <= 4096, "{} lines", said.lines.len());
    // Told twice, it is the same.
    said.take(bytes, 1);
    assert_eq!(said.lines, first);
    state::fuzz(bytes);
    const { assert!(CHILD_HELD_MAX <= 32, "a bit for each") };
}
