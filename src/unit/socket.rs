//! `[[socket]]`: addresses at which somebody listens for the container, so that its clients do not notice that it is another one.
//!
//! The socket is made outside, in the host's network, whatever network the container has, and passed to its program as systemd passes
//! sockets (sd_listen_fds(3)): descriptors from 3 in the order of the text, LISTEN_FDS, LISTEN_FDNAMES, and LISTEN_PID, which is filled in when
//! the program is executed. The order is part of the meaning, and so is the name: a change of either takes another container.
//!
//! | address | the socket |
//! |---|---|
//! | `tcp://0.0.0.0:80`, `tcp://[::1]:80` | TCP at this literal address; `[::]` takes IPv4 too |
//! | `udp://0.0.0.0:53` | UDP at this literal address |
//! | `unix:///run/web.sock` | a stream socket at this path |
//! | `seqpacket:///run/web.sock` | one for packets in their order, with connections (systemd's `ListenSequentialPacket=`) |
//! | `unixgram:///run/log.sock` | one for datagrams |
//!
//! A path is open to every user (0666, as systemd's `SocketMode=`) unless `mode`, `user` and `group` say otherwise. Each option is of the addresses for
//! which it means something, and a mistake at others.
//!
//! Two sockets that the kernel would not have beside each other ([`Listen::excludes`]) are a mistake at the second one, in one unit and
//! across units.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::diagnostic::quote;
use super::walk::{Field, Table, Walk};
use super::{Unit, UnitName, config_file, path};

/// Sockets of one unit: all of them travel in one message to the keeper.
pub const SOCKETS_MAX: usize = 16;

/// Longest path of a unix socket, in bytes: `sun_path` less its NUL (unix(7)). A longer one nobody could connect to by its name.
const UNIX_PATH_MAX: usize = 107;

/// Most connections that wait: the kernel's number has 16 bits on the wire of older ones, and net.core.somaxconn bounds it further.
const BACKLOG_MAX: u64 = 65_535;

/// Longest name, as systemd has it.
const NAME_MAX: usize = 255;

/// One `[[socket]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where it listens.
    pub listen: Listen,
    /// What it is called in LISTEN_FDNAMES; `None`: as the unit.
    pub name: Option<String>,
    /// How it is made.
    pub options: SocketOptions,
}

/// How a socket is made; what is not said is at its default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// Connections that wait.
    pub backlog: Option<u32>,
    /// Permissions of a path.
    pub mode: Option<u32>,
    /// Whose a path is, by name or number of the host's.
    pub user: Option<String>,
    /// The same.
    pub group: Option<String>,
    /// Others may listen at the address too (SO_REUSEPORT).
    pub reuse_port: bool,
    /// The address need not be there yet (IP_FREEBIND).
    pub free_bind: bool,
}

/// An address to listen at; written as in a unit file, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A stream socket at this absolute path of the host's.
    Unix(String),
    /// UDP.
    Udp(SocketAddr),
    /// A socket for packets in their order at this path.
    Seqpacket(String),
    /// A socket for datagrams at this path.
    Unixgram(String),
}

/// Why a text is no address to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadListen {
    /// It has another form; perhaps with the form that was meant.
    #[error("not an address to listen at")]
    Form(Option<String>),
    /// What it names comes in a later version.
    #[error("\"{0}\" sockets are known but not built in this version")]
    Later(&'static str),
    /// A name in the place of a literal address.
    #[error("names are not looked up")]
    Host(String),
    /// Port 0, or none.
    #[error("a port from 1 to 65535 is expected")]
    Port,
    /// A path that is relative, leads upwards, or is a directory's.
    #[error("an absolute path without `..` is expected")]
    Path,
    /// Too long for the kernel.
    #[error("a path of at most {UNIX_PATH_MAX} bytes is expected")]
    Long,
}

/// Kinds of sockets that the design names and this version does not have.
const LATER: [&str; 2] = ["vsock", "fifo"];

