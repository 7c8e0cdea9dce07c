//! `init.toml`: what a machine needs before its units, when `moored` is its process 1.
//!
//! Everything has a default, and a file that is not valid is as one that is not there: a machine boots with the defaults and says loudly what
//! is wrong. What the host has (devices, interfaces) is not judged here.

use core::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, quote};
use super::layer::{Layer, LayerKind};
use super::specifier::Names;
use super::variable::Given;
use super::walk::{Field, Table, Walk, scalar};
use super::{UnitName, parse};
use crate::words::nearest;

/// Where process 1 looks for it.
pub const INIT_TOML: &str = "/etc/moored/init.toml";

/// How long the units' ordered stop may take in all, unless the file says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a device may take to appear.
const DEVICE_WAIT: Duration = Duration::from_secs(10);

/// A watchdog that is petted more often would wake an idle machine for nothing.
const WATCHDOG_MIN: Duration = Duration::from_secs(5);

/// The last known time, unless the file says otherwise.
const CLOCK: &str = "/var/lib/moored/clock";

/// So many boots may be bad, in a row, unless the file says otherwise, and at most.
const BOOTS: u32 = 3;
const BOOTS_MAX: u64 = 1000;

/// A boot is good when all units did well for this long, unless the file says otherwise; and at least.
const GOOD_AFTER: Duration = Duration::from_secs(120);
const GOOD_AFTER_MIN: Duration = Duration::from_secs(1);

/// Most tables of one kind, and most modules and options.
const LIST_MAX: usize = 256;

/// Keys by table; "" is the top level.
pub(super) const KEYS: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "host_name",
            "console",
            "shell",
            "modules",
            "stop_timeout",
            "watchdog",
            "clock",
            "boot_loop_guard",
            "root",
            "mount",
            "sysctl",
            "address",
        ],
    ),
    ("boot_loop_guard", &["boots", "good_after"]),
    ("root", &["read_only", "fsck"]),
    ("mount", &["source", "target", "type", "options", "fsck", "read_only", "wait"]),
    ("address", &["interface", "address", "gateway"]),
];

/// Words of others.
const SYNONYMS: [(&str, &str, &str); 12] = [
    ("", "hostname", "host_name"),
    ("", "mounts", "mount"),
    ("", "sysctls", "sysctl"),
    ("", "addresses", "address"),
    ("", "network", "address"),
    ("", "module", "modules"),
    ("mount", "what", "source"),
    ("mount", "device", "source"),
    ("mount", "where", "target"),
    ("mount", "fstype", "type"),
    ("address", "name", "interface"),
    ("address", "ip", "address"),
];

/// A valid `init.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitToml {
    /// `None`: what /etc/hostname says.
    pub host_name: Option<String>,
    /// Where messages and the shell go; `None`: /dev/console.
    pub console: Option<PathBuf>,
    /// Whether there is a shell on the console.
    pub shell: bool,
    /// Names for modprobe, or paths of modules.
    pub modules: Vec<String>,
    /// For the units' ordered stop in all, whatever they say themselves.
    pub stop_timeout: Duration,
    /// The hardware's watchdog.
    pub watchdog: Option<Duration>,
    /// The file whose time is the last known time; `None`: there is a clock.
    pub clock: Option<PathBuf>,
    /// What is done about boots that are not good.
    pub boot_guard: Option<BootGuard>,
    /// The root's mount; `None`: as the kernel was told.
    pub root_read_only: Option<bool>,
    /// Whether the root is checked before it becomes writable.
    pub root_fsck: bool,
    /// In the order in which they are made.
    pub mounts: Vec<HostMount>,
    /// Name and value.
    pub sysctls: Vec<(String, String)>,
    /// Of interfaces.
    pub addresses: Vec<HostAddress>,
}

