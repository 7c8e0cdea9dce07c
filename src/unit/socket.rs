//! `[[socket]]`: addresses at which somebody listens for the container, so that its clients do not notice that it is another one.
//!
//! The socket is made outside, in the host's network, whatever network the container has, and passed to its program as systemd passes
//! sockets (sd_listen_fds(3)): descriptors from 3 in the order of the text, LISTEN_FDS, LISTEN_FDNAMES, and LISTEN_PID, which is filled in when
//! the program is executed. The order is part of the meaning, and so is the name: a change of either takes another container.
//!
//! | address | the socket |
//! |---|---|
//! | `tcp://0.0.0.0:80`, `tcp://[::1]:80` | TCP at this literal address; `[::]` takes IPv4 too |
//! | `unix:///run/web.sock` | a stream socket at this path, open to every user (0666, as systemd's `SocketMode=`) |
//!
//! Two sockets that the kernel would not have beside each other ([`Listen::excludes`]) are a mistake at the second one, in one unit and
//! across units.

use core::net::{IpAddr, SocketAddr};
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::diagnostic::quote;
use super::walk::{Field, Table, Walk};
use super::{Unit, UnitName, path};

/// Sockets of one unit: all of them travel in one message to the keeper.
pub const SOCKETS_MAX: usize = 16;

/// Longest path of a unix socket, in bytes: `sun_path` less its NUL (unix(7)). A longer one nobody could connect to by its name.
const UNIX_PATH_MAX: usize = 107;

/// Longest name, as systemd has it.
const NAME_MAX: usize = 255;

/// One `[[socket]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where it listens.
    pub listen: Listen,
    /// What it is called in LISTEN_FDNAMES; `None`: as the unit.
    pub name: Option<String>,
}

/// An address to listen at; written as in a unit file, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A stream socket at this absolute path of the host's.
    Unix(String),
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
const LATER: [&str; 5] = ["udp", "seqpacket", "unixgram", "vsock", "fifo"];

impl Listen {
    /// Reads an address as a unit file has it.
    pub fn parse(text: &str) -> Result<Listen, BadListen> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(BadListen::Form(meant(text))) };
        match scheme {
            "tcp" => tcp(rest),
            "unix" => unix(rest),
            _ => match LATER.into_iter().find(|later| *later == scheme) {
                Some(later) => Err(BadListen::Later(later)),
                None => Err(BadListen::Form(meant(rest))),
            },
        }
    }

    /// Whether the kernel refuses the one while the other listens (bind(2), EADDRINUSE).
    pub fn excludes(&self, other: &Listen) -> bool {
        match (self, other) {
            (Listen::Unix(path), Listen::Unix(other)) => path == other,
            (Listen::Tcp(address), Listen::Tcp(other)) => {
                let (one, two) = (plain(address.ip()), plain(other.ip()));
                let is_under = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
                address.port() == other.port() && (one == two || is_under(one, two) || is_under(two, one))
            }
            (Listen::Unix(_), Listen::Tcp(_)) | (Listen::Tcp(_), Listen::Unix(_)) => false,
        }
    }
}

/// An IPv4 address that is written as an IPv6 one is the same to the kernel.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn tcp(rest: &str) -> Result<Listen, BadListen> {
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(BadListen::Port) } else { Ok(Listen::Tcp(address)) };
    }
    let (host, port) = rest.rsplit_once(':').ok_or(BadListen::Port)?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(BadListen::Port);
    }
    Err(match host {
        "" | "*" => BadListen::Host(format!("tcp://[::]:{port}")),
        "localhost" => BadListen::Host(format!("tcp://127.0.0.1:{port}")),
        // IPv6 without its brackets.
        host if host.parse::<IpAddr>().is_ok() => BadListen::Form(Some(format!("tcp://[{host}]:{port}"))),
        _ => BadListen::Host(String::new()),
    })
}

fn unix(rest: &str) -> Result<Listen, BadListen> {
    let tidy = path::inside(rest).map_err(|_| BadListen::Path)?;
    if tidy == "/" || rest.ends_with('/') {
        return Err(BadListen::Path);
    }
    if tidy.len() > UNIX_PATH_MAX { Err(BadListen::Long) } else { Ok(Listen::Unix(tidy)) }
}