impl Listen {
    /// Reads an address as a unit file has it.
    pub fn parse(text: &str) -> Result<Listen, BadListen> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(BadListen::Form(meant(text))) };
        match scheme {
            "tcp" => inet(rest, Listen::Tcp),
            "udp" => inet(rest, Listen::Udp),
            "unix" => unix(rest, Listen::Unix),
            "seqpacket" => unix(rest, Listen::Seqpacket),
            "unixgram" => unix(rest, Listen::Unixgram),
            "unixpacket" => Err(BadListen::Form(unix(rest, Listen::Seqpacket).ok().map(|listen| listen.to_string()))),
            _ => match LATER.into_iter().find(|later| *later == scheme) {
                Some(later) => Err(BadListen::Later(later)),
                None => Err(BadListen::Form(meant(rest))),
            },
        }
    }

    /// Whether the kernel refuses the one while the other listens (bind(2), EADDRINUSE).
    pub fn excludes(&self, other: &Listen) -> bool {
        match (self, other) {
            (Listen::Tcp(address), Listen::Tcp(other)) | (Listen::Udp(address), Listen::Udp(other)) => {
                let (one, two) = (plain(address.ip()), plain(other.ip()));
                let is_under = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
                address.port() == other.port() && (one == two || is_under(one, two) || is_under(two, one))
            }
            // Of whatever type: a path is one file.
            (_, _) => self.path().is_some() && self.path() == other.path(),
        }
    }

    /// The path that it is bound to, if it is.
    pub fn path(&self) -> Option<&str> {
        match self {
            Listen::Unix(path) | Listen::Seqpacket(path) | Listen::Unixgram(path) => Some(path),
            Listen::Tcp(_) | Listen::Udp(_) => None,
        }
    }

    /// Nobody connects to it: what is sent there comes.
    pub fn is_datagram(&self) -> bool {
        match self {
            Listen::Udp(_) | Listen::Unixgram(_) => true,
            Listen::Tcp(_) | Listen::Unix(_) | Listen::Seqpacket(_) => false,
        }
    }
}

/// An IPv4 address that is written as an IPv6 one is the same to the kernel.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn inet(rest: &str, kind: fn(SocketAddr) -> Listen) -> Result<Listen, BadListen> {
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(BadListen::Port) } else { Ok(kind(address)) };
    }
    let literal = |ip: IpAddr, port: &str| Some(kind(SocketAddr::new(ip, port.parse().ok()?)).to_string());
    let (host, port) = rest.rsplit_once(':').ok_or(BadListen::Port)?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(BadListen::Port);
    }
    Err(match host {
        "" | "*" => BadListen::Host(literal(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).unwrap_or_default()),
        "localhost" => BadListen::Host(literal(IpAddr::V4(Ipv4Addr::LOCALHOST), port).unwrap_or_default()),
        // IPv6 without its brackets.
        host => match host.parse::<IpAddr>() {
            Ok(ip) => BadListen::Form(literal(ip, port)),
            Err(_) => BadListen::Host(String::new()),
        },
    })
}

fn unix(rest: &str, kind: fn(String) -> Listen) -> Result<Listen, BadListen> {
    let tidy = path::inside(rest).map_err(|_| BadListen::Path)?;
    if tidy == "/" || rest.ends_with('/') {
        return Err(BadListen::Path);
    }
    if tidy.len() > UNIX_PATH_MAX { Err(BadListen::Long) } else { Ok(kind(tidy)) }
}