impl Default for InitToml {
    fn default() -> Self {
        InitToml {
            host_name: None,
            console: None,
            shell: false,
            modules: Vec::new(),
            stop_timeout: STOP_TIMEOUT,
            watchdog: None,
            clock: Some(CLOCK.into()),
            boot_guard: None,
            root_read_only: None,
            root_fsck: false,
            mounts: Vec::new(),
            sysctls: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// `[boot_loop_guard]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootGuard {
    /// After so many bad boots in a row the last good set of units is started.
    pub boots: u32,
    /// All units have to do well for this long.
    pub good_after: Duration,
}

/// One `[[mount]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// A device, `LABEL=…`, `UUID=…`, or a word where the type takes none.
    pub source: String,
    /// Where.
    pub target: PathBuf,
    /// As mount(8) calls it.
    pub kind: String,
    /// As mount(8) takes them with `-o`, one each.
    pub options: Vec<String>,
    /// Whether it is checked first.
    pub fsck: bool,
    /// Whether nothing may be written to it.
    pub read_only: bool,
    /// How long its device may take to appear.
    pub wait: Duration,
}

/// One `[[address]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Which interface; it is brought up.
    pub interface: String,
    /// Its address, and the length of its network's prefix.
    pub address: (IpAddr, u8),
    /// The way to everywhere else.
    pub gateway: Option<IpAddr>,
}

/// Parses the `text` of `file`, or says all that is wrong with it, in the order of the text.
pub fn parse_init_toml(file: &Path, text: &str) -> Result<InitToml, Vec<Diagnostic>> {
    // Nothing here is a unit's: specifiers are not looked for.
    let Ok(name) = UnitName::new("init") else { return Ok(InitToml::default()) };
    let base = file.parent().unwrap_or(Path::new("/"));
    let layer = Layer { kind: LayerKind::Main, file, base, text, is_template: false };
    parse::with_document(Names::of(&name), &[layer], Given::Unread, |walk, document, syntax| {
        let found = whole(walk, document);
        match parse::mistakes(walk, syntax) {
            errors if errors.is_empty() => Ok(found),
            errors => Err(errors),
        }
    })
}

fn whole(walk: &mut Walk, document: &DeTable) -> InitToml {
    let top = checked(walk, Table { name: "", span: 0..0, map: document });
    let default = InitToml::default();
    let root = table(walk, &top, "root");
    let root = |key| root.as_ref().and_then(|root| root.field(key));
    InitToml {
        host_name: top.field("host_name").and_then(|field| host_name(walk, &field)),
        console: absolute(walk, top.field("console")),
        shell: walk.boolean(top.field("shell")).unwrap_or(false),
        modules: words(walk, top.field("modules")),
        stop_timeout: walk.duration(top.field("stop_timeout"), Duration::from_secs(1)).unwrap_or(default.stop_timeout),
        watchdog: walk.duration(top.field("watchdog"), WATCHDOG_MIN),
        clock: clock(walk, top.field("clock"), default.clock),
        boot_guard: table(walk, &top, "boot_loop_guard").map(|table| boot_guard(walk, &table)),
        root_read_only: walk.boolean(root("read_only")),
        root_fsck: walk.boolean(root("fsck")).unwrap_or(false),
        mounts: tables(walk, &top, "mount").iter().filter_map(|table| mount(walk, table)).collect(),
        sysctls: sysctls(walk, &top),
        addresses: tables(walk, &top, "address").iter().filter_map(|table| address(walk, table)).collect(),
    }
}

// --- tables -----------------------------------------------------------------------------------------------------------

fn keys(table: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
}

fn checked<'w>(walk: &mut Walk, table: Table<'w>) -> Table<'w> {
    for key in table.map.keys() {
        let word: &str = key.get_ref();
        if word.starts_with("x-") || keys(table.name).contains(&word) {
            continue;
        }
        let synonym = SYNONYMS.iter().find(|(at, other, _)| *at == table.name && *other == word).map(|found| found.2);
        let meant = synonym.or_else(|| nearest(word, keys(table.name).iter().copied()));
        let home = || KEYS.iter().find(|(_, keys)| keys.contains(&word)).map(|(at, _)| header(at));
        let help = match meant {
            Some(meant) => Some(format!("did you mean `{meant}`?")),
            None => home().map(|home| format!("it belongs to {home}")),
        };
        walk.error(&key.span(), format!("unknown key `{}`", quote(word)), help);
    }
    table
}

fn header(table: &str) -> String {
    match table {
        "" => "the top level, above the first [table]".to_owned(),
        "root" | "boot_loop_guard" => format!("[{table}]"),
        name => format!("[[{name}]]"),
    }
}

