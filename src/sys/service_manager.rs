//! Telling the service manager that started us (sd_notify(3)): one datagram to `$NOTIFY_SOCKET`. Nothing happens without one.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket: a path, or an abstract name behind an `@`.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What the service was started for is there.
pub const READY: &str = "READY=1";

/// Sends a state such as `READY=1` or `STATUS=3 units run`. `Ok(false)`: nobody wants to know. With `NotifyAccess=all` any
/// process of the service may send. Never blocks: a manager that does not read is told nothing.
pub fn notify(state: &str) -> io::Result<bool> {
    match std::env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) {
        Some(name) => notify_at(name.as_bytes(), state).map(|()| true),
        None => Ok(false),
    }
}

fn notify_at(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_at_a_path_and_at_an_abstract_name() {
        let unique = format!("moored-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&unique);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&unique).unwrap()).unwrap();
        notify_at(path.as_os_str().as_bytes(), "READY=1").unwrap();
        notify_at(format!("@{unique}").as_bytes(), "READY=1").unwrap();
        std::fs::remove_file(&path).unwrap();
        for socket in [by_path, by_name] {
            let mut text = [0; 16];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1");
        }
        assert!(notify_at(path.as_os_str().as_bytes(), "READY=1").is_err());
    }
}