/// The address that somebody meant who wrote it without its scheme.
fn meant(text: &str) -> Option<String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.starts_with('/') {
        return unix(path, Listen::Unix).ok().map(|listen| listen.to_string());
    }
    let udp = text.strip_prefix("udp:");
    let kind = if udp.is_some() { Listen::Udp } else { Listen::Tcp };
    let address = udp.or(text.strip_prefix("tcp:")).unwrap_or(text);
    let address = if address.parse::<u16>().is_ok() { format!("0.0.0.0:{address}") } else { address.to_owned() };
    match inet(&address, kind) {
        Ok(listen) => Some(listen.to_string()),
        Err(BadListen::Host(meant) | BadListen::Form(Some(meant))) => Some(meant).filter(|meant| !meant.is_empty()),
        Err(_) => None,
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "tcp://{address}"),
            Listen::Udp(address) => write!(f, "udp://{address}"),
            Listen::Unix(path) => write!(f, "unix://{path}"),
            Listen::Seqpacket(path) => write!(f, "seqpacket://{path}"),
            Listen::Unixgram(path) => write!(f, "unixgram://{path}"),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = BadListen;

    fn try_from(text: String) -> Result<Listen, BadListen> {
        Listen::parse(&text)
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

/// What sd_listen_fds(3) looks for, but for LISTEN_PID; nothing for a unit without sockets.
pub fn environment(unit: &Unit) -> Vec<(&'static str, String)> {
    if unit.sockets.is_empty() {
        return Vec::new();
    }
    let declared = unit.declared();
    let names: Vec<&str> =
        unit.sockets.iter().map(|socket| socket.name.as_deref().unwrap_or(declared.as_str())).collect();
    vec![("LISTEN_FDS", unit.sockets.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))]
}

/// Who has which address: of two units that want the same one it is the first's.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    taken: Vec<(Listen, UnitName)>,
}

impl Claims {
    /// The first of a unit's sockets, by its place among them, that another unit has, and who that is. Without one all of them are its own.
    pub fn claim(&mut self, unit: &UnitName, sockets: &[Socket]) -> Result<(), (usize, UnitName)> {
        let taken =
            |socket: &Socket| self.taken.iter().find(|(other, by)| by != unit && other.excludes(&socket.listen));
        let first = sockets.iter().enumerate().find_map(|(n, socket)| Some((n, taken(socket)?.1.clone())));
        match first {
            Some(first) => Err(first),
            None => {
                self.taken.extend(sockets.iter().map(|socket| (socket.listen.clone(), unit.clone())));
                Ok(())
            }
        }
    }
}

/// What is said of a socket whose address another unit has.
pub fn taken_by(socket: &Socket, other: &UnitName) -> String {
    format!(
        "`socket.listen` \"{}\" is taken by the unit {other}, expected one that no other unit has",
        quote(&socket.listen.to_string())
    )
}

// --- the table ----------------------------------------------------------------------------------------------------

/// All `[[socket]]`, in the order of the text; their places are noted.
pub(crate) fn sockets(walk: &mut Walk, top: &Table) -> Vec<Socket> {
    let mut sockets: Vec<Socket> = Vec::new();
    for table in walk.tables(top, "socket") {
        let Some(field) = table.field("listen") else {
            // An unknown key was probably meant as the missing one, and has its own message.
            if table.is_regular() {
                walk.absent(&table.span, "[[socket]] without `listen`", Some("write listen = \"tcp://0.0.0.0:8080\""));
            }
            continue;
        };
        let name = table.field("name").and_then(|field| name(walk, &field));
        let listen = listen(walk, &field);
        let options = options(walk, &table, listen.as_ref());
        let Some(listen) = listen else { continue };
        if let Some(n) = sockets.iter().position(|other| other.listen.excludes(&listen)) {
            let first = walk.sockets_at.get(n).map_or(1, |at| walk.places.position(*at).line);
            let message = match sockets.get(n).filter(|other| other.listen != listen) {
                Some(other) => format!("`socket.listen` \"{listen}\" is within \"{}\" of line {first}", other.listen),
                None => {
                    format!("`socket.listen` \"{}\" is taken by the socket of line {first}", quote(&listen.to_string()))
                }
            };
            walk.error(&field.at(), message, Some("one socket for each address".to_owned()));
        }
        if sockets.len() == SOCKETS_MAX {
            walk.error(&table.span, format!("more than {SOCKETS_MAX} [[socket]]"), None);
            break;
        }
        walk.sockets_at.push(field.at().start);
        sockets.push(Socket { listen, name, options });
    }
    sockets
}