/// The address that somebody meant who wrote it without its scheme.
fn meant(text: &str) -> Option<String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.starts_with('/') {
        return unix(path).ok().map(|listen| listen.to_string());
    }
    let address = text.strip_prefix("tcp:").unwrap_or(text);
    let address = if address.parse::<u16>().is_ok() { format!("0.0.0.0:{address}") } else { address.to_owned() };
    match tcp(&address) {
        Ok(listen) => Some(listen.to_string()),
        Err(BadListen::Host(meant) | BadListen::Form(Some(meant))) => Some(meant).filter(|meant| !meant.is_empty()),
        Err(_) => None,
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "tcp://{address}"),
            Listen::Unix(path) => write!(f, "unix://{path}"),
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
    let names: Vec<&str> =
        unit.sockets.iter().map(|socket| socket.name.as_deref().unwrap_or(unit.name.as_str())).collect();
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
        let Some(listen) = listen(walk, &field) else { continue };
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
        sockets.push(Socket { listen, name });
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
            let help = Some("tcp:// and unix:// are".to_owned());
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::unit::{Layer, LayerKind, Names, parse, parse_layers};

    fn read(tables: &str) -> Result<Vec<Socket>, Vec<String>> {
        let text = format!("bundle = \"/srv/web\"\n{tables}");
        match parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), &text) {
            Ok(parsed) => Ok(parsed.unit.sockets),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    fn listens(addresses: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let tables: String = addresses.iter().map(|address| format!("[[socket]]\nlisten = \"{address}\"\n")).collect();
        read(&tables).map(|sockets| sockets.iter().map(|socket| socket.listen.to_string()).collect())
    }

    #[test]
    fn addresses_have_one_spelling_and_keep_their_order() {
        let given = ["unix:///run//%n.sock", "tcp://[0:0::1]:8080", "tcp://0.0.0.0:80", "unix:///a"];
        let expected = ["unix:///run/web.sock", "tcp://[::1]:8080", "tcp://0.0.0.0:80", "unix:///a"];
        assert_eq!(listens(&given).unwrap(), expected);
        for text in expected {
            let listen = Listen::parse(text).unwrap();
            assert_eq!(Listen::try_from(String::from(listen.clone())), Ok(listen));
        }
    }

    #[test]
    fn mistakes_say_what_was_meant() {
        const EXPECTED: &str = "expected an address like \"tcp://0.0.0.0:8080\" or \"unix:///run/web.sock\"";
        const LITERAL: &str = "expected a literal address like \"tcp://127.0.0.1:8080\"";
        for (value, expected) in [
            ("8080", format!("the integer 8080, {EXPECTED}, write \"tcp://0.0.0.0:8080\"")),
            ("\"8080\"", format!("the string \"8080\", {EXPECTED}, did you mean \"tcp://0.0.0.0:8080\"?")),
            ("\"[::1]:80\"", format!("the string \"[::1]:80\", {EXPECTED}, did you mean \"tcp://[::1]:80\"?")),
            ("\"/run/a\"", format!("the string \"/run/a\", {EXPECTED}, did you mean \"unix:///run/a\"?")),
            ("\"unix:/run/a\"", format!("the string \"unix:/run/a\", {EXPECTED}, did you mean \"unix:///run/a\"?")),
            (
                "\"http://1.2.3.4:5\"",
                format!("the string \"http://1.2.3.4:5\", {EXPECTED}, did you mean \"tcp://1.2.3.4:5\"?"),
            ),
            ("\"web\"", format!("the string \"web\", {EXPECTED}")),
            ("\"tcp://*:80\"", format!("the string \"tcp://*:80\", {LITERAL}, did you mean \"tcp://[::]:80\"?")),
            (
                "\"tcp://localhost:80\"",
                format!("the string \"tcp://localhost:80\", {LITERAL}, did you mean \"tcp://127.0.0.1:80\"?"),
            ),
            (
                "\"tcp://web.example:80\"",
                format!("the string \"tcp://web.example:80\", {LITERAL}, names are not looked up"),
            ),
            (
                "\"tcp://1.2.3.4:0\"",
                "the string \"tcp://1.2.3.4:0\", expected an address with a port from 1 to 65535".to_owned(),
            ),
            (
                "\"unix://run/a\"",
                "the string \"unix://run/a\", expected an absolute path without `..`, like \"unix:///run/web.sock\""
                    .to_owned(),
            ),
        ] {
            let errors = read(&format!("[[socket]]\nlisten = {value}\n")).unwrap_err();
            assert_eq!(errors, [format!("/u/web.toml:3:10 `socket.listen` is {expected}")]);
        }
        let long = format!("unix:///{}", "a".repeat(107));
        assert!(listens(&[&long]).unwrap_err()[0].ends_with("expected a path of at most 107 bytes"));
        assert_eq!(
            listens(&["udp://0.0.0.0:53"]).unwrap_err(),
            ["/u/web.toml:3:10 `socket.listen` \"udp\" is known but not built in this version, tcp:// and unix:// are"]
        );
        assert_eq!(
            read("[[socket]]\nname = \"a:b\"\nlisten = \"unix:///a\"\n").unwrap_err(),
            [
                "/u/web.toml:3:8 `socket.name` is the string \"a:b\", expected 1 to 255 visible ASCII characters without `:`"
            ]
        );
        assert_eq!(
            read("[[socket]]\nname = \"a\"\n").unwrap_err(),
            ["/u/web.toml:2:1 [[socket]] without `listen`, write listen = \"tcp://0.0.0.0:8080\""]
        );
        let many: Vec<String> = (0..=SOCKETS_MAX).map(|n| format!("unix:///{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(listens(&many).unwrap_err()[0].ends_with("more than 16 [[socket]]"));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_at_the_second() {
        assert_eq!(
            listens(&["unix:///a", "unix:///a"]).unwrap_err(),
            [
                "/u/web.toml:5:10 `socket.listen` \"unix:///a\" is taken by the socket of line 3, one socket for each address"
            ]
        );
        assert_eq!(
            listens(&["tcp://[::]:80", "tcp://127.0.0.1:80"]).unwrap_err(),
            [
                "/u/web.toml:5:10 `socket.listen` \"tcp://127.0.0.1:80\" is within \"tcp://[::]:80\" of line 3, one socket for each address"
            ]
        );
        for (one, other, excludes) in [
            ("tcp://0.0.0.0:80", "tcp://127.0.0.1:80", true),
            ("tcp://0.0.0.0:80", "tcp://[::1]:80", false),
            ("tcp://[::]:80", "tcp://0.0.0.0:80", true),
            ("tcp://[::]:80", "tcp://[::1]:80", true),
            ("tcp://[::ffff:1.2.3.4]:80", "tcp://1.2.3.4:80", true),
            ("tcp://1.2.3.4:80", "tcp://1.2.3.5:80", false),
            ("tcp://1.2.3.4:80", "tcp://1.2.3.4:81", false),
            ("unix:///a", "unix:///b", false),
            ("unix:///a", "tcp://1.2.3.4:80", false),
        ] {
            let (a, b) = (Listen::parse(one).unwrap(), Listen::parse(other).unwrap());
            assert_eq!((a.excludes(&b), b.excludes(&a)), (excludes, excludes), "{one} {other}");
        }
    }

    #[test]
    fn an_address_is_the_first_ones() {
        let unit = |name: &str, listen: &str| {
            let text = format!(
                "bundle = \"/srv/web\"\n[[socket]]\nlisten = \"unix:///own-{name}\"\n[[socket]]\nlisten = \"{listen}\"\n"
            );
            parse(&UnitName::new(name).unwrap(), Path::new("/u/web.toml"), &text).unwrap().unit
        };
        let mut claims = Claims::default();
        let mut claim = |name: &str, listen: &str| {
            let unit = unit(name, listen);
            claims.claim(&unit.name, &unit.sockets)
        };
        assert_eq!(claim("a", "tcp://0.0.0.0:80"), Ok(()));
        assert_eq!(claim("a", "tcp://0.0.0.0:80"), Ok(()), "again");
        assert_eq!(claim("b", "tcp://1.2.3.4:80"), Err((1, UnitName::new("a").unwrap())));
        assert_eq!(claim("b", "tcp://1.2.3.4:81"), Ok(()));
    }

    #[test]
    fn drop_ins_know_a_socket_by_its_address() {
        let layer = |kind, text| {
            let (file, base) = (Path::new("/u/web.toml"), Path::new("/u"));
            Layer { kind, file, base, text, is_template: false }
        };
        let main =
            "bundle = \"/b\"\n[[socket]]\nlisten = \"unix:///run/%n.sock\"\n[[socket]]\nlisten = \"tcp://[::1]:80\"\n";
        let name = UnitName::new("web").unwrap();
        let merged = |text| {
            let layers = [layer(LayerKind::Main, main), layer(LayerKind::DropIn, text)];
            let sockets = parse_layers(Names::of(&name), &layers).unwrap().unit.sockets;
            sockets.iter().map(|socket| format!("{} {:?}", socket.listen, socket.name)).collect::<Vec<_>>()
        };
        assert_eq!(
            merged(
                "[[socket]]\nlisten = \"unix:///run//web.sock\"\nname = \"a\"\n[[socket]]\nlisten = \"tcp://[::1]:81\"\n"
            ),
            ["unix:///run/web.sock Some(\"a\")", "tcp://[::1]:80 None", "tcp://[::1]:81 None"]
        );
        assert_eq!(merged("unset = [\"socket.tcp://[0::1]:80\"]\n"), ["unix:///run/web.sock None"]);
    }

    #[test]
    fn the_environment_is_that_of_sd_listen_fds() {
        let text = "bundle = \"/srv/web\"\n[[socket]]\nlisten = \"tcp://0.0.0.0:80\"\nname = \"http\"\n[[socket]]\nlisten = \"unix:///a\"\n";
        let unit = parse(&UnitName::new("web").unwrap(), Path::new("/u/web.toml"), text).unwrap().unit;
        let expected = vec![("LISTEN_FDS", "2".to_owned()), ("LISTEN_FDNAMES", "http:web".to_owned())];
        assert_eq!(environment(&unit), expected);
    }
}