fn table<'w>(walk: &mut Walk, top: &Table<'w>, name: &'static str) -> Option<Table<'w>> {
    let field = top.field(name)?;
    match field.value.get_ref() {
        DeValue::Table(map) => Some(checked(walk, Table { name, span: field.key_span, map })),
        _ => {
            walk.mismatch(&field, "a table", Some(format!("write [{name}]")));
            None
        }
    }
}

fn tables<'w>(walk: &mut Walk, top: &Table<'w>, name: &'static str) -> Vec<Table<'w>> {
    let Some(field) = top.field(name) else { return Vec::new() };
    let help = Some(format!("write [[{name}]]"));
    let Some(items) = field.value.get_ref().as_array().filter(|items| items.len() <= LIST_MAX) else {
        walk.mismatch(&field, &format!("an array of at most {LIST_MAX} tables"), help);
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(map) => found.push(checked(walk, Table { name, span: item.span(), map })),
            _ => walk.mismatch(&Field { value: item, ..field.clone() }, "a table", help.clone()),
        }
    }
    found
}

/// A key that must be there.
fn needed<'w>(walk: &mut Walk, table: &Table<'w>, key: &str, help: &str) -> Option<Field<'w>> {
    let field = table.field(key);
    if field.is_none() {
        walk.absent(&table.span, &format!("no `{key}` in [[{}]]", table.name), Some(help));
    }
    field
}

fn boot_guard(walk: &mut Walk, table: &Table) -> BootGuard {
    let boots = walk.integer(table.field("boots"), 1..=BOOTS_MAX).and_then(|boots| u32::try_from(boots).ok());
    let good_after = walk.duration(table.field("good_after"), GOOD_AFTER_MIN);
    BootGuard { boots: boots.unwrap_or(BOOTS), good_after: good_after.unwrap_or(GOOD_AFTER) }
}

fn mount(walk: &mut Walk, table: &Table) -> Option<HostMount> {
    let source = needed(walk, table, "source", "write for example source = \"/dev/vda1\" or \"LABEL=data\"");
    let source = source.and_then(|field| word(walk, &field, "a device, LABEL=…, UUID=… or a name"));
    let target = needed(walk, table, "target", "write for example target = \"/var\"");
    let kind = needed(walk, table, "type", "write for example type = \"ext4\"");
    let kind = kind.and_then(|field| word(walk, &field, "a file system's type"));
    let (options, target) = (words(walk, table.field("options")), absolute(walk, target));
    let wait = walk.duration(table.field("wait"), Duration::ZERO);
    Some(HostMount {
        fsck: walk.boolean(table.field("fsck")).unwrap_or(false),
        read_only: walk.boolean(table.field("read_only")).unwrap_or(false),
        source: source?,
        target: target?,
        kind: kind?,
        options,
        wait: wait.unwrap_or(DEVICE_WAIT),
    })
}

fn address(walk: &mut Walk, table: &Table) -> Option<HostAddress> {
    const EXPECTED: &str = "an address with its prefix, like \"192.168.1.2/24\"";
    let interface = needed(walk, table, "interface", "write for example interface = \"eth0\"");
    let interface = interface.and_then(|field| {
        // IFNAMSIZ counts a NUL (netdevice(7)).
        let fits = |name: &str| !name.is_empty() && name.len() < 16 && !name.contains(['/', ' ', '\t', '\n']);
        let name = word(walk, &field, "an interface's name")?;
        if fits(&name) {
            return Some(name);
        }
        walk.mismatch(&field, "an interface's name of 1 to 15 bytes", None);
        None
    });
    let own = needed(walk, table, "address", "write for example address = \"192.168.1.2/24\"");
    let own = own.and_then(|field| {
        let text = word(walk, &field, EXPECTED)?;
        let parsed = with_prefix(&text);
        if parsed.is_none() {
            let help = text.parse::<IpAddr>().is_ok().then(|| format!("did you mean \"{text}/24\"?"));
            walk.mismatch(&field, EXPECTED, help);
        }
        parsed
    });
    let gateway = table.field("gateway").and_then(|field| {
        let text = word(walk, &field, "an address")?;
        let parsed = text.parse().ok();
        match (parsed, own) {
            (None, _) => walk.mismatch(&field, "an address like \"192.168.1.1\"", None),
            (Some(IpAddr::V4(_)), Some((IpAddr::V6(_), _))) | (Some(IpAddr::V6(_)), Some((IpAddr::V4(_), _))) => {
                walk.mismatch(&field, "an address of the same family as `address`", None);
            }
            (Some(_), _) => {}
        }
        parsed
    });
    Some(HostAddress { interface: interface?, address: own?, gateway })
}

fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= most).then_some((address, prefix))
}

fn sysctls(walk: &mut Walk, top: &Table) -> Vec<(String, String)> {
    let Some(field) = top.field("sysctl") else { return Vec::new() };
    let DeValue::Table(map) = field.value.get_ref() else {
        walk.mismatch(&field, "a table", Some("write [sysctl]".to_owned()));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, value) in map.iter() {
        let name: &str = key.get_ref();
        let field = Field { name: format!("sysctl.{}", quote(name)), key_span: key.span(), value };
        match value.get_ref() {
            DeValue::Table(_) => {
                walk.mismatch(
                    &field,
                    "a string or a number",
                    Some("quote the name: \"net.ipv4.ip_forward\" = 1".to_owned()),
                );
            }
            _ if !is_sysctl(name) => {
                walk.error(&key.span(), format!("`{}` is no sysctl's name", field.name), None);
            }
            _ => match scalar(value.get_ref()) {
                Some(number) => found.push((name.to_owned(), number)),
                None => found.extend(word(walk, &field, "a string or a number").map(|text| (name.to_owned(), text))),
            },
        }
    }
    found
}

/// What stays below /proc/sys when its dots are slashes.
fn is_sysctl(name: &str) -> bool {
    let parts = || name.split(['.', '/']);
    parts().count() > 1 && parts().all(|part| !part.is_empty()) && !name.contains(['\n', ' ', '\0'])
}

// --- values -----------------------------------------------------------------------------------------------------------

/// A string that is not empty.
fn word(walk: &mut Walk, field: &Field, expected: &str) -> Option<String> {
    let text = walk.word(field, expected)?;
    if text.is_empty() {
        walk.mismatch(field, expected, None);
        return None;
    }
    Some(text.to_owned())
}

fn words(walk: &mut Walk, field: Option<Field>) -> Vec<String> {
    let Some(field) = field else { return Vec::new() };
    let items = walk.items(&field).unwrap_or_default();
    let of = |n: usize| format!("{}[{n}]", field.name);
    let fields =
        items.iter().enumerate().map(|(n, value)| Field { name: of(n), key_span: field.key_span.clone(), value });
    fields.filter_map(|field| word(walk, &field, "a string")).collect()
}

fn absolute(walk: &mut Walk, field: Option<Field>) -> Option<PathBuf> {
    const EXPECTED: &str = "an absolute path without `..`";
    let field = field?;
    let text = word(walk, &field, EXPECTED)?;
    if text.starts_with('/') && !text.split('/').any(|part| part == "..") {
        return Some(text.into());
    }
    walk.mismatch(&field, EXPECTED, None);
    None
}

fn clock(walk: &mut Walk, field: Option<Field>, default: Option<PathBuf>) -> Option<PathBuf> {
    match field {
        None => default,
        Some(field) if field.value.get_ref().as_bool() == Some(false) => None,
        Some(field) => absolute(walk, Some(field)),
    }
}

/// What sethostname(2) and everybody who reads it take.
fn host_name(walk: &mut Walk, field: &Field) -> Option<String> {
    const EXPECTED: &str = "a host name of at most 64 letters, digits, dots and dashes";
    let text = word(walk, field, EXPECTED)?;
    if is_host_name(&text) {
        return Some(text);
    }
    walk.mismatch(field, EXPECTED, None);
    None
}

/// Whether a machine can be called this.
pub fn is_host_name(text: &str) -> bool {
    let fits = |part: &str| {
        let bytes = part.as_bytes();
        let plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        plain && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
    };
    text.len() <= 64 && text.split('.').all(fits)
}