fn listen(walk: &mut Walk, field: &Field) -> Option<Listen> {
    const EXPECTED: &str = "an address like \"tcp://0.0.0.0:8080\" or \"unix:///run/web.sock\"";
    if let DeValue::Integer(port) = field.value.get_ref() {
        let port = port.as_str().parse::<u16>().ok().filter(|port| *port > 0);
        walk.mismatch(field, EXPECTED, port.map(|port| format!("write \"tcp://0.0.0.0:{port}\"")));
        return None;
    }
    let text = walk.text(field, EXPECTED)?;
    let bad = match Listen::parse(&text) {
        Ok(listen) => return Some(listen),
        Err(bad) => bad,
    };
    let did_you_mean = |meant: &String| format!("did you mean \"{}\"?", quote(meant));
    match &bad {
        BadListen::Form(meant) => walk.mismatch(field, EXPECTED, meant.as_ref().map(did_you_mean)),
        BadListen::Later(kind) => {
            let help = Some("tcp://, udp://, unix://, seqpacket:// and unixgram:// are".to_owned());
            walk.error(&field.at(), format!("`socket.listen` \"{kind}\" is known but not built in this version"), help);
        }
        BadListen::Host(meant) => {
            let help = if meant.is_empty() { "names are not looked up".to_owned() } else { did_you_mean(meant) };
            walk.mismatch(field, "a literal address like \"tcp://127.0.0.1:8080\"", Some(help));
        }
        BadListen::Port => walk.mismatch(field, "an address with a port from 1 to 65535", None),
        BadListen::Path => walk.mismatch(field, "an absolute path without `..`, like \"unix:///run/web.sock\"", None),
        BadListen::Long => walk.mismatch(field, &format!("a path of at most {UNIX_PATH_MAX} bytes"), None),
    }
    None
}

/// Those that are of no use at this address are mistakes.
fn options(walk: &mut Walk, table: &Table, listen: Option<&Listen>) -> SocketOptions {
    let options = SocketOptions {
        backlog: walk.integer(table.field("backlog"), 1..=BACKLOG_MAX).and_then(|n| u32::try_from(n).ok()),
        mode: table.field("mode").and_then(|field| config_file::mode(walk, &field, false)),
        user: table.field("user").and_then(|field| account(walk, &field)),
        group: table.field("group").and_then(|field| account(walk, &field)),
        reuse_port: walk.boolean(table.field("reuse_port")).unwrap_or(false),
        free_bind: walk.boolean(table.field("free_bind")).unwrap_or(false),
    };
    let Some(listen) = listen else { return options };
    let is_path = listen.path().is_some();
    for (key, is_of, of) in [
        ("backlog", !listen.is_datagram(), "sockets that are connected to"),
        ("mode", is_path, "sockets with a path"),
        ("user", is_path, "sockets with a path"),
        ("group", is_path, "sockets with a path"),
        ("reuse_port", !is_path, "tcp:// and udp://"),
        ("free_bind", !is_path, "tcp:// and udp://"),
    ] {
        if let Some(field) = table.field(key).filter(|_| !is_of) {
            let message =
                format!("`socket.{key}` means nothing for \"{}\", it is for {of}", quote(&listen.to_string()));
            walk.error(&field.key_span, message, Some("take it out".to_owned()));
        }
    }
    options
}

/// A user or group of the host's, by name or number.
fn account(walk: &mut Walk, field: &Field) -> Option<String> {
    const EXPECTED: &str = "a name of the host's, like \"www-data\", or a number in a string";
    let text = walk.text(field, EXPECTED)?;
    let is_fine = |byte: u8| byte.is_ascii_graphic() && byte != b':' && byte != b'/';
    if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(is_fine) {
        walk.mismatch(field, EXPECTED, None);
        return None;
    }
    Some(text)
}

/// As systemd's `FileDescriptorName=`: they stand in one variable, with colons between them.
fn name(walk: &mut Walk, field: &Field) -> Option<String> {
    let text = walk.text(field, "a name like \"http\"")?;
    let is_fine = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && byte != b':';
    if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(is_fine) {
        walk.mismatch(field, &format!("1 to {NAME_MAX} visible ASCII characters without `:`"), None);
        return None;
    }
    Some(text)
}
