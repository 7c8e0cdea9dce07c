//! What a `[[socket]]` may say, and who may have which address.

use std::path::Path;

use super::UnitName;
use super::socket::*;
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
fn each_kind_of_socket_has_its_scheme() {
    let given = ["udp://[::]:53", "seqpacket:///run//p", "unixgram:///run/log", "tcp://[::]:53"];
    assert_eq!(
        listens(&given).unwrap(),
        ["udp://[::]:53", "seqpacket:///run/p", "unixgram:///run/log", "tcp://[::]:53"]
    );
    for (value, meant) in [
        ("unixpacket:///run/p", "did you mean \"seqpacket:///run/p\"?"),
        ("udp://*:53", "did you mean \"udp://[::]:53\"?"),
        ("udp:53", "did you mean \"udp://0.0.0.0:53\"?"),
    ] {
        let errors = listens(&[value]).unwrap_err();
        assert!(errors[0].ends_with(meant), "{errors:?}");
    }
    // A path is one file, whatever is behind it.
    assert!(listens(&["unix:///a", "unixgram:///a"]).unwrap_err()[0].contains("is within \"unix:///a\""));
}

#[test]
fn options_are_for_the_addresses_that_have_them() {
    let of = |listen: &str, options: &str| read(&format!("[[socket]]\nlisten = \"{listen}\"\n{options}\n"));
    let all = "backlog = 9\nmode = \"0600\"\nuser = \"www-data\"\ngroup = \"33\"";
    let found = of("seqpacket:///a", all).unwrap().remove(0).options;
    let expected = SocketOptions {
        backlog: Some(9),
        mode: Some(0o600),
        user: Some("www-data".to_owned()),
        group: Some("33".to_owned()),
        ..SocketOptions::default()
    };
    assert_eq!(found, expected);
    assert!(of("udp://1.2.3.4:5", "reuse_port = true\nfree_bind = true").is_ok());
    for (listen, options, expected) in [
        (
            "tcp://1.2.3.4:5",
            "mode = \"0600\"",
            "4:1 `socket.mode` means nothing for \"tcp://1.2.3.4:5\", it is for sockets with a path",
        ),
        ("udp://1.2.3.4:5", "backlog = 1", "4:1 `socket.backlog` means nothing for \"udp://1.2.3.4:5\""),
        ("unix:///a", "reuse_port = true", "4:1 `socket.reuse_port` means nothing for \"unix:///a\""),
        ("unix:///a", "backlog = 0", "4:11 `socket.backlog` is the integer 0"),
        ("unix:///a", "mode = 600", "4:8 `socket.mode` is the integer 600, expected permissions like \"0640\""),
        ("unix:///a", "user = \"a:b\"", "4:8 `socket.user` is the string \"a:b\", expected a name"),
        ("unix:///a", "accept = true", "4:1 unknown key `accept`, one program serves all that connect"),
    ] {
        let errors = of(listen, options).unwrap_err();
        // The text begins with the bundle's line and the table's.
        assert!(errors[0].contains(&format!(":{expected}")), "{errors:?}");
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
        listens(&["vsock://2:53"]).unwrap_err(),
        [
            "/u/web.toml:3:10 `socket.listen` \"vsock\" is known but not built in this version, tcp://, udp://, unix://, seqpacket:// and unixgram:// are"
        ]
    );
    assert_eq!(
        read("[[socket]]\nname = \"a:b\"\nlisten = \"unix:///a\"\n").unwrap_err(),
        ["/u/web.toml:3:8 `socket.name` is the string \"a:b\", expected 1 to 255 visible ASCII characters without `:`"]
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
